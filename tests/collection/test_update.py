import contextlib
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from drhn_cli.codes.manifest import Shard
from drhn_cli.codes.pack import pack_bits, unpack_bits
from drhn_cli.codes.reader import CodeFile
from drhn_cli.collection import update as hash_module
from drhn_cli.collection.plan import HashOptions
from drhn_cli.collection.update import update_collection
from drhn_cli.errors import CodeFileError, ConfigError, DrhnError, SourceError
from drhn_cli.images import find as find_module
from drhn_cli.images import load as load_module
from drhn_cli.network import encoder as encoders
from drhn_cli.network.model import load_model, save_model
from drhn_cli.retrieval.gallery import FileGallery
from drhn_cli.retrieval.query import Query, QueryOptions, answer_queries
from tests.drawing import draw_picture
from tests.hearing import Hearing
from tests.locking import lock_code_file

CODES = Path("codes.bin")
COUNTS = ("added", "changed", "unchanged", "moved", "removed", "kept")


def counts(summary):
    """Return the counts that are not zero."""
    return {name: getattr(summary, name) for name in COUNTS if getattr(summary, name)}


def stored():
    """Return path -> code as held by the code file."""
    with CodeFile.open(CODES) as file:
        file.verify()
        return {os.path.join(file.root, os.fsdecode(e.path)): bytes(c) for e, c in zip(file, file.codes, strict=True)}


def names():
    return sorted(os.path.relpath(path) for path in stored())


def write_picture(path, seed=99):
    draw_picture("circle", seed, 16).save(path)


@pytest.fixture
def hashed(photos, update):
    update("photos")
    return photos


def test_a_picture_that_vanishes_while_hashing_is_a_failure_and_the_rest_is_hashed(photos, update):
    summary = update(progress=Hearing(begin={"hashing": lambda: (photos / "circle/0000.png").unlink()}))
    assert [failure.problem for failure in summary.failures] == ["no such file"]
    assert counts(summary) == {"added": 7}
    assert counts(update()) == {"unchanged": 7}


def test_the_first_run_hashes_all(photos, update):
    summary = update("photos")
    assert counts(summary) == {"added": 8}
    assert (summary.n_items, summary.failures) == (8, [])
    assert names() == sorted(map(str, photos.rglob("*.png")))
    assert len(set(stored().values())) > 4


