import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from drhn_cli.cli.output import TerminalProgress
from drhn_cli.codes.reader import CodeFile
from drhn_cli.collection import update as hash_module
from tests.conftest import CHECKOUT
from tests.drawing import draw_picture

POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX only")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux's")
NOT_ROOT = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read anything")


@pytest.fixture
def hash_(drhn, weights_path, photos):
    """``drhn hash`` of ``photos``, or of other arguments, into ``codes.bin``."""

    def call(*arguments, **settings):
        return drhn("hash", *(arguments or [photos]), "-o", "codes.bin", "--weights", weights_path, **settings)

    return call


def summary_of(result):
    """Return the last JSON line without its time."""
    summary = json.loads(result.lines[-1])
    assert summary.pop("seconds") >= 0
    return summary


def names():
    with CodeFile.open("codes.bin") as file:
        file.verify()
        return [os.path.relpath(os.path.join(os.fsencode(file.root), entry.path)) for entry in file]


def test_a_summary_goes_to_stderr_and_nothing_to_stdout(hash_):
    result = hash_()
    assert (result.status, result.out) == (0, b"")
    assert result.err.startswith("drhn: codes.bin: 8 pictures (8 added) in ")
    assert hash_().err.startswith("drhn: codes.bin: 8 pictures (8 unchanged) in ")


def test_a_folder_without_pictures_is_told_with_what_may_be_missing(hash_):
    Path("none/.hidden").mkdir(parents=True)
    result = hash_("none")
    assert (result.status, len(result.err.splitlines())) == (0, 2)
    assert result.err.endswith(
        "no pictures: names with a dot in front need --hidden, links --follow, other suffixes to be named\n"
    )


def test_quiet_says_nothing(hash_):
    assert hash_("photos", "-q") == (0, b"", "")


def test_json_is_one_object_of_counts(hash_):
    counts = dict.fromkeys(("changed", "unchanged", "moved", "removed", "kept", "failed"), 0)
    result = hash_("photos", "--json")
    assert summary_of(result) == {"added": 8, "total": 8, **counts}
    assert (len(result.lines), result.err) == (1, "")


def spoil(photos):
    (photos / "text.jpg").write_text("a list of things")
    (photos / "empty.png").touch()
    draw_picture("circle", 0, 64).save(photos / "cut.jpg")
    (photos / "cut.jpg").write_bytes((photos / "cut.jpg").read_bytes()[:700])
    return {"text.jpg", "empty.png", "cut.jpg"}


def test_files_that_fail_are_named_with_their_reason_and_the_rest_is_hashed(hash_, photos):
    bad = spoil(photos)
    result = hash_()
    *failures, summary = result.err.splitlines()
    assert result.status == 0
    assert {Path(line.split(": ")[1]).name for line in failures} == bad
    assert all(len(line.split(": ", 2)[2]) > 10 for line in failures)
    assert "8 pictures (8 added, 3 failed)" in summary
    assert len(names()) == 8


def test_strict_makes_failures_an_error_after_hashing_the_rest(hash_, photos):
    spoil(photos)
    assert hash_("photos", "--strict").status == 2
    assert len(names()) == 8


def test_strict_is_content_where_nothing_fails(hash_):
    assert hash_("photos", "--strict").status == 0


def test_json_has_an_object_for_each_failure(hash_, photos):
    bad = spoil(photos)
    result = hash_("photos", "--json")
    failures = [json.loads(line) for line in result.lines[:-1]]
    assert {failure["path"] for failure in failures} == {f"photos/{name}" for name in bad}
    assert all(failure["failed"] is True and failure["error"] for failure in failures)
    assert summary_of(result)["failed"] == 3


def test_json_of_a_failure_without_a_path(hash_):
    result = hash_("photos", "", "--json")
    assert json.loads(result.lines[0]) == {
        "path": None,
        "error": "not a path (expected a file or folder)",
        "failed": True,
    }


