import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import CHECKOUT
from tests.drawing import write_class_folders

SETTINGS = (
    *("--recipe", "tiny", "--set", "network.input_size=16", "--bits", "16"),
    *("--epochs", "20", "--batch-size", "15"),
    *("--device", "cpu", "--set", "stage.dtype=float32", "--workers", "1"),
)
TOGETHER = ("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--nproc-per-node", "2")

FORKED = ("--run-path", "--start-method", "fork")  # torchrun's processes then have loaded torch, as it has

# The program, and then which of its processes has threads of the group left, or was told to die in the midst.
SCRIPT = """
import os, signal, sys
from pathlib import Path
from drhn_cli.cli.app import run
from drhn_cli.training.distributed import World

if os.environ.get("DIES") == os.environ["RANK"]:
    all_reduce_mean, calls = World.all_reduce_mean, []
    def die(*arguments):
        calls.append(1)
        if len(calls) == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        all_reduce_mean(*arguments)
    World.all_reduce_mean = die
signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not torchrun's own, where it has forked this process
status = run(sys.argv[1:])
tasks = Path("/proc/self/task")
threads = [path.read_text() for path in tasks.glob("*/comm")] if tasks.exists() else []
left = [name for name in threads if "gloo" in name]
os.write(2, f"left over: {left}\\n".encode())  # in one piece: print writes in several, between the other process's
sys.exit(status)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("team")
    write_class_folders(folder / "labelled", n=12, size=16)
    (folder / "script.py").write_text(SCRIPT)
    return folder


@pytest.fixture(scope="module")
def start(folder, forking):
    def call(name, *options, launcher=TOGETHER, **environment):
        (folder / name).mkdir(exist_ok=True)
        program = ["-m", "torch.distributed.run", *launcher, *FORKED, folder / "script.py"]
        if not launcher:
            program = ["-m", "drhn_cli"]
        train = ("train", folder / "labelled", "-o", folder / name / "w.npz", *SETTINGS)
        return forking.start(*program, *train, *options, **environment), folder / name

    return call


@pytest.fixture(scope="module")
def train(start):
    def call(*arguments, **settings):
        process, folder = start(*arguments, **settings)
        _, err = process.communicate()
        return process.returncode, err.decode(), folder

    return call


@pytest.fixture(scope="module")
def together(folder):
    """What two processes on one machine print and write, started as people start them."""
    place = folder / "together"
    place.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", *TOGETHER, folder / "script.py"]
    command += ["train", folder / "labelled", "-o", place / "w.npz", *SETTINGS]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), env=environment, stderr=subprocess.PIPE, check=False, timeout=300)
    err = done.stderr.decode()
    assert done.returncode == 0, err
    return err, place


@pytest.fixture
def train_on_two(start):
    """Train on two machines, the second of which has folders of its own: what the first and the second come to."""

    def call(names, *options, n_processes=1, **environment):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        where = ("--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", str(port))
        each = ("--nproc-per-node", str(n_processes), "--node-rank")
        started = [
            start(name, *options, launcher=(*where, *each, str(number)), **environment)
            for number, name in enumerate(names)
        ]
        ended = [(process.communicate()[1].decode(), process.returncode) for process, _ in started]
        return [(status, err, folder) for (err, status), (_, folder) in zip(ended, started, strict=True)]

    return call


def losses_of(folder: Path):
    return [json.loads(line)["loss"] for line in (folder / "w.history.jsonl").read_text().splitlines()]


def names_in(folder):
    """Return the names in a folder, less that of the lock."""
    return sorted(set(os.listdir(folder)) - {".w.npz.lock"})


def arrays_of(folder: Path):
    with np.load(folder / "w.npz") as arrays:
        return {name: array for name, array in arrays.items() if name != "manifest"}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no torchrun with Gloo there")
def test_two_processes_train_as_one_and_go_on_after_one_was_killed(train, together):
    err, together = together
    assert err.count("48 pictures to train on") == err.count("epoch 20:") == 1  # the first process alone tells
    assert err.count("left over: []") == 2, err
    assert names_in(together) == ["w.history.jsonl", "w.npz"]

    status, err, alone = train("alone", launcher=())
    assert status == 0, err
    together_losses, alone_losses = losses_of(together), losses_of(alone)
    assert len(together_losses) == len(alone_losses) == 20
    assert together_losses[-1] == pytest.approx(alone_losses[-1], rel=0.15)
    assert together_losses[-1] < 0.8 * together_losses[0]

    status, err, killed = train("killed", DIES="1")
    assert status != 0
    assert names_in(killed) == ["w.history.jsonl", "w.npz.checkpoint"]
    status, err, _ = train("killed", "--resume", launcher=())
    assert status == 2
    assert "a run with another number of processes (expected 1, found 2); repeat that run's number of processes" in err
    status, err, _ = train("killed", "--resume")
    assert status == 0, err
    assert "going on after epoch " in err
    expected = arrays_of(together)
    assert all(np.array_equal(array, expected[name]) for name, array in arrays_of(killed).items())


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no torchrun with Gloo there")
def test_two_machines_train_as_one_and_the_first_alone_writes(train_on_two, together):
    (status, err, _), (other_status, other_err, second) = train_on_two(("first", "second"), DIES="1")
    assert 0 not in (status, other_status), err + other_err
    assert os.listdir(second) == []
    # The machines have changed places: what the first has kept is not left out.
    for status, err, _ in train_on_two(("second", "first"), "--resume"):
        assert status != 0
        assert "the unfinished run is on a machine that is not the first; give that machine --node-rank 0" in err
    (status, err, first), (other_status, other_err, second) = train_on_two(("first", "second"), "--resume")
    assert (status, other_status) == (0, 0), err + other_err
    assert "going on after epoch " in err
    assert "epoch" not in other_err
    assert (names_in(first), os.listdir(second)) == (["w.history.jsonl", "w.npz"], [])
    expected = arrays_of(together[1])
    assert all(np.array_equal(array, expected[name]) for name, array in arrays_of(first).items())


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no torchrun with Gloo there")
def test_two_machines_of_two_processes_each_train_as_one(train_on_two, together):
    (status, err, first), (other_status, other_err, second) = train_on_two(("of two", "of two, too"), n_processes=2)
    assert (status, other_status) == (0, 0), err + other_err
    assert (err + other_err).count("left over: []") == 4
    assert err.count("epoch 20:") == 1
    assert "epoch" not in other_err
    assert (names_in(first), os.listdir(second)) == (["w.history.jsonl", "w.npz"], [])
    losses, losses_of_two = losses_of(first), losses_of(together[1])
    assert len(losses) == len(losses_of_two) == 20
    assert losses[-1] == pytest.approx(losses_of_two[-1], rel=0.15)
    assert losses[-1] < 0.8 * losses[0]