@pytest.mark.usefixtures("hashed")
def test_the_second_run_does_and_writes_nothing(update, monkeypatch):
    monkeypatch.delattr(hash_module, "Encoder")
    before = CODES.stat()
    assert counts(update("photos")) == {"unchanged": 8}
    assert (CODES.stat().st_ino, CODES.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_touched_picture_is_hashed_again(hashed, update):
    os.utime(hashed / "circle/0000.png", ns=(0, 10**18))
    assert counts(update("photos")) == {"changed": 1, "unchanged": 7}
    assert counts(update("photos")) == {"unchanged": 8}


def test_a_changed_picture_gets_another_code(hashed, update):
    path = hashed / "circle/0000.png"
    before = stored()
    draw_picture("checker", 5, 20).save(path)
    assert counts(update("photos")) == {"changed": 1, "unchanged": 7}
    after = stored()
    assert {p for p in after if after[p] != before[p]} == {str(path.absolute())}


def test_an_added_picture_is_hashed(hashed, update):
    write_picture(hashed / "new.png")
    assert counts(update("photos")) == {"added": 1, "unchanged": 8}
    assert "photos/new.png" in names()


def test_a_deleted_picture_is_dropped(hashed, update):
    (hashed / "circle/0000.png").unlink()
    assert counts(update("photos")) == {"removed": 1, "unchanged": 7}
    assert "photos/circle/0000.png" not in names()


def test_a_deleted_picture_is_kept_when_asked(hashed, update):
    (hashed / "circle/0000.png").unlink()
    assert counts(update("photos", keep_missing=True)) == {"kept": 1, "unchanged": 7}
    assert "photos/circle/0000.png" in names()


def test_a_renamed_picture_takes_its_code_along(hashed, update, monkeypatch):
    monkeypatch.delattr(hash_module, "Encoder")
    before = stored()
    old, new = hashed / "circle/0000.png", hashed / "circle/renamed.png"
    old.rename(new)
    assert counts(update("photos")) == {"moved": 1, "unchanged": 7}
    assert stored()[str(new.absolute())] == before[str(old.absolute())]


def test_a_copy_in_the_place_of_a_picture_is_the_same_and_may_be_renamed(hashed, update):
    path = hashed / "circle/0000.png"
    shutil.copy2(path, "copy.png")
    os.replace("copy.png", path)
    write_picture(hashed / "new.png")
    assert counts(update()) == {"added": 1, "unchanged": 8}
    path.rename(hashed / "renamed.png")
    assert counts(update()) == {"moved": 1, "unchanged": 8}


def test_a_renamed_folder_takes_its_codes_along(hashed, update):
    (hashed / "circle").rename(hashed / "round")
    assert counts(update("photos")) == {"moved": 2, "unchanged": 6}


def test_a_hard_link_is_a_picture_of_its_own(hashed, update):
    os.link(hashed / "circle/0000.png", hashed / "circle/link.png")
    assert counts(update("photos")) == {"added": 1, "unchanged": 8}


def test_a_hard_link_to_an_excluded_picture_is_a_picture_of_its_own(hashed, update):
    os.link(hashed / "circle/0000.png", hashed / "link.png")
    assert counts(update(exclude=["circle"])) == {"added": 1, "removed": 2, "unchanged": 6}


def test_a_renamed_picture_that_was_edited_is_hashed_anew(hashed, update):
    (hashed / "circle/0000.png").rename(hashed / "circle/renamed.png")
    os.utime(hashed / "circle/renamed.png", ns=(0, 10**18))
    assert counts(update("photos")) == {"added": 1, "removed": 1, "unchanged": 7}


def test_a_changed_picture_that_is_no_picture_any_more_loses_its_code(hashed, update):
    (hashed / "circle/0000.png").write_text("not a picture")
    summary = update("photos")
    assert (counts(summary), len(summary.failures), summary.n_items) == ({"unchanged": 7, "removed": 1}, 1, 7)
    assert len(names()) == 7


def touch(folder):
    for path in folder.iterdir():
        os.utime(path, ns=(0, 10**18))


def test_changed_pictures_that_go_away_while_the_run_is_at_them_keep_their_codes(hashed, update):
    before = stored()
    touch(hashed / "circle")
    summary = update(progress=Hearing(begin={"hashing": lambda: (hashed / "circle").rename("unplugged")}))
    assert (counts(summary), len(summary.failures), summary.n_items) == ({"unchanged": 6, "kept": 2}, 2, 8)
    assert stored() == before
    Path("unplugged").rename(hashed / "circle")
    assert counts(update()) == {"unchanged": 6, "changed": 2}


def test_changed_pictures_that_an_interrupted_run_did_not_get_to_keep_their_codes(hashed, update):
    def interrupt(_):
        raise KeyboardInterrupt

    for kind in hashed.iterdir():
        touch(kind)
    with pytest.raises(KeyboardInterrupt):
        update(batch_size=2, progress=Hearing(advance={"hashing": interrupt}))
    assert len(names()) == 8
    assert counts(update()) == {"unchanged": 2, "changed": 6}


@pytest.mark.parametrize(
    "replace",
    [
        pytest.param(
            lambda path: os.mkfifo(path), marks=pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFO")
        ),
        lambda path: path.write_text("hi"),
    ],
)
def test_a_folder_in_whose_place_something_else_is_keeps_its_entries(hashed, update, replace):
    (hashed / "circle").rename("elsewhere")
    replace(hashed / "circle")
    summary = update("photos/circle", "photos/square")
    assert counts(summary) == {"unchanged": 2, "kept": 6}
    assert summary.failures[0].path == os.fsencode(hashed.absolute() / "circle")
    before = CODES.read_bytes()
    with pytest.raises(SourceError, match="nothing was changed"):
        update("photos/circle")
    assert CODES.read_bytes() == before


def test_a_followed_link_to_a_folder_that_is_not_there_keeps_its_entries(hashed, update):
    (hashed / "circle").rename("drive")
    (hashed / "circle").symlink_to("../drive")
    assert counts(update(follow=True)) == {"unchanged": 8}
    os.rename("drive", "unplugged")
    summary = update(follow=True)
    assert counts(summary) == {"unchanged": 6, "kept": 2}
    assert [failure.problem for failure in summary.failures] == ["no such file or folder"]
    assert counts(update()) == {"unchanged": 6, "removed": 2}  # links are not followed


@pytest.mark.usefixtures("hashed")
def test_what_is_there_and_left_out_is_not_missing(update):
    (Path("photos") / "square/0000.png").unlink()
    assert counts(update(exclude=["circle"], keep_missing=True)) == {"unchanged": 5, "kept": 1, "removed": 2}


@pytest.fixture
def unplugged_while_listed(hashed, monkeypatch):
    """``photos/circle`` goes away once ``photos`` has been listed."""

    def scandir(path, scandir=os.scandir):
        listing = scandir(path)
        if os.fsencode(path).endswith(b"photos"):
            entries = list(listing)
            (hashed / "circle").rename("unplugged")
            return contextlib.nullcontext(entries)
        return listing

    with monkeypatch.context() as patch:
        patch.setattr(find_module.os, "scandir", scandir)
        yield


@pytest.mark.usefixtures("unplugged_while_listed")
def test_a_folder_that_goes_away_while_it_is_listed_keeps_its_entries(update):
    summary = update()
    assert (counts(summary), len(summary.failures)) == ({"unchanged": 6, "kept": 2}, 1)


@pytest.mark.usefixtures("unplugged_while_listed")
def test_a_part_of_which_a_folder_went_away_while_it_was_listed_is_not_finished(photos, weights_path):
    options = HashOptions(weights=str(weights_path), shard=Shard(number=1, count=1))
    assert update_collection([photos], "part.bin", options).n_items == 6
    with CodeFile.open("part.bin") as file:
        assert not file.manifest.shard.finished


@pytest.mark.usefixtures("photos")
def test_ctrl_c_just_before_the_last_save_loses_nothing(update, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(hash_module, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        update(shard=Shard(number=1, count=1))
    assert len(names()) == 8


@pytest.mark.usefixtures("hashed")
def test_a_source_that_is_not_there_changes_no_byte_of_the_file(update):
    before = CODES.read_bytes(), CODES.stat().st_ino
    assert counts(update("photos", "/no/such/folder")) == {"unchanged": 8}
    assert (CODES.read_bytes(), CODES.stat().st_ino) == before


@pytest.mark.usefixtures("hashed")
def test_a_picture_in_whose_place_an_empty_folder_is_keeps_its_code(update):
    sources = "photos/circle/0000.png", "photos/circle/0001.png"
    os.remove(sources[0])
    os.mkdir(sources[0])
    summary = update(*sources)
    assert counts(summary) == {"unchanged": 1, "kept": 7}
    assert summary.failures[0].path == os.path.abspath(sources[0]).encode()


def test_a_link_that_is_left_out_may_lead_nowhere(hashed, update):
    (hashed / "gone").symlink_to("../drive")
    assert update(follow=True, exclude=["gone/"]).failures == []
    assert [failure.problem for failure in update(follow=True).failures] == ["no such file or folder"]


@pytest.mark.usefixtures("hashed")
def test_excluded_pictures_leave_the_file(update):
    assert counts(update("photos", exclude=["circle"])) == {"removed": 2, "unchanged": 6}


def test_a_missing_source_is_an_error_and_prunes_nothing(hashed, update):
    hashed.rename("elsewhere")
    with pytest.raises(SourceError, match=r"no source can be read: .*photos: no such file.*nothing was changed"):
        update("photos")
    assert len(names()) == 8


def test_a_missing_source_beside_another_keeps_its_entries(hashed, update):
    update("photos/circle", "photos/square")
    (hashed / "circle").rename("elsewhere")
    summary = update("photos/circle", "photos/square")
    assert counts(summary) == {"unchanged": 2, "kept": 6}
    assert [error.path for error in summary.failures] == [os.fsencode(hashed.absolute() / "circle")]


def test_an_empty_mount_point_keeps_its_entries(hashed, update):
    update("photos/circle", "photos/square")
    for path in (hashed / "circle").iterdir():
        path.unlink()
    summary = update("photos/circle", "photos/square")
    assert counts(summary) == {"unchanged": 2, "kept": 6}
    assert [error.problem.split(",")[0] for error in summary.failures] == ["empty"]
    with pytest.raises(SourceError, match=r"circle: empty, as the mount point .* --rebuild; nothing was changed"):
        update("photos/circle")
    assert (update("photos/circle", rebuild=True).n_items, names()) == (0, [])


@pytest.mark.usefixtures("hashed")
def test_an_unreadable_folder_keeps_its_entries(update, monkeypatch):
    def refuse(path, scandir=os.scandir):
        if os.fsencode(path).endswith(b"circle"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(find_module.os, "scandir", refuse)
    summary = update("photos")
    assert (counts(summary), len(summary.failures)) == ({"unchanged": 6, "kept": 2}, 1)


@pytest.mark.parametrize("source", ["", b"a\0b"])
@pytest.mark.usefixtures("hashed")
def test_what_is_no_path_is_an_error_and_prunes_nothing(update, source):
    with pytest.raises(SourceError, match="nothing was changed"):
        update(source)
    assert len(names()) == 8


@pytest.mark.usefixtures("hashed")
def test_an_empty_name_beside_a_source_stands_for_nothing(update):
    assert counts(update("photos/circle", "")) == {"unchanged": 2, "kept": 6}


def test_entries_outside_the_sources_are_kept(hashed, update):
    (hashed / "square/0000.png").unlink()
    assert counts(update("photos/circle")) == {"unchanged": 2, "kept": 6}


def test_the_root_is_the_source(hashed):
    with CodeFile.open(CODES) as file:
        assert (file.root, file.path_bytes(0)) == (str(hashed.absolute()), b"checker/0000.png")


def test_the_root_of_a_single_picture_is_its_folder(photos, update):
    update("photos/circle/0000.png")
    with CodeFile.open(CODES) as file:
        assert (file.root, file.path_bytes(0)) == (str(photos.absolute() / "circle"), b"0000.png")


@pytest.mark.usefixtures("hashed")
def test_the_root_widens_when_a_source_lies_outside(update, tmp_path):
    Path("more").mkdir()
    write_picture("more/a.png")
    assert counts(update("more")) == {"added": 1, "kept": 8}
    with CodeFile.open(CODES) as file:
        assert (file.root, len(file)) == (str(tmp_path), 9)
    assert counts(update("photos", "more")) == {"unchanged": 9}


@pytest.mark.usefixtures("hashed")
def test_sources_without_a_folder_in_common_are_an_error(update, monkeypatch):
    def refuse(_):
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr(os.path, "commonpath", refuse)
    with pytest.raises(SourceError, match="no folder in common"):
        update("photos")


@pytest.mark.usefixtures("hashed")
def test_rebuild_forgets_what_was_there(update):
    assert counts(update("photos/circle", rebuild=True)) == {"added": 2}
    assert len(names()) == 2


@pytest.mark.usefixtures("hashed")
def test_another_model_is_refused_naming_both(update, other_weights_path):
    before = CODES.read_bytes()
    with pytest.raises(CodeFileError, match=r"expected tiny \(.*found other \(.*--rebuild"):
        update("photos", weights=str(other_weights_path))
    assert CODES.read_bytes() == before


@pytest.mark.usefixtures("hashed")
def test_a_model_that_is_not_bundled_has_to_be_named(update):
    with pytest.raises(CodeFileError, match=r"expected tiny \(.*no bundled model.*--weights FILE"):
        update("photos", weights=None)


@pytest.mark.usefixtures("photos")
def test_rebuild_overwrites_nothing_but_code_files(update):
    CODES.write_text("a letter")
    with pytest.raises(CodeFileError, match=r"would be overwritten .*remove this one first"):
        update("photos", rebuild=True)
    assert CODES.read_text() == "a letter"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX only")
@pytest.mark.parametrize("rebuild", [False, True])
@pytest.mark.usefixtures("photos")
def test_a_pipe_in_the_place_of_a_code_file_is_refused_without_waiting(update, rebuild):
    os.mkfifo(CODES)
    with pytest.raises(CodeFileError, match=r"found a pipe or device\); name another file"):
        update("photos", rebuild=rebuild)


def test_an_empty_file_is_filled(photos, update):
    CODES.touch()
    assert counts(update(str(photos))) == {"added": 8}


@pytest.mark.usefixtures("hashed")
def test_rebuild_mends_a_damaged_code_file(update):
    CODES.write_bytes(CODES.read_bytes()[:100])
    assert counts(update("photos", rebuild=True)) == {"added": 8}


def test_rebuild_takes_no_folder_for_a_code_file(photos, update):
    CODES.mkdir()
    with pytest.raises(CodeFileError, match="found a folder"):
        update(str(photos), rebuild=True)


@pytest.mark.usefixtures("hashed")
def test_rebuild_takes_another_model(update, other_weights_path):
    before = stored()
    update("photos", weights=str(other_weights_path), rebuild=True)
    assert stored() != before


@pytest.mark.usefixtures("hashed")
def test_another_code_length_is_refused(update):
    with pytest.raises(CodeFileError, match="expected 12 bits, found 64 bits"):
        update("photos", n_bits=12)
    assert counts(update("photos", n_bits=64)) == {"unchanged": 8}


@pytest.mark.usefixtures("hashed")
def test_a_nested_length_is_the_beginning_of_the_longest_code(update):
    whole = stored()
    update("photos", n_bits=12, rebuild=True)
    with CodeFile.open(CODES) as file:
        assert file.n_bits == 12
    bits = {path: unpack_bits(np.frombuffer(code, np.uint8)[np.newaxis], 64) for path, code in whole.items()}
    assert stored() == {path: bytes(pack_bits(all_64[:, :12])) for path, all_64 in bits.items()}


def test_the_length_of_the_file_is_kept(update):
    update("photos", n_bits=12)
    write_picture("photos/new.png")
    assert counts(update("photos")) == {"added": 1, "unchanged": 8}


def test_a_length_the_network_was_not_trained_for_is_refused(update):
    with pytest.raises(ConfigError, match=r"tiny makes no codes of 13 bits .*12 or 16 or 48 or 64"):
        update("photos", n_bits=13)
    assert not CODES.exists()


def test_many_pictures_get_the_codes_that_few_do(update, monkeypatch):
    update()
    few = stored()
    monkeypatch.setattr(encoders, "NUMPY_LIMIT", 0)
    update(rebuild=True)
    many = stored()
    n_flipped = sum((int.from_bytes(few[path]) ^ int.from_bytes(many[path])).bit_count() for path in few)
    assert few.keys() == many.keys()
    assert n_flipped <= 1  # of 512: the sums are taken in another order


def test_files_that_are_no_pictures_are_counted_and_the_rest_is_hashed(photos, update):
    (photos / "text.jpg").write_text("a list of things")
    (photos / "empty.png").touch()
    Image.effect_noise((64, 64), 50).save(photos / "cut.jpg")
    (photos / "cut.jpg").write_bytes((photos / "cut.jpg").read_bytes()[:900])
    told = Hearing()
    summary = update("photos", progress=told)
    assert counts(summary) == {"added": 8}
    assert {Path(os.fsdecode(error.path)).name for error in told.failures} == {"text.jpg", "empty.png", "cut.jpg"}
    assert summary.failures == told.failures


def test_too_many_pixels_are_a_failure(update):
    assert len(update("photos", max_pixels=100).failures) == 8


def test_a_folder_without_pictures_makes_an_empty_file(update):
    Path("none").mkdir()
    summary = update("none")
    assert (counts(summary), summary.n_items, names()) == ({}, 0, [])


def test_progress_adds_up(photos, update):
    (photos / "text.jpg").write_text("no picture")
    told = Hearing()
    update("photos", batch_size=2, progress=told)
    assert told.phases == [("listing", None), ("hashing", 9)]
    assert (told.steps_of("hashing")[-1], len(told.steps_of("hashing"))) == (9, 5)


def test_progress_moves_within_a_batch_and_codes_stay_the_same(photos, update, monkeypatch):
    update("photos")
    expected = stored()
    (photos / "text.jpg").write_text("no picture")
    monkeypatch.setattr("drhn_cli.network.encoder._CPU_BATCH", 1)
    told = Hearing()
    summary = update("photos", rebuild=True, workers=3, progress=told)
    assert told.steps_of("hashing") == [3, 6, 9]  # the failure is told with the last two
    assert (counts(summary), stored()) == ({"added": 8}, expected)


def test_a_batch_of_failures_alone_is_progress(photos, update):
    for path in photos.glob("*/*.png"):
        path.write_text("no picture")
    told = Hearing()
    update("photos", batch_size=6, progress=told)
    assert told.steps_of("hashing") == [6, 8]


def test_ctrl_c_while_all_is_written_keeps_it(update, monkeypatch):
    write, calls = hash_module.write_code_file, []

    def interrupt(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(hash_module, "write_code_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        update("photos")
    assert counts(update("photos")) == {"unchanged": 8}


@pytest.mark.parametrize("n_batches", [1, 2])
def test_ctrl_c_keeps_the_work_so_far_and_the_next_run_goes_on(update, n_batches):
    calls = []

    def interrupt(_):
        calls.append(1)
        if len(calls) == n_batches:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        update("photos", batch_size=2, progress=Hearing(advance={"hashing": interrupt}))
    assert len(names()) == 2 * n_batches
    assert counts(update("photos")) == {"added": 8 - 2 * n_batches, "unchanged": 2 * n_batches}


def test_a_long_run_saves_itself_now_and_then(update, monkeypatch):
    held = []
    monkeypatch.setattr(hash_module, "time", SimpleNamespace(monotonic=lambda: 61.0 * len(held)))

    def look(_):
        held.append(len(names()) if CODES.exists() else 0)

    update("photos", batch_size=2, progress=Hearing(advance={"hashing": look}))
    assert held == [0, 2, 4, 6]
    assert len(names()) == 8


def test_a_crash_leaves_the_old_file(hashed, update):
    write_picture(hashed / "new.png")

    def crash(_):
        raise ZeroDivisionError

    before = CODES.read_bytes()
    with pytest.raises(ZeroDivisionError):
        update("photos", progress=Hearing(advance={"hashing": crash}))
    assert CODES.read_bytes() == before


@pytest.mark.parametrize("place", [40, -1, -100])
@pytest.mark.usefixtures("hashed")
def test_a_damaged_file_is_refused_with_the_way_out_and_left_as_it_is(update, place):
    content = bytearray(CODES.read_bytes())
    content[place] ^= 1
    CODES.write_bytes(content)
    with pytest.raises(CodeFileError, match=r"codes\.bin: .*--(rebuild|o)|drhn hash FOLDER"):
        update("photos")
    assert CODES.read_bytes() == content
    assert counts(update("photos", rebuild=True)) == {"added": 8}


def test_another_writer_is_waited_for(update):
    with lock_code_file(CODES):
        thread = threading.Thread(target=update, args=("photos",))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        assert not CODES.exists()
    thread.join()
    assert len(names()) == 8


def test_another_writer_is_not_waited_for_for_ever(update, monkeypatch):
    monkeypatch.setattr("drhn_cli.codes.writer.LOCK_TIMEOUT_SECONDS", 0)
    with lock_code_file(CODES), pytest.raises(CodeFileError):
        update("photos")


def test_the_longest_name_can_be_locked(tmp_path):
    path = tmp_path / ("c" * 251 + ".bin")
    with lock_code_file(path), pytest.raises(CodeFileError, match="another drhn"), lock_code_file(path):
        pass


def test_the_root_folder_is_no_code_file():
    with pytest.raises(CodeFileError, match="a folder is no code file; name a file in it"), lock_code_file("/"):
        pass


@pytest.mark.usefixtures("photos")
def test_the_folder_of_the_file_has_to_be_there(weights_path):
    options = HashOptions(weights=str(weights_path))
    with pytest.raises(DrhnError, match="no such folder"):
        update_collection(["photos"], "nowhere/codes.bin", options)


@pytest.mark.skipif(os.name != "posix", reason="POSIX only")
def test_a_link_to_where_no_file_is_yet_is_written_through(update):
    CODES.symlink_to("target.bin")
    update()
    update()
    assert CODES.is_symlink()
    assert Path("target.bin").is_file()


def test_pictures_are_decoded_while_the_network_is_loaded(update, monkeypatch):
    decoded = threading.Event()

    def decode(*arguments, decode=load_module.decode_reduced, **settings):
        decoded.set()
        return decode(*arguments, **settings)

    def make(*arguments, **settings):
        assert decoded.wait(60)
        return encoders.Encoder(*arguments, **settings)

    monkeypatch.setattr(load_module, "decode_reduced", decode)
    monkeypatch.setattr(hash_module, "Encoder", make)
    assert counts(update("photos")) == {"added": 8}


def test_an_unknown_device_is_refused(update):
    with pytest.raises(ConfigError, match="device"):
        update("photos", device="abacus")


@pytest.fixture
def moved(update, monkeypatch):
    """``photos`` hashed, then moved to ``elsewhere/pictures``; nothing can be decoded any more."""
    update()
    os.makedirs("elsewhere")
    os.rename("photos", "elsewhere/pictures")
    monkeypatch.setattr(hash_module, "load_files", None)
    return "elsewhere/pictures"


def test_a_moved_root_keeps_its_codes(update, moved):
    with CodeFile.open("codes.bin") as file:
        before = [(entry, code.tobytes()) for entry, code in zip(file, file.codes, strict=True)]
    summary = update(moved, root=moved)
    assert (summary.unchanged, summary.added, summary.removed, summary.n_items) == (8, 0, 0, 8)
    with CodeFile.open("codes.bin") as file:
        assert file.root == os.path.abspath(moved)
        assert [(entry, code.tobytes()) for entry, code in zip(file, file.codes, strict=True)] == before
    assert update(moved).unchanged == 8


@pytest.mark.usefixtures("moved")
def test_a_root_without_any_of_the_pictures_is_refused(update):
    before = Path("codes.bin").read_bytes()
    with pytest.raises(SourceError, match="no picture of the code file is below this folder"):
        update("elsewhere", root="elsewhere")
    assert Path("codes.bin").read_bytes() == before


@pytest.mark.parametrize("rebuild", [False, True])
def test_a_root_without_a_code_file_is_refused(update, rebuild):
    if rebuild:
        update()
    with pytest.raises(ConfigError, match="leave --root out"):
        update(root="photos", rebuild=rebuild)


@pytest.mark.usefixtures("hashed")
def test_tta_makes_other_codes_and_is_kept_and_used_by_query(update, weights_path):
    plain = stored()
    with pytest.raises(CodeFileError, match=r"made without --tta.*--rebuild"):
        update("photos", views=2)
    assert stored() == plain
    assert counts(update("photos", views=2, rebuild=True)) == {"added": 8}
    assert stored() != plain
    write_picture("photos/new.png")
    assert counts(update("photos")) == {"added": 1, "unchanged": 8}
    shutil.copy("photos/circle/0000.png", "elsewhere.png")
    with CodeFile.open(CODES) as file:
        assert file.manifest.preprocessing["views"] == 2
        options = QueryOptions(top_k=None, max_distance=0, weights=str(weights_path))
        (answer,) = answer_queries(FileGallery(file), [Query(name=b"q", image="elsewhere.png")], options)
    assert os.path.abspath("photos/circle/0000.png").encode() in [match.path for match in answer.matches]
    with pytest.raises(CodeFileError, match=r"made with --tta.*leave --no-tta out"):
        update("photos", views=1)
    update("photos", rebuild=True)
    assert {path: code for path, code in stored().items() if path in plain} == plain


@pytest.mark.usefixtures("photos")
def test_weights_may_say_that_there_are_two_views(update, weights_path):
    weights = load_model(weights_path)
    save_model("two.npz", weights.with_views(2))
    update("photos", weights="two.npz")
    two = stored()
    update("photos", weights="two.npz", views=1, rebuild=True)
    one = stored()
    update("photos", rebuild=True)
    assert (stored() == one, one == two) == (True, False)