@NOT_ROOT
def test_an_unreadable_picture_is_a_failure(hash_, photos):
    (photos / "circle/0000.png").chmod(0)
    assert summary_of(hash_("photos", "--json")).items() >= {"added": 7, "failed": 1}.items()


def test_files_from_lines(hash_):
    Path("list").write_text("photos/circle/0000.png\n\nphotos/square\n")
    hash_("--files-from", "list")
    assert names() == [b"photos/circle/0000.png", b"photos/square/0000.png", b"photos/square/0001.png"]


def test_files_from_stdin_with_nul(hash_):
    hash_("-0", "--files-from", "-", stdin=b"photos/circle/0000.png\0photos/square/0001.png\0")
    assert names() == [b"photos/circle/0000.png", b"photos/square/0001.png"]


def test_files_from_adds_to_the_sources(hash_):
    hash_("photos/checker", "--files-from", "-", stdin=b"photos/circle/0000.png\n")
    assert len(names()) == 3


def test_files_from_without_the_0_it_needs_says_so(hash_):
    result = hash_("--files-from", "-", stdin=b"photos/circle/0000.png\0photos/square/0001.png\0")
    assert result.status == 2
    assert "use -0" in result.err


def test_what_a_list_of_files_does_not_name_stays_until_all_is_hashed_anew(hash_, photos):
    listed = b"photos/circle/0000.png\0photos/square/0001.png\0"
    hash_("-0", "--files-from", "-", stdin=listed)
    (photos / "circle/0000.png").unlink()
    left = ("-0", "--files-from", "-", "--json")
    assert summary_of(hash_(*left, stdin=listed[23:])).items() >= {"kept": 1, "removed": 0, "total": 2}.items()
    assert summary_of(hash_(*left, "--rebuild", stdin=listed[23:]))["total"] == 1


@pytest.mark.parametrize("arguments", [[], ["--files-from", "-"]])
def test_nothing_to_hash_is_an_error(drhn, tmp_path, arguments):
    result = drhn("hash", *arguments, "-o", tmp_path / "codes.bin")
    assert (result.status, result.out) == (2, b"")
    assert result.err == ("drhn: nothing to hash; name a folder or file, or a list of them with --files-from\n")


def test_a_missing_list_is_an_error(hash_):
    result = hash_("--files-from", "nowhere")
    assert (result.status, result.err) == (
        2,
        "drhn: nowhere: cannot read the list of files (found No such file or directory)\n",
    )


def test_a_missing_source_is_an_error(hash_):
    hash_()
    result = hash_("nowhere")
    assert result.status == 2
    assert "no such file or folder; nothing was changed" in result.err
    assert len(names()) == 8


def test_keep_missing(hash_, photos):
    hash_()
    (photos / "circle/0000.png").unlink()
    assert summary_of(hash_("photos", "--keep-missing", "--json")).items() >= {"kept": 1, "total": 8}.items()
    assert summary_of(hash_("photos", "--json")).items() >= {"removed": 1, "total": 7}.items()


def test_exclude(hash_):
    hash_("photos", "--exclude", "circle", "--exclude", "square/*1.png")
    assert not any(b"circle" in name for name in names())
    assert len(names()) == 5


def test_hidden(hash_, photos):
    (photos / "circle").rename(photos / ".circle")
    assert summary_of(hash_("photos", "--json"))["total"] == 6
    assert summary_of(hash_("photos", "--hidden", "--json"))["total"] == 8


@POSIX
def test_follow(hash_, photos):
    Path("elsewhere").mkdir()
    (photos / "circle").rename("elsewhere/circle")
    (photos / "link").symlink_to(Path("elsewhere").absolute())
    assert summary_of(hash_("photos", "--json"))["total"] == 6
    assert summary_of(hash_("photos", "--follow", "--json"))["total"] == 8


