import json
import os
import signal
import time

import numpy as np
import pytest

from tests.drawing import write_class_folders

EPOCHS = 26
SETTINGS = (
    *("--recipe", "tiny", "--set", "network.input_size=16", "--bits", "16"),
    *("--epochs", str(EPOCHS), "--batch-size", "8"),
    *("--validation", "0.25", "--device", "cpu", "--set", "stage.dtype=float32", "--workers", "1"),
)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return write_class_folders(tmp_path_factory.mktemp("data") / "labelled", n=8, size=16)


def arrays_of(folder):
    with np.load(folder / "w.npz") as arrays:
        return {name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items() if name != "manifest"}


def history_of(folder):
    lines = (folder / "w.history.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def wait_for_lines(process, wanted, n=1):
    """Read the run's messages up to the n-th that tells of this."""
    for line in process.stderr:
        n -= wanted in line
        if not n:
            return
    raise AssertionError(f"the run ended with status {process.wait()}")


def wait_for_a_temporary_file(process, folder):
    while not any(name.endswith(".tmp") for name in os.listdir(folder)):
        assert process.poll() is None


@pytest.fixture
def start(forking):
    def call(*arguments):
        return forking.start("-m", "drhn_cli", *arguments)

    return call


def test_a_run_killed_five_times_ends_with_the_weights_of_an_undisturbed_one(labelled, tmp_path, start):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    rng = np.random.default_rng(0)

    undisturbed = start("train", labelled, "-o", whole / "w.npz", *SETTINGS)
    wait_for_lines(undisturbed, b"epoch 2:")
    began = time.monotonic()
    wait_for_lines(undisturbed, b"epoch ", 20)
    epoch_seconds = (time.monotonic() - began) / 20
    _, err = undisturbed.communicate()
    assert undisturbed.returncode == 0, err.decode()

    for kill in range(5):
        with start("train", labelled, "-o", killed / "w.npz", *SETTINGS, "--resume") as process:
            wait_for_lines(process, b"pictures to train on")
            if kill == 1:  # the moment that matters most, or the history's
                wait_for_a_temporary_file(process, killed)
            elif kill > 1:
                wait_for_lines(process, b"epoch ", int(rng.integers(1, 6)))
                time.sleep(rng.uniform(0, 2 * epoch_seconds))
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert not (killed / "w.npz").exists()

    last = start("train", labelled, "-o", killed / "w.npz", *SETTINGS, "--resume")
    _, err = last.communicate()
    assert last.returncode == 0, err.decode()
    assert b"going on after epoch " in err
    assert sorted(os.listdir(killed)) == [".w.npz.lock", "w.history.jsonl", "w.npz"]
    assert arrays_of(killed) == arrays_of(whole)
    assert history_of(killed) == history_of(whole)
    assert [epoch["epoch"] for epoch in history_of(whole)] == list(range(1, EPOCHS + 1))


def test_a_run_that_is_told_to_end_says_how_to_go_on(labelled, tmp_path, start):
    process = start("train", labelled, "-o", tmp_path / "w.npz", *SETTINGS)
    wait_for_lines(process, b"epoch 2:")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert (process.returncode, err.splitlines()[-1][:30]) == (143, b"drhn: stopped; --resume goes o")
    assert (tmp_path / "w.npz.checkpoint").exists()
