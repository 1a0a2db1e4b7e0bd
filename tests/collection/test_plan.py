"""The plan of an update follows from values alone: no file is there in these tests."""

from dataclasses import replace

import numpy as np
import pytest

from drhn_cli.codes.entries import CONTENT_DTYPE, NOT_READ, Entries
from drhn_cli.codes.manifest import Shard
from drhn_cli.collection.plan import Sources, Stored, plan_update
from drhn_cli.files import FileStamp
from drhn_cli.images.find import FindResult
from drhn_cli.images.source import ImageFile
from tests.networks import random_model


def stamp(number, inode=None, ctime_ns=5):
    return FileStamp(number, 1000 + number, number if inode is None else inode, ctime_ns)


def stored(*numbers, root=b"/r", unread=(), **settings):
    """What is stored of ``/r/1`` and so on, as they were then; row i has code i."""
    contents = np.full(len(numbers), NOT_READ, CONTENT_DTYPE)
    contents["digest"] = [bytes(16) if number in unread else bytes([number] * 16) for number in numbers]
    stamps = [stamp(number) for number in numbers]
    return Stored(
        root=root,
        codes=np.arange(len(numbers), dtype=np.uint8)[:, np.newaxis],
        copy_codes=np.zeros((len(numbers), 32), np.uint8),
        entries=Entries.from_stamps([b"/r/%d" % number for number in numbers], stamps, contents),
        model=random_model(),
        n_bits=8,
        **settings,
    )


def sources(*files, roots=(b"/r",), missing=(), **settings):
    search = FindResult(roots=set(roots), missing=list(missing))
    return Sources(
        files=list(files), search=search, n_images=len(files), **{"folder": b"/r", "shard": None, **settings}
    )


def found(name, number, **settings):
    return ImageFile(path=b"/r/" + name, stamp=stamp(number, **settings))


def plan(there, now, *, is_there=lambda _: False, stays=lambda _: False, **settings):
    return plan_update(there, now, is_there=is_there, stays=stays, **settings)


def test_each_picture_is_unchanged_moved_kept_removed_or_pending():
    files = [found(b"1", 1), found(b"2", 20), found(b"new", 99), found(b"renamed", 3)]
    result = plan(stored(1, 2, 3, 4, 5), sources(*files, missing={b"/r/5"}))
    assert result.unchanged == [(files[0], 0)]
    assert result.pending == [files[1], files[2]]
    assert result.outdated == {b"/r/2": 1}
    assert result.moved == [(files[3], 2)]
    assert result.removed == [3]
    assert result.kept == [4]


def test_the_codes_that_stay_have_the_paths_and_stamps_of_today():
    there = stored(1, 3, 5)
    files = [found(b"1", 1), found(b"x", 3)]
    files[0] = replace(files[0], stamp=files[0].stamp._replace(device=9))
    block = plan(there, sources(*files, missing={b"/r/5"})).stored_part(there)
    assert block.codes[:, 0].tolist() == [0, 1, 2]
    assert [(entry.path, entry.stamp) for entry in block.entries] == [
        (b"/r/1", stamp(1)._replace(device=9)),
        (b"/r/x", stamp(3)),
        (b"/r/5", stamp(5)),
    ]
    assert [entry.digest[0] for entry in block.entries] == [1, 3, 5]


@pytest.mark.parametrize("change", [{"inode": 7}, {"ctime_ns": 6}])
def test_where_only_inode_or_change_time_differ_the_digest_decides(change):
    there, file = stored(1), found(b"1", 1, **change)
    result = plan(there, sources(file))
    assert (result.pending, result.outdated, result.recognizable) == ([file], {b"/r/1": 0}, {b"/r/1"})
    assert result.known_digests(there) == {b"/r/1": bytes([1] * 16)}
    assert not result.unchanged