@LINUX
@pytest.mark.parametrize("name", [b"\xff\xfe.png", b"a\nb.png", b"a\tb.png", b" .png", "Ж.png".encode(), b"-x.png"])
def test_a_name_of_any_bytes_survives(hash_, drhn, photos, name):
    path = os.path.join(os.fsencode(photos), name)
    os.rename(photos / "circle/0000.png", path)
    assert hash_().status == 0
    assert path in names()
    found = drhn("query", path, "codes.bin", "--max-distance", "0", "--paths", "-0")
    assert path in found.out.split(b"\0")
    found = drhn("query", path, "codes.bin", "--max-distance", "0", "--json")
    assert path in [os.fsencode(json.loads(line)["path"]) for line in found.lines]


@LINUX
def test_a_failure_with_a_newline_in_its_name_is_one_line(hash_, photos):
    Path(photos / "a\nb.png").touch()
    failure, _ = hash_().err.splitlines()
    assert "a\\nb.png: " in failure


def test_bits(hash_, drhn):
    hash_("photos", "--bits", "12")
    assert json.loads(drhn("info", "--json", "codes.bin").out)["bits"] == 12
    result = hash_("photos", "--bits", "16")
    assert result.status == 2
    assert "expected 16 bits, found 12 bits" in result.err
    assert hash_("photos", "--bits", "16", "--rebuild").status == 0


def test_bits_the_network_does_not_make(hash_):
    result = hash_("photos", "--bits", "13")
    assert result.status == 2
    assert "12 or 16 or 48 or 64" in result.err


def test_another_model_is_refused_naming_both(hash_, drhn, other_weights_path):
    hash_()
    result = drhn("hash", "photos", "-o", "codes.bin", "--weights", other_weights_path)
    assert result.status == 2
    assert "expected tiny (" in result.err
    assert "found other (" in result.err
    assert "--rebuild" in result.err


def test_a_damaged_code_file_is_refused(hash_):
    Path("codes.bin").write_bytes(b"IBxF and no more")
    result = hash_()
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert "--rebuild" in result.err
    assert Path("codes.bin").read_bytes() == b"IBxF and no more"


def test_max_pixels(hash_):
    assert summary_of(hash_("photos", "--max-pixels", "100", "--json")).items() >= {"failed": 8, "total": 0}.items()


def test_batches_and_workers_change_nothing(hash_):
    hash_()
    before = Path("codes.bin").read_bytes()
    hash_("photos", "--rebuild", "--batch-size", "3", "--workers", "1", "--device", "cpu")
    assert Path("codes.bin").read_bytes() == before


def test_a_code_file_is_not_written_to_stdout(drhn, hash_):  # noqa: ARG001
    result = drhn("hash", "photos", "-o", "-")
    assert (result.status, result.out) == (2, b"")
    assert "a code file cannot go to stdout" in result.err
    assert not Path("-").exists()


@pytest.mark.parametrize(
    ("options", "again"), [((), "run the same command again"), (("--rebuild",), "run it again without --rebuild")]
)
def test_an_interrupted_run_exits_with_130_and_keeps_its_work(hash_, monkeypatch, options, again):
    def interrupt(self, n=1):
        hashed[0] += n if self.current == "hashing" else 0
        if hashed[0] == 4:
            raise KeyboardInterrupt

    hashed = [0]
    with monkeypatch.context() as patch:
        patch.setattr(TerminalProgress, "advance", interrupt)
        result = hash_("photos", "--batch-size", "2", *options)
    assert (result.status, result.out) == (130, b"")
    assert result.err == f"drhn: stopped; what was hashed is kept: {again} to go on\n"
    assert len(names()) == 4
    assert summary_of(hash_("photos", "--json")).items() >= {"added": 4, "unchanged": 4}.items()


