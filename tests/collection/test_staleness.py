"""Which pictures a later run reads, decodes and hashes again, and what a code file of an older version gets."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from drhn_cli.codes.manifest import CopyCodes, LastRun
from drhn_cli.codes.reader import CodeFile
from drhn_cli.collection import update as update_module
from drhn_cli.collection.update import COPY_CODES
from drhn_cli.errors import ImageError
from drhn_cli.images import load as load_module
from drhn_cli.images.source import ImageFile, digest_of
from drhn_cli.network.copy_code import dct_signs
from tests.archives import write_tar
from tests.drawing import draw_picture
from tests.hearing import Hearing
from tests.old_files import make_version_1

COUNTS = ("added", "changed", "unchanged", "moved", "removed", "kept")
TIME_NS = 15 * 10**17


def counts(summary):
    return {name: getattr(summary, name) for name in COUNTS if getattr(summary, name)}


def entries():
    """Return path -> entry, code and copy code."""
    with CodeFile.open("codes.bin") as file:
        file.verify()
        rows = zip(file, file.codes, file.copy_codes, strict=True)
        return {entry.path.decode(): (entry, bytes(code), bytes(copy_code)) for entry, code, copy_code in rows}


def codes():
    return {path: code for path, (_, code, _) in entries().items()}


def write_bmp(path, seed):
    """Write a picture whose size and time are those of all others."""
    draw_picture("circle", seed, 16).save(path, "BMP")
    os.utime(path, ns=(0, TIME_NS))


def wait_for_the_clock():
    """Wait until the file system notes another change time."""
    time.sleep(0.02)


@pytest.fixture
def frames(update):
    """Four pictures of equal size and time in ``frames``, hashed."""
    os.mkdir("frames")
    for number in range(4):
        write_bmp(f"frames/{number}.bmp", number)
    update("frames")
    wait_for_the_clock()
    return Path("frames")


@pytest.fixture
def no_decoder(frames, monkeypatch):  # noqa: ARG001 - after these were hashed
    """Nothing can be decoded or encoded any more."""
    monkeypatch.setattr(load_module, "decode_reduced", None)
    monkeypatch.delattr(update_module, "Encoder")


def test_what_is_noted_of_a_picture(photos, update):
    update("photos")
    for path, (entry, _, copy_code) in entries().items():
        file = photos / path
        status = file.stat()
        assert entry.stamp == (status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns, status.st_dev)
        assert entry.digest == digest_of(file.read_bytes())
        assert (entry.width, entry.height, entry.taken_ns) == (16, 16, None)
        enlarged = np.asarray(draw_picture(path.split("/")[0], 0, 16).resize((64, 64), 0))
        assert (copy_code == bytes(dct_signs(enlarged))) == path.endswith("0000.png")
    with CodeFile.open("codes.bin") as file:
        assert file.manifest.copy_codes == COPY_CODES == CopyCodes(dct=1)


def test_frames_that_were_renumbered_get_the_codes_of_their_content(frames, update):
    before = codes()
    for old, new in (("3", "x"), ("2", "3"), ("1", "2"), ("0", "1"), ("x", "0")):
        (frames / f"{old}.bmp").rename(frames / f"{new}.bmp")
    assert counts(update("frames")) == {"changed": 4}
    assert codes() == {f"{new}.bmp": before[f"{old}.bmp"] for old, new in ((0, 1), (1, 2), (2, 3), (3, 0))}


@pytest.mark.parametrize("in_place", [False, True])
def test_a_picture_that_was_replaced_with_its_time_kept_is_hashed_again(frames, update, in_place):
    write_bmp("other.bmp", 9)
    if in_place:
        (frames / "1.bmp").write_bytes(Path("other.bmp").read_bytes())
        os.utime(frames / "1.bmp", ns=(0, TIME_NS))
    else:
        os.replace("other.bmp", frames / "1.bmp")
    before = codes()
    assert counts(update("frames")) == {"changed": 1, "unchanged": 3}
    after = codes()
    assert {path for path in after if after[path] != before[path]} == {"1.bmp"}
    assert counts(update("frames")) == {"unchanged": 4}


@pytest.mark.usefixtures("no_decoder")
def test_a_drive_whose_inodes_change_at_every_mount_is_read_once_and_not_decoded(frames, update, monkeypatch):
    before = entries()
    shutil.copytree(frames, "mounted")
    shutil.rmtree(frames)
    os.rename("mounted", frames)
    told = Hearing()
    assert counts(update("frames", progress=told)) == {"unchanged": 4}
    assert told.phases[-1] == ("hashing", 4)
    after = entries()
    assert {path: row[1:] for path, row in after.items()} == {path: row[1:] for path, row in before.items()}
    assert all(after[path][0].stamp.inode == os.stat(frames / path).st_ino for path in after)
    monkeypatch.setattr(update_module, "load_files", None)
    assert counts(update("frames")) == {"unchanged": 4}


def test_another_number_of_the_device_is_noted_without_reading(frames, update, monkeypatch):
    with CodeFile.open("codes.bin") as file:
        block = next(file.blocks())
        block.entries.stamps["device"] += 1
        update_module.write_code_file("codes.bin", block.codes, block.entries, file.manifest, block.copy_codes)
    monkeypatch.setattr(update_module, "load_files", None)
    assert counts(update("frames")) == {"unchanged": 4}
    assert {entry.stamp.device for entry, *_ in entries().values()} == {os.stat(frames).st_dev}


@pytest.mark.usefixtures("no_decoder")
def test_a_copy_whose_original_is_gone_has_moved(frames, update):
    before = codes()
    os.mkdir(frames / "sub")
    for number in range(4):  # all of one size and time, so the names tell which may be which
        shutil.copy2(frames / f"{number}.bmp", frames / f"sub/{number}.bmp")
        os.remove(frames / f"{number}.bmp")
    assert counts(update("frames")) == {"moved": 4}
    assert codes() == {f"sub/{path}": code for path, code in before.items()}


@pytest.mark.parametrize("keep_missing", [False, True])
def test_a_new_picture_of_the_size_and_time_of_a_gone_one_is_hashed(frames, update, keep_missing):
    os.remove(frames / "1.bmp")
    write_bmp(frames / "new.bmp", 9)
    expected = {"kept": 1} if keep_missing else {"removed": 1}
    assert counts(update("frames", keep_missing=keep_missing)) == {"added": 1, "unchanged": 3, **expected}
    assert ("1.bmp" in codes()) == keep_missing
    assert codes()["new.bmp"] not in [code for path, code in codes().items() if path != "new.bmp"]


def test_a_picture_that_was_moved_out_of_a_folder_that_is_no_source_takes_its_code_along(update):
    os.mkdir("away")
    write_bmp("photos/a.bmp", 1)
    update("photos", "away")
    os.rename("photos/a.bmp", "away/a.bmp")
    assert counts(update("away")) == {"moved": 1, "kept": 8}


def test_an_archive_that_was_built_again_with_its_time_is_compared_by_content(update):
    pictures = {}
    for number in range(3):
        write_bmp("x.bmp", number)
        pictures[f"{number}.bmp"] = Path("x.bmp").read_bytes()
    write_tar("a.tar", list(pictures.items()))
    os.utime("a.tar", ns=(0, TIME_NS))
    update("a.tar")
    before = codes()
    pictures["1.bmp"] = pictures["2.bmp"]
    write_tar("a.tar", list(pictures.items()))
    os.utime("a.tar", ns=(0, TIME_NS))
    assert counts(update("a.tar")) == {"changed": 1, "unchanged": 2}
    assert codes() == before | {"a.tar/1.bmp": before["a.tar/2.bmp"]}


@pytest.mark.usefixtures("frames")
def test_what_one_picture_raises_is_a_failure_that_names_it_and_ends_no_run(update, monkeypatch):
    def odd(file, **settings):
        if file.path.endswith(b"1.bmp"):
            raise BufferError("an export exists")
        return decode(file, **settings)

    decode = load_module.decode_reduced
    monkeypatch.setattr(load_module, "decode_reduced", odd)
    summary = update("frames", rebuild=True)
    assert counts(summary) == {"added": 3}
    (failure,) = summary.failures
    assert (failure.path, "BufferError: an export exists" in str(failure)) == (os.path.abspath(b"frames/1.bmp"), True)


def test_a_picture_that_cannot_be_read_to_be_compared_keeps_its_code(frames, update, monkeypatch):
    def refuse(_):
        raise ImageError("may not be read")

    before = codes()
    os.chmod(frames / "1.bmp", 0o600)  # another change time
    monkeypatch.setattr(ImageFile, "read", refuse)
    summary = update("frames")
    assert (counts(summary), len(summary.failures)) == ({"kept": 1, "unchanged": 3}, 1)
    assert codes() == before


def test_a_damaged_picture_in_the_place_of_one_loses_its_code(frames, update):
    content = (frames / "1.bmp").read_bytes()
    (frames / "1.bmp").write_bytes(b"xx" + content[2:])
    os.utime(frames / "1.bmp", ns=(0, TIME_NS))
    summary = update("frames")
    assert (counts(summary), len(summary.failures)) == ({"removed": 1, "unchanged": 3}, 1)


# Code files of older versions


@pytest.mark.usefixtures("frames")
def test_an_older_file_says_what_has_to_be_read_and_the_codes_stay(update, monkeypatch):
    before = entries()
    make_version_1("codes.bin")
    monkeypatch.delattr(update_module, "Encoder")
    told = Hearing()
    assert counts(update("frames", progress=told)) == {"unchanged": 4}
    (note,) = told.notes
    assert note.startswith("codes.bin: 4 pictures have to be read again, because the file is of an older version")
    assert entries() == before
    monkeypatch.setattr(update_module, "load_files", None)
    assert counts(update("frames", progress=told)) == {"unchanged": 4}
    assert len(told.notes) == 1


@pytest.mark.usefixtures("frames")
def test_later_leaves_an_older_file_as_it_is(update):
    make_version_1("codes.bin")
    old = Path("codes.bin").read_bytes()
    told = Hearing()
    assert counts(update("frames", later=True, progress=told)) == {"unchanged": 4}
    assert (Path("codes.bin").read_bytes(), told.notes) == (old, [])
    os.mkdir("more")
    write_bmp("more/new.bmp", 8)
    assert counts(update("more", later=True)) == {"added": 1, "kept": 4}
    rows = entries()
    assert [path for path, (entry, *_) in rows.items() if entry.digest] == ["more/new.bmp"]
    assert [any(copy_code) for *_, copy_code in rows.values()] == [False] * 4 + [True]
    assert counts(update("frames", "more")) == {"unchanged": 5}
    assert all(entry.digest for entry, *_ in entries().values())


@pytest.mark.usefixtures("frames")
def test_a_picture_of_an_older_file_that_cannot_be_decoded_any_more_keeps_its_code(update, monkeypatch):
    make_version_1("codes.bin")
    before = codes()

    def broken(*_, **__):
        raise ImageError("damaged")

    monkeypatch.setattr(load_module, "decode_reduced", broken)
    summary = update("frames")
    assert (counts(summary), len(summary.failures)) == ({"kept": 4}, 4)
    assert codes() == before


def test_an_older_entry_of_another_inode_is_hashed_again(frames, update):
    make_version_1("codes.bin")
    shutil.copy2(frames / "1.bmp", "copy.bmp")
    os.replace("copy.bmp", frames / "1.bmp")
    assert counts(update("frames", later=True)) == {"kept": 1, "unchanged": 3}
    assert counts(update("frames")) == {"changed": 1, "unchanged": 3}


@pytest.mark.usefixtures("frames")
def test_copy_codes_of_another_version_are_made_again(update):
    before = entries()
    with CodeFile.open("codes.bin") as file:
        block = next(file.blocks())
        other = update_module.replace(file.manifest, copy_codes=CopyCodes(dct=7, head="a" * 64))
        update_module.write_code_file("codes.bin", block.codes, block.entries, other, np.ones((4, 64), np.uint8))
    assert counts(update("frames")) == {"unchanged": 4}
    assert entries() == before


# What the file notes of the run


def last_run():
    with CodeFile.open("codes.bin") as file:
        return file.manifest.last_run


def test_sources_and_options_are_noted(frames, update):
    sources = [os.path.abspath("frames")]
    nothing = {"exclude": [], "hidden": False, "follow": False, "keep_missing": False, "max_pixels": None}
    assert last_run() == LastRun(sources=sources, options=nothing)
    update("frames", hidden=True, exclude=("*.gif",))
    assert last_run() == LastRun(sources=sources, options=nothing | {"hidden": True, "exclude": ["*.gif"]})
    update("frames", "nowhere")  # which is away
    assert last_run().sources == sources
    update("frames", *(frames / f"{number % 4}.bmp" for number in range(1000)))
    assert last_run().sources is None
