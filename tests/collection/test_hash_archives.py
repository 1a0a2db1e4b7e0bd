import os
import shutil
from pathlib import Path

import pytest

from drhn_cli.codes.manifest import Shard
from drhn_cli.codes.reader import CodeFile
from drhn_cli.collection import sources as gather_module
from drhn_cli.collection import update as hash_module
from drhn_cli.collection.merge import merge_codes
from drhn_cli.collection.plan import HashOptions
from drhn_cli.collection.update import update_collection
from drhn_cli.errors import SourceError
from drhn_cli.images import find as find_module
from drhn_cli.network import encoder as encoders
from tests.archives import encoded, write_shards, write_tar
from tests.hearing import Hearing

COUNTS = ("added", "changed", "unchanged", "moved", "removed", "kept")


@pytest.fixture
def shards(photos):  # noqa: ARG001 - beside them
    """Three shards of four pictures each, beside ``photos``."""
    return write_shards(3, 4)


def counts(summary):
    return {name: getattr(summary, name) for name in COUNTS if getattr(summary, name)}


def stored():
    with CodeFile.open("codes.bin") as file:
        file.verify()
        return {entry.path.decode(): bytes(code) for entry, code in zip(file, file.codes, strict=True)}


def same_time(path, *, of):
    os.utime(path, ns=(0, of.st_mtime_ns))


def test_members_are_stored_below_their_archive_with_the_codes_of_loose_pictures(shards, update, tmp_path):
    assert counts(update(*shards)) == {"added": 12}
    with CodeFile.open("codes.bin") as file:
        assert file.root == str(tmp_path)
    packed = stored()
    assert list(packed) == [f"photos-{shard:03}.tar/{i:04}.png" for shard in range(3) for i in range(4)]
    for shard in shards:
        os.makedirs(f"loose/{shard}")
        shutil.unpack_archive(shard, f"loose/{shard}")
    os.remove("codes.bin")
    update("loose")
    assert stored() == packed
    assert len(set(packed.values())) > 6


def test_archives_folders_and_files_mix(shards, update):
    assert counts(update("photos/circle", shards[0], "photos/square/0000.png")) == {"added": 7}
    assert counts(update("photos", *shards)) == {"added": 13, "unchanged": 7}


def test_an_archive_that_changes_while_the_run_is_at_it_keeps_its_codes(shards, update):
    update(*shards)
    before = stored()
    os.utime(shards[0], ns=(0, 10**18))
    summary = update(*shards, progress=Hearing(begin={"hashing": lambda: os.utime(shards[0], ns=(0, 2 * 10**18))}))
    assert (counts(summary), len(summary.failures), summary.n_items) == ({"unchanged": 8, "kept": 4}, 4, 12)
    assert stored() == before
    assert counts(update(*shards)) == {"unchanged": 8, "changed": 4}


def test_an_archive_that_holds_nothing_any_more_keeps_its_codes(shards, update):
    update(*shards)
    Path(shards[0]).write_bytes(bytes(10240))
    summary = update(*shards)
    assert counts(summary) == {"unchanged": 8, "kept": 4}
    assert [failure.problem for failure in summary.failures] == [
        "an archive that holds nothing any more, so its codes are kept"
    ]
    with pytest.raises(SourceError, match="nothing was changed"):
        update(shards[0])
    assert counts(update(shards[1], exclude=["*.png"])) == {"removed": 4, "kept": 8}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFO")
@pytest.mark.parametrize("make", ["mkfifo", "mkdir"])
def test_an_archive_in_whose_place_something_else_is_keeps_its_codes(shards, update, make):
    update(*shards)
    os.remove(shards[0])
    getattr(os, make)(shards[0])
    assert counts(update(*shards)) == {"unchanged": 8, "kept": 4}


def test_an_archive_behind_a_link_keeps_its_codes_where_the_drive_is_not_there(shards, update):
    os.mkdir("drive")
    os.rename(shards[0], "drive/a.tar")
    os.symlink("../drive/a.tar", "photos/a.tar")
    assert counts(update("photos", "photos/a.tar")) == {"added": 12}
    os.rename("drive", "unplugged")
    assert counts(update("photos")) == {"unchanged": 8, "kept": 4}


def test_a_member_that_is_gone_is_missing_and_one_that_is_left_out_is_not(shards, update):
    update(*shards)
    write_tar(shards[0], [("0000.png", encoded("circle", 0)), ("0001.png", encoded("circle", 1))])
    counted = counts(update(*shards, exclude=["0001.png"], keep_missing=True))
    assert (counted["kept"], counted["removed"]) == (2, 3)


def test_a_member_is_no_source(shards, update):
    summary = update("photos", f"{shards[0]}/0000.png")
    assert "name the archive" in summary.failures[0].hint


def test_what_is_found_is_told_while_folders_and_archives_are_listed(shards, update):
    told = Hearing()
    update("photos", *shards, progress=told)
    assert told.steps_of("listing") == [0, 2, 4, 6, 8, 12, 16, 20]  # the folder, the four inside of it, the archives


def test_a_single_archive_has_its_folder_as_root(shards, update, tmp_path):
    update(shards[0])
    with CodeFile.open("codes.bin") as file:
        assert (file.root, file.path_bytes(0)) == (str(tmp_path), b"photos-000.tar/0000.png")


def test_an_unchanged_archive_is_not_decoded_again_nor_is_a_copy_of_it(shards, update, monkeypatch):
    update(*shards)
    monkeypatch.delattr(hash_module, "Encoder")
    before = os.stat("codes.bin").st_mtime_ns
    assert counts(update(*shards)) == {"unchanged": 12}
    assert os.stat("codes.bin").st_mtime_ns == before
    shutil.copy2(shards[0], "copy.tar")
    os.replace("copy.tar", shards[0])
    assert counts(update(*shards)) == {"unchanged": 12}