@pytest.mark.parametrize("change", [{"inode": 7}, {"ctime_ns": 6}])
def test_without_a_digest_such_a_picture_is_hashed_again(change):
    there, file = stored(1, unread=[1]), found(b"1", 1, **change)
    result = plan(there, sources(file))
    assert (result.pending, result.outdated, result.recognizable) == ([file], {b"/r/1": 0}, set())
    assert plan(there, sources(file), later=True).kept == [0]


def test_what_is_not_noted_of_an_unchanged_picture_is_read_now_or_later():
    there, files = stored(1, 2, unread=[2]), [found(b"1", 1), found(b"2", 2)]
    result = plan(there, sources(*files))
    assert (result.unchanged, result.pending, result.recognizable) == ([(files[0], 0)], [files[1]], {b"/r/2"})
    assert (result.n_unread(there), result.known_digests(there)) == (1, {})
    assert plan(there, sources(*files), later=True).unchanged == [(files[0], 0), (files[1], 1)]


@pytest.mark.parametrize(
    ("change", "missing", "recognizable"),
    [
        ({"ctime_ns": 6}, (), True),  # as after a rename
        ({"inode": 7}, (), True),  # as on a drive that was mounted again
        ({"ctime_ns": 6}, (b"/r/1",), True),
        ({"inode": 7}, (b"/r/1",), False),  # a copy, whose original may be on a drive that is away
    ],
)
def test_a_picture_that_may_have_moved_has_to_be_read(change, missing, recognizable):
    file = found(b"x", 1, **change)
    result = plan(stored(1), sources(file, missing=missing))
    assert result.pending == [file]
    assert result.recognizable == ({b"/r/x"} if recognizable else set())
    assert result.kept_if_other == ({0} if missing and recognizable else set())
    assert (result.removed, result.kept) == ([], [] if recognizable else [0])


def test_of_gone_pictures_of_one_size_and_time_the_one_of_the_same_name_may_have_moved():
    there = stored(1, 1, 1)
    paths = [b"/r/a/1.jpg", b"/r/a/2.jpg", b"/r/a/3.jpg"]
    there = replace(
        there, entries=Entries.from_stamps(paths, [stamp(1, inode=n) for n in (11, 12, 13)], there.entries.contents)
    )
    files = [found(b"b/" + name, 1, inode=inode) for name, inode in ((b"2.jpg", 22), (b"other", 11), (b"last", 20))]
    result = plan(there, sources(*files))
    assert result.outdated == {b"/r/b/2.jpg": 1, b"/r/b/last": 2}
    assert result.moved == [(files[1], 0)]


def test_a_picture_whose_old_path_is_still_there_has_not_moved():
    link = found(b"link", 1)
    result = plan(stored(1), sources(link, missing={b"/r"}), is_there=lambda path: path == b"/r/1")
    assert (result.moved, result.pending, result.kept) == ([], [link], [0])


def test_an_unknown_inode_recognizes_nothing():
    there = stored(1)
    there.entries.stamps["inode"] = 0
    renamed = found(b"renamed", 1, inode=0)
    assert plan(there, sources(renamed)).pending == [renamed]


def test_one_stored_picture_moves_to_one_place_only():
    first, second = found(b"a", 1), found(b"b", 1)
    result = plan(stored(1), sources(first, second))
    assert (result.moved, result.pending) == ([(first, 0)], [second])


def test_what_is_gone_stays_where_that_is_asked_for():
    assert plan(stored(1, 2), sources(), stays=lambda path: path == b"/r/2").kept == [1]


@pytest.mark.parametrize(("settings", "root"), [({}, b"/"), ({"is_new": True}, b"/s/t")])
def test_the_root_holds_what_is_stored_and_what_there_is(settings, root):
    there = stored(*([] if settings else [1]), **settings)
    assert plan(there, sources(roots=[b"/s/t"], folder=b"/s/t")).root == root


def test_shards_that_hold_nothing_yet_keep_their_root():
    nothing = sources(roots=[b"/r/s"], folder=b"/r/s", shard=Shard(number=1, count=2))
    assert plan(stored(), nothing).root == b"/r"
    assert plan(stored(), sources(folder=b"/r/s")).root == b"/r/s"