def test_a_run_that_is_stopped_before_it_begins_has_changed_nothing(hash_, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(hash_module, "find_sources", interrupt)
    result = hash_("photos", "--rebuild")
    assert (result.status, result.err) == (130, "drhn: stopped; nothing was changed\n")


@pytest.mark.skipif(os.name != "posix", reason="POSIX only")
def test_who_stops_reading_failures_does_not_stop_the_hashing(start, photos, weights_path):
    for number in range(200):
        (photos / f"{number:0100}.png").write_bytes(b"no picture")
    options = ("--weights", weights_path, "--json", "--quiet", "--batch-size", "16")
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1"}
    with start("hash", "photos", "-o", "codes.bin", *options, env=environment) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read().count(b"not a picture") == 200
    assert process.returncode == 0
    assert len(names()) == 8


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")
def test_failures_that_stdout_has_no_room_for_end_the_run_and_what_was_hashed_is_kept(start, photos, weights_path):
    (photos / "zz.png").write_bytes(b"no picture")  # after all others
    options = ("--weights", weights_path, "--json", "--quiet", "--batch-size", "2", "--workers", "1")
    with open("/dev/full", "wb") as full:
        process = start("hash", "photos", "-o", "codes.bin", *options, stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.endswith(b"drhn: cannot write to stdout (found No space left on device)\n")
    assert len(names()) == 8


SLOW_HASH = """
import sys, time
from drhn_cli.cli.app import run
from drhn_cli.images import load
from drhn_cli.collection import update as hash

def load_slowly(*arguments, decode=load.decode_reduced, **settings):
    time.sleep(0.05)
    return decode(*arguments, **settings)

hash.SAVE_EVERY_SECONDS = 0.2
load.decode_reduced = load_slowly
sys.exit(run(sys.argv[1:]))
"""

# Prints how many pictures each step has added.
TALKING = """
from drhn_cli.collection import update as hash

def add(self, files, codes, add=hash._Update._add):
    add(self, files, codes)
    print(len(codes), flush=True)

hash._Update._add = add
"""


def start_slow_run(start, weights_path):
    """Start hashing sixty pictures, and wait until the first are saved."""
    Path("many").mkdir()
    for i in range(60):
        draw_picture("circle", i, 16).save(f"many/{i:04d}.png")
    Path("slow.py").write_text(SLOW_HASH)
    arguments = ["hash", "many", "-o", "codes.bin", "--weights", weights_path, "--batch-size", "2", "--workers", "1"]
    process = start(*arguments, script="slow.py")
    deadline = time.monotonic() + 30
    while not Path("codes.bin").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    return process


@POSIX
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
@pytest.mark.usefixtures("photos")
def test_a_run_that_is_stopped_leaves_a_whole_file_and_the_next_one_goes_on(start, hash_, weights_path, number, status):
    process = start_slow_run(start, weights_path)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, b"Traceback" in err) == (status, False)
    n_done = len(names())
    assert 0 < n_done < 60
    assert summary_of(hash_("many", "--json")).items() >= {"added": 60 - n_done, "unchanged": n_done}.items()
    assert not list(Path().glob(".drhn-*"))


@POSIX
@pytest.mark.usefixtures("photos")
def test_what_was_hashed_since_the_last_save_is_kept_on_sigterm(start, hash_, weights_path):
    Path("slow.py").write_text(SLOW_HASH.replace("SAVE_EVERY_SECONDS = 0.2", "SAVE_EVERY_SECONDS = 60"))
    Path("talking.py").write_text(TALKING + Path("slow.py").read_text())
    arguments = ("hash", "photos", "-o", "codes.bin", "--weights", weights_path, "--batch-size", "2", "--workers", "1")
    process = start(*arguments, script="talking.py")
    assert process.stdout.readline() == b"2\n"
    for _ in range(2):  # as timeout does, to the process and then to its group
        process.terminate()
    out, err = process.communicate(timeout=60)
    told = b"drhn: stopped; what was hashed is kept: run the same command again to go on\n"
    assert (process.returncode, err) == (143, told)
    n_done = 2 + 2 * len(out.splitlines())
    assert len(names()) == n_done < 8
    assert summary_of(hash_("photos", "--json")).items() >= {"added": 8 - n_done, "unchanged": n_done}.items()


@POSIX
@pytest.mark.usefixtures("photos")
def test_sigterm_is_ignored_where_it_was(start, weights_path):
    Path("talking.py").write_text(TALKING + SLOW_HASH)
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN)}
    process = start("hash", "photos", "-o", "codes.bin", "--weights", weights_path, script="talking.py", **ignore)
    process.stdout.readline()
    process.terminate()
    process.communicate(timeout=60)
    assert (process.returncode, len(names())) == (0, 8)


