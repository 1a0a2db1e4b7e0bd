import warnings

import numpy as np
import pytest
import torch

from drhn_cli.errors import CheckpointError
from drhn_cli.network.drhn import DRHN
from drhn_cli.training.checkpoint import load_checkpoint, save_checkpoint
from tests.networks import tiny_config

RUN = {"network": {"bits": 16}, "training": {"seed": 0}, "images": "abc", "processes": 1}


@pytest.fixture
def checkpoint():
    network = DRHN(tiny_config(widths=(1,) * 6)).state_dict()
    return {"run": RUN, "network": network, "optimizers": [{"a": 1}], "history": [{"loss": 0.5}], "seconds": 1.5}


@pytest.fixture
def path(tmp_path, checkpoint):
    path = tmp_path / "w.npz.checkpoint"
    save_checkpoint(path, checkpoint)
    return path


def same(found, expected):
    tensors = [found["network"], expected["network"]]
    return (
        {**found, "network": {}} == {**expected, "network": {}}
        and tensors[0].keys() == tensors[1].keys()
        and all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())
    )


def test_a_checkpoint_comes_back_as_it_was(path, checkpoint):
    assert same(load_checkpoint(path, RUN), checkpoint)


def test_no_checkpoint_is_a_run_that_begins(tmp_path):
    assert load_checkpoint(tmp_path / "none", RUN) is None


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({**RUN, "images": "def"}, "a run with other pictures; repeat that run's options"),
        (
            {**RUN, "training": {"seed": 1}},
            "a run with other settings .expected seed 1, found seed 0.; repeat that run's",
        ),
        # What was chosen comes before the data, and that before what follows from it.
        ({**RUN, "training": {"seed": 1}, "images": "def"}, "a run with other settings .expected seed 1, found seed 0"),
        ({**RUN, "training": {"seed": 0, "stage.batch_size": 9}, "images": "def"}, "a run with other pictures; repeat"),
        ({**RUN, "network": {"bits": 16, "n_classes": 3}}, "a run with another network .expected n_classes 3, found n"),
        ({**RUN, "fit": "crop"}, "a run with another fit; repeat"),
        ({"network": RUN["network"]}, "a run with other settings"),
        (
            {**RUN, "processes": 2},
            "a run with another number of processes .expected 2, found 1.; repeat that run's number of processes",
        ),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(path, run, message):
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path, run)


def test_every_truncation_is_refused(path):
    content = path.read_bytes()
    for length in sorted({*range(0, len(content), 331), *range(len(content) - 60, len(content))}):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            load_checkpoint(path, RUN)


def test_a_flipped_byte_is_refused_or_changes_nothing(path, checkpoint):
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    n_refused = 0
    for spot in range(0, len(content), 29):
        damaged = bytearray(content)
        damaged[spot] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            assert same(load_checkpoint(path, RUN), checkpoint)
        except CheckpointError:
            n_refused += 1
    assert n_refused > 100


@pytest.mark.parametrize(
    "content",
    [
        {"format": 3},
        {"epoch": 3},
        {"format": "new"},
        {"format": 3, "run": 5, **dict.fromkeys(["network", "optimizers", "history"], 0)},
        {"format": 3, "run": 5, **dict.fromkeys(["network", "optimizers", "history", "seconds", "cpu_seconds"], 0)},
        [1, 2],
        torch.zeros(3),
    ],
    ids=str,
)
def test_a_foreign_file_of_torch_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "c")
    with pytest.raises(CheckpointError, match=r"damaged or foreign; remove .*c to start anew"):
        load_checkpoint(tmp_path / "c", RUN)


def test_a_checkpoint_with_a_pickle_inside_is_refused_and_not_run(tmp_path, checkpoint):
    class Trap:
        def __reduce__(self):
            return warnings.warn, ("sprung",)

    torch.save({"format": 3, **checkpoint, "run": {"trap": Trap()}}, tmp_path / "c")
    with pytest.raises(CheckpointError, match="damaged or foreign"):
        load_checkpoint(tmp_path / "c", RUN)


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path):
    torch.save({"format": 4, "anything": 1}, tmp_path / "c")
    with pytest.raises(CheckpointError, match=r"a newer drhn wrote this checkpoint \(found format 4\); update drhn"):
        load_checkpoint(tmp_path / "c", RUN)


def test_a_checkpoint_of_an_older_version_says_what_to_do(tmp_path):
    torch.save({"format": 1, "anything": 1}, tmp_path / "c")
    message = r"an older drhn wrote this checkpoint .found format 1.; finish the run with the version that began it"
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "c", RUN)


def test_what_cannot_be_read_or_written_is_an_error(tmp_path, checkpoint):
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*directory"):
        load_checkpoint(tmp_path, RUN)
    with pytest.raises(CheckpointError, match=r"cannot write the checkpoint .*No such file"):
        save_checkpoint(tmp_path / "none" / "c", checkpoint)


def test_a_failed_write_keeps_the_old_checkpoint(path, checkpoint, monkeypatch):
    def fill_the_disk(_, stream):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fill_the_disk)
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(path, {**checkpoint, "seconds": 9.0})
    assert same(load_checkpoint(path, RUN), checkpoint)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
