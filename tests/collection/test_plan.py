"""The plan of an update follows from values alone: no file is there in these tests."""

import numpy as np
import pytest

from drhn_cli.codes.entries import Entries
from drhn_cli.codes.manifest import Shard
from drhn_cli.collection.plan import Sources, Stored, plan_update
from drhn_cli.files import FileStamp
from drhn_cli.images.find import FindResult
from drhn_cli.images.source import ImageFile
from tests.networks import random_model


def stamp(number, inode=None):
    return FileStamp(size=number, mtime_ns=1000 + number, inode=number if inode is None else inode)


def stored(*numbers, root=b"/r", **settings):
    """What is stored of ``/r/1`` and so on, as they were then; row i has code i."""
    entries = Entries.from_stamps([b"/r/%d" % number for number in numbers], [stamp(number) for number in numbers])
    codes = np.arange(len(numbers), dtype=np.uint8)[:, np.newaxis]
    return Stored(root=root, codes=codes, entries=entries, model=random_model(), n_bits=8, **settings)


def sources(*files, roots=(b"/r",), missing=(), **settings):
    search = FindResult(roots=set(roots), missing=list(missing))
    return Sources(files=list(files), search=search, **{"folder": b"/r", "shard": None, **settings})


def found(name, number, **settings):
    return ImageFile(path=b"/r/" + name, stamp=stamp(number, **settings))


def plan(there, now, *, is_there=lambda _: False, stays=lambda _: False):
    return plan_update(there, now, is_there=is_there, stays=stays)


def test_each_picture_is_unchanged_moved_kept_removed_or_pending():
    files = [found(b"1", 1), found(b"2", 20), found(b"new", 99), found(b"renamed", 3)]
    result = plan(stored(1, 2, 3, 4, 5), sources(*files, missing={b"/r/5"}))
    assert result.unchanged == [(files[0], 0)]
    assert result.pending == [files[1], files[2]]
    assert result.outdated == {b"/r/2": 1}
    assert result.moved == [(files[3], 2)]
    assert result.removed == [3]
    assert result.kept == [4]


def test_the_codes_that_stay_have_the_paths_and_inodes_of_today():
    there = stored(1, 3, 5)
    codes, entries = plan(there, sources(found(b"1", 1, inode=7), found(b"x", 3), missing={b"/r/5"})).stored_part(there)
    assert codes[:, 0].tolist() == [0, 1, 2]
    assert [(entry.path, entry.stamp) for entry in entries] == [
        (b"/r/1", stamp(1, inode=7)),
        (b"/r/x", stamp(3)),
        (b"/r/5", stamp(5)),
    ]


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


def test_a_member_of_an_archive_is_known_by_its_place_not_by_the_inode_of_the_archive():
    archive = ImageFile(path=b"/r/a.tar", stamp=stamp(50))
    entries = Entries.from_stamps([b"/r/a.tar/x", b"/r/a.tar/y"], [stamp(1, 7 << 32 | 1), stamp(2, 8 << 32 | 1)])
    there = Stored(root=b"/r", codes=np.zeros((2, 1), np.uint8), entries=entries, model=random_model(), n_bits=8)
    copied = ImageFile(path=b"/r/a.tar/x", stamp=stamp(1, 7 << 32 | 2), archive=archive)
    elsewhere = ImageFile(path=b"/r/a.tar/y", stamp=stamp(2, 9 << 32 | 1), archive=archive)
    result = plan(there, sources(copied, elsewhere))
    assert (result.unchanged, result.pending) == ([(copied, 0)], [elsewhere])