@POSIX
@pytest.mark.usefixtures("photos")
def test_a_full_disk_leaves_the_old_file(start, hash_, weights_path):
    import resource

    hash_("photos/circle")
    before = Path("codes.bin").read_bytes()
    # A file that may not grow beyond what is there stands for a disk that is full.
    limit = (len(before), len(before))
    hash_square = ("hash", "photos", "-o", "codes.bin", "--weights", weights_path)
    process = start(*hash_square, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, b"")
    assert err.startswith(b"drhn: codes.bin: cannot write the code file (found File too large); the old file")
    assert b"drhn_cli" not in err  # no traceback of ours; what measures the tests' coverage cannot write either
    assert Path("codes.bin").read_bytes() == before
    assert not list(Path().glob(".drhn-*"))


# Hashing stands still until there is a file "go", and says when it has begun; a lock is waited for as long as told.
HELD_HASH = """
import os, sys, time
from drhn_cli.cli.app import run
from drhn_cli.images import load
from drhn_cli.codes import writer

def load_when_told(*arguments, decode=load.decode_reduced, **settings):
    print("loading", flush=True)
    deadline = time.monotonic() + 600
    while not os.path.exists("go") and time.monotonic() < deadline:
        time.sleep(0.01)
    return decode(*arguments, **settings)

writer.LOCK_TIMEOUT_SECONDS = float(sys.argv.pop(1))
load.decode_reduced = load_when_told
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.usefixtures("photos")
def test_a_second_run_waits_for_the_first_and_says_so_or_is_refused(start, weights_path):
    def start_run(timeout_seconds, source, *more):
        arguments = (timeout_seconds, "hash", source, "-o", "codes.bin", "--weights", weights_path, *more)
        return start(*arguments, script="held.py")

    Path("held.py").write_text(HELD_HASH)
    first = start_run(0, "photos/circle")
    assert first.stdout.readline() == b"loading\n"
    waiting = b"drhn: codes.bin: waiting for another drhn, which is writing it\n"
    refusal = (
        b"drhn: codes.bin: another drhn is writing this code file; wait for it to end, or name another file with -o\n"
    )
    for more, told in (((), waiting + refusal), (("-q",), refusal)):
        refused = start_run(0.2, "photos/square", *more)
        assert (refused.communicate(timeout=60), refused.returncode) == ((b"", told), 2)
    second = start_run(600, "photos/square")
    assert second.stderr.readline() == waiting
    Path("go").touch()
    told = [process.communicate(timeout=60)[1] for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0]
    assert told[0].startswith(b"drhn: codes.bin: 2 pictures (2 added) in ")
    assert told[1].startswith(b"drhn: codes.bin: 4 pictures (2 added, 2 kept) in ")
    assert len(names()) == 4


@pytest.mark.parametrize("arguments", [("https://x/a.jpg",), ("photos", "--bits", "7"), ("photos", "--root", ".")])
def test_a_run_that_makes_no_code_file_leaves_nothing(hash_, arguments):
    before = sorted(os.listdir())
    assert hash_(*arguments).status == 2
    assert sorted(os.listdir()) == before
    hash_()
    assert hash_("https://x/a.jpg").status == 2
    assert ".codes.bin.lock" in os.listdir()
