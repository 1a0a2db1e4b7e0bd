import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import CHECKOUT
from tests.drawing import write_class_folders

SETTINGS = (
    *("--preset", "tiny", "--input-size", "16", "--bits", "16", "--epochs", "20", "--batch-size", "15"),
    *("--device", "cpu", "--precision", "float32", "--workers", "1"),
)
TORCHRUN = ("-m", "torch.distributed.run", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0")

# The program, and then which of its processes has threads of the group left, or was told to die in the midst.
SCRIPT = """
import os, signal, sys
from pathlib import Path
from drhn_cli.cli.app import run
from drhn_cli.network import team

if os.environ.get("DIES") == os.environ["RANK"]:
    average, calls = team.Team.average, []
    def die(*arguments):
        calls.append(1)
        if len(calls) == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        average(*arguments)
    team.Team.average = die
status = run(sys.argv[1:])
tasks = Path("/proc/self/task")
threads = [path.read_text() for path in tasks.glob("*/comm")] if tasks.exists() else []
print("left over:", [name for name in threads if "gloo" in name], file=sys.stderr)
sys.exit(status)
"""


@pytest.fixture
def train(tmp_path):
    data = write_class_folders(tmp_path / "labelled", n=12, size=16)
    (tmp_path / "script.py").write_text(SCRIPT)

    def call(name, *options, launcher=(*TORCHRUN, "--nproc-per-node", "2"), **environment):
        (tmp_path / name).mkdir(exist_ok=True)
        program = [tmp_path / "script.py"] if launcher else ["-m", "drhn_cli"]
        command = [sys.executable, *launcher, *program, "train", data, "-o", tmp_path / name / "w.npz", *SETTINGS]
        settings = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", **environment}
        done = subprocess.run(
            [*map(str, command), *options], env=settings, capture_output=True, check=False, timeout=120
        )
        return done.returncode, done.stderr.decode(), tmp_path / name

    return call


def losses_of(folder: Path):
    return [json.loads(line)["loss"] for line in (folder / "w.history.jsonl").read_text().splitlines()]


def arrays_of(folder: Path):
    with np.load(folder / "w.npz") as arrays:
        return {name: array for name, array in arrays.items() if name != "manifest"}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no torchrun with Gloo there")
def test_two_processes_train_as_one_and_go_on_after_one_was_killed(train):
    status, err, together = train("together")
    assert status == 0, err
    assert err.count("48 pictures to train on") == err.count("epoch 20:") == 1  # the first process alone tells
    assert err.count("left over: []") == 2, err
    assert sorted(os.listdir(together)) == ["w.history.jsonl", "w.npz"]

    status, err, alone = train("alone", launcher=())
    assert status == 0, err
    together_losses, alone_losses = losses_of(together), losses_of(alone)
    assert len(together_losses) == len(alone_losses) == 20
    assert together_losses[-1] == pytest.approx(alone_losses[-1], rel=0.15)
    assert together_losses[-1] < 0.8 * together_losses[0]

    status, err, killed = train("killed", DIES="1")
    assert status != 0
    assert sorted(os.listdir(killed)) == ["w.history.jsonl", "w.npz.checkpoint"]
    status, err, _ = train("killed", "--resume")
    assert status == 0, err
    assert "going on after epoch " in err
    expected = arrays_of(together)
    assert all(np.array_equal(array, expected[name]) for name, array in arrays_of(killed).items())