def test_a_touched_archive_is_hashed_again_and_no_other(shards, update):
    update(*shards)
    os.utime(shards[1], ns=(0, 10**18))
    assert counts(update(*shards)) == {"changed": 4, "unchanged": 8}


def test_members_that_have_changed_places_are_known_by_their_content(update, monkeypatch):
    pictures = [("a.png", encoded("circle", 1)), ("b.png", encoded("circle", 1))]
    path = write_tar("a.tar", pictures)
    update(path)
    status = os.stat(path)
    write_tar("a.tar", pictures[::-1])
    same_time("a.tar", of=status)
    monkeypatch.delattr(hash_module, "Encoder")
    assert counts(update(path)) == {"unchanged": 2}


def test_a_renamed_archive_takes_its_codes_along_but_a_hard_link_is_another(shards, update, monkeypatch):
    update(*shards)
    os.link(shards[0], "link.tar")
    assert counts(update("link.tar")) == {"added": 4, "kept": 12}
    monkeypatch.delattr(hash_module, "Encoder")
    os.remove("link.tar")
    os.rename(shards[1], "renamed.tar")
    assert counts(update(shards[0], "renamed.tar")) == {"moved": 4, "unchanged": 4, "kept": 8}


def test_a_member_that_is_gone_loses_its_code(update):
    write_tar("a.tar", [("a.png", encoded("circle", 1)), ("b.png", encoded("circle", 2))])
    update("a.tar")
    write_tar("a.tar", [("a.png", encoded("circle", 1))])
    assert counts(update("a.tar"))["removed"] == 1
    assert list(stored()) == ["a.tar/a.png"]


def test_members_are_kept_where_the_archive_is_gone_or_cut_short_or_not_named(shards, update):
    update(*shards)
    os.rename(shards[0], "elsewhere")
    with open(shards[1], "r+b") as stream:
        stream.truncate(3000)
    os.utime(shards[1], ns=(0, 10**18))
    summary = update(*shards)
    assert counts(summary) == {"changed": 1, "unchanged": 4, "kept": 7}
    assert [error.problem for error in summary.failures] == ["no such file or folder", "the archive is cut short"]
    # A folder is not searched for archives, so what they hold is unknown; but one that is gone is gone.
    assert counts(update(".")) == {"added": 8, "kept": 8, "removed": 4}


def test_archives_that_are_none_are_an_error_and_change_nothing(shards, update):
    update(*shards)
    before = Path("codes.bin").read_bytes()
    for shard in shards:
        shard.write_bytes(b"\x1f\x8b" + bytes(2000))
    with pytest.raises(SourceError, match=r"no source can be read: .*a compressed archive.*nothing was changed"):
        update(*shards)
    assert Path("codes.bin").read_bytes() == before


def test_members_that_are_no_pictures_are_counted_and_the_rest_is_hashed(update):
    good = encoded("circle", 1)
    write_tar(
        "a.tar", [("a.png", good), ("empty.png", b""), ("cut.png", good[:200]), ("../b.png", good), ("c.png", good)]
    )
    summary = update("a.tar")
    assert counts(summary) == {"added": 2}
    assert sorted(os.path.basename(os.fsdecode(error.path)) for error in summary.failures) == [
        "b.png",
        "cut.png",
        "empty.png",
    ]
    assert not os.path.exists("b.png")


def test_a_moved_root_keeps_the_codes_of_archives(shards, update, monkeypatch):
    update(*shards)
    monkeypatch.delattr(hash_module, "Encoder")
    os.makedirs("new")
    for shard in shards:
        shutil.copy2(shard, "new")
    moved = [f"new/{shard}" for shard in shards]
    assert counts(update(*moved, root="new")) == {"unchanged": 12}


def test_excludes_and_hidden_names_hold_in_archives(update):
    write_tar("a.tar", [(name, encoded("circle", 1)) for name in ("a.png", "t/b.png", ".c.png")])
    assert update("a.tar").n_items == 2
    assert update("a.tar", exclude=["t"]).n_items == 1
    assert update("a.tar", hidden=True).n_items == 3


@pytest.mark.parametrize("limit", [0, 13, 500])
@pytest.mark.usefixtures("photos")
def test_an_archive_is_in_one_part_and_read_for_no_other(weights_path, monkeypatch, limit):
    monkeypatch.setattr(encoders, "NUMPY_LIMIT", limit)
    monkeypatch.setattr(gather_module, "NUMPY_LIMIT", limit)
    sources = ["photos", *write_shards(8, 3)]

    def hash_part(number, count=3):
        shard = Shard(number=number, count=count) if count > 1 else None
        path = shard.path_of("codes.bin") if shard else "codes.bin"
        options = HashOptions(weights=str(weights_path), device="cpu", batch_size=4, shard=shard)
        return update_collection(sources, path, options), path

    assert hash_part(1, 1)[0].n_items == 32
    opened = []

    def find(path, **options):
        opened.append(path)
        return find_module.find_members(path, **options)

    monkeypatch.setattr(gather_module, "find_members", find)
    parts = [hash_part(number)[1] for number in (1, 2, 3)]
    merge_codes(parts, "merged.bin")
    assert Path("merged.bin").read_bytes() == Path("codes.bin").read_bytes()
    for part in parts:
        with CodeFile.open(part) as file:
            archives = [entry.path.split(b"/")[0] for entry in file if b".tar/" in entry.path]
            assert all(archives.count(archive) == 3 for archive in archives)
    if limit == 0:  # no part has to count the pictures of the others
        assert len(opened) == 8
