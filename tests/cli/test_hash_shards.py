import os
import re
import signal
from pathlib import Path

import pytest

from drhn_cli.codes.reader import CodeFile
from tests.cli.test_hash import SLOW_HASH
from tests.drawing import write_class_folders

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
PARTS = [f"codes-{number:05}-of-00004.bin" for number in range(1, 5)]


@pytest.fixture
def many(tmp_path, monkeypatch):
    """Four hundred pictures in the working directory."""
    monkeypatch.chdir(tmp_path)
    return write_class_folders("many", n=100, size=16)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal there")
@pytest.mark.usefixtures("many")
def test_four_processes_of_which_one_is_killed_and_run_again_make_what_one_makes(start, drhn, weights_path):
    Path("slow.py").write_text(SLOW_HASH)
    settings = ("many", "-o", "codes.bin", "--weights", weights_path, "--batch-size", "8", "--workers", "1")
    killed = start("hash", *settings, "--shard", "3/4", script="slow.py")
    others = [start("hash", *settings, "--shard", f"{number}/4") for number in (1, 2, 4)]
    while not os.path.exists(PARTS[2]):
        assert killed.poll() is None
    killed.kill()
    assert [process.communicate(timeout=300)[1].decode().count("added") for process in (killed, *others)] == [
        0,
        1,
        1,
        1,
    ]
    assert [process.returncode for process in (killed, *others)] == [-signal.SIGKILL, 0, 0, 0]

    result = drhn("merge", *PARTS, "-o", "merged.bin")
    assert (result.status, Path("merged.bin").exists()) == (2, False)
    assert f"{PARTS[2]}: part 3 of 4 is not finished" in result.err
    with CodeFile.open(PARTS[2]) as file:
        n_done = len(file)
    result = drhn("hash", *settings, "--shard", "3/4")
    assert f"drhn: {PARTS[2]}: " in result.err
    assert f", {n_done} unchanged)" in result.err
    assert n_done > 0

    assert drhn("merge", *PARTS, "-o", "merged.bin").status == 0
    assert drhn("hash", *settings).status == 0
    with CodeFile.open("codes.bin") as file:
        assert len(file) == 400
    assert Path("merged.bin").read_bytes() == Path("codes.bin").read_bytes()
    assert drhn("merge", *PARTS, PARTS[0], "-o", "merged.bin").status == 2
    assert b'"part": {"number": 3, "count": 4, "finished": true}' in drhn("info", PARTS[2], "--json").out


def test_two_processes_of_torchrun_make_what_one_makes(many, drhn, weights_path, forking):
    hash_ = ("-m", "drhn_cli", "hash", many, "-o", "codes.bin", "--weights", weights_path)
    with forking.start(*TORCHRUN, *hash_) as torchrun:
        err = torchrun.communicate()[1].decode()
    assert torchrun.returncode == 0, err
    for number in (1, 2):
        assert f"drhn: part {number} of 2, as torchrun has it; --shard 1/1 hashes all pictures\n" in err
    parts = ["codes-00001-of-00002.bin", "codes-00002-of-00002.bin"]
    assert [name for name in sorted(os.listdir()) if not name.startswith(".")] == [*parts, "many"]
    assert drhn("merge", *parts, "-o", "merged.bin").status == 0
    assert drhn("hash", many, "-o", "codes.bin", "--weights", weights_path).status == 0
    assert Path("merged.bin").read_bytes() == Path("codes.bin").read_bytes()


# Slow, saves itself often, and kills the second process once, when both have saved something.
KILLED_ONCE = """
import os, signal, sys, time
from drhn_cli.cli.app import run
from drhn_cli.images import load
from drhn_cli.collection import update as hash

def load_slowly(*arguments, decode=load.decode_reduced, **settings):
    time.sleep(0.03)
    return decode(*arguments, **settings)

def write_and_die(*arguments, write=hash.write_code_file):
    write(*arguments)
    if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == ("1", "0"):
        while not os.path.exists("codes-00001-of-00002.bin"):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

hash.SAVE_EVERY_SECONDS = 0.1
hash.write_code_file = write_and_die
load.decode_reduced = load_slowly
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal there")
def test_processes_of_torchrun_that_are_started_again_go_on_where_they_were(many, drhn, weights_path, forking):
    Path("killed.py").write_text(KILLED_ONCE)
    settings = ("hash", many, "-o", "codes.bin", "--weights", weights_path, "--batch-size", "8", "--workers", "1")
    with forking.start(*TORCHRUN, "--max-restarts", "1", "killed.py", *settings) as torchrun:
        err = torchrun.communicate()[1].decode()
    assert torchrun.returncode == 0, err
    told = re.findall(r"drhn: codes-0000(\d)-of-00002\.bin: (\d+) pictures \((\d+) added, (\d+) unchanged\)", err)
    assert sorted(number for number, *_ in told) == ["1", "2"], err
    for _, n_items, n_added, n_unchanged in told:
        assert int(n_added) + int(n_unchanged) == int(n_items)
        assert 0 < int(n_unchanged) < int(n_items)
    assert sum(int(n_items) for _, n_items, *_ in told) == 400
    assert drhn("merge", "codes-00001-of-00002.bin", "codes-00002-of-00002.bin", "-o", "merged.bin").status == 0
    assert drhn(*settings).status == 0
    assert Path("merged.bin").read_bytes() == Path("codes.bin").read_bytes()


def test_a_task_of_a_slurm_array_hashes_its_part_and_a_lone_one_nothing(photos, drhn, weights_path, monkeypatch):
    settings = ("hash", photos, "-o", "codes.bin", "--weights", weights_path)
    for name, value in (("ID", 2), ("MIN", 1), ("MAX", 2), ("COUNT", 2)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    result = drhn(*settings)
    assert result.err.startswith("drhn: part 2 of 2, as the Slurm array has it; --shard 1/1 hashes all pictures\n")
    assert drhn(*settings, "-q") == (0, b"", "")
    for name, value in (("MIN", 2), ("COUNT", 1)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    result = drhn(*settings)
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert "a Slurm array that may be some tasks of a larger one" in result.err
    assert "--shard I/N" in result.err
    assert not os.path.exists("codes.bin")
    assert drhn(*settings, "--shard", "1/1").status == 0
    assert os.path.exists("codes.bin")
