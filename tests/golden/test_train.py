"""Weights of tiny trainings: each way of training, to the bit on one machine, and to a tolerance on any other."""

import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from drhn_cli.network.integer import float_arrays
from drhn_cli.network.model import load_model
from tests.drawing import KINDS, write_class_folders

# Low rates, and few steps: other processors then change no weight by more than 0.004, but other random draws by 0.06 or
# more. With SAM these are 0.14 and 0.4.
SHAPE = "--recipe tiny --set network.widths=[4,4,6,6,8,8] --set network.input_size=16 --bits 16"
RUN = "--epochs 2 --batch-size 16 --set stage.muon_lr=0.01 --set stage.lr=0.02 --device cpu --workers 1 --json"
NESTED = "--set network.nested=[8] --set stage.prefix_similarity=1"
TEACHER = "--set stage.distill_from=teacher.npz --set stage.distill_weight=0.5"
SAM, SWA = "--set stage.sam_rho=0.05", "--set stage.swa=0.4"
FLOAT32 = "--set stage.dtype=float32"
TRAININGS = {
    "plain": f"labelled {SHAPE} {FLOAT32}",
    "bfloat16": f"labelled {SHAPE} --set stage.dtype=bfloat16 --validation 0.25",
    "paper": f"labelled {SHAPE} --set network.downsample_at=[3,5] --set network.downsample=stride {FLOAT32} "
    "--set network.hash_norm=false",
    "nested": f"labelled {SHAPE} {NESTED} {FLOAT32} --validation 0.25",
    "sharpness": f"labelled {SHAPE} {SAM} {FLOAT32}",
    "average": f"labelled {SHAPE} {SWA} {FLOAT32} --validation 0.25",
    "teacher": f"labelled {SHAPE} {TEACHER} {FLOAT32}",
    "augmented": f"split {SHAPE} --set stage.random_resized_crop=0.6 --set stage.color_jitter=0.3 "
    f"--set stage.flip=false --set preprocessing.fit=pad --set preprocessing.views=2 {FLOAT32} --seed 3",
    "everything": f"labelled {SHAPE} {NESTED} {TEACHER} {SAM} {SWA} --set stage.random_resized_crop=0.6 {FLOAT32}",
    "bfloat16_everything": f"labelled {SHAPE} {NESTED} {TEACHER} {SAM} {SWA} --set stage.dtype=bfloat16",
    "from": f"labelled --from tiny.npz --bits 24 {FLOAT32} --validation 0.25",
}

_OF_ROUNDED_WEIGHTS = re.compile(r'(?<="n_codes": )\d+|(?<="fingerprint": ")[0-9a-f]{64}')


class Stopping(io.TextIOWrapper):
    """A stderr on which Ctrl-C comes when an epoch is told of."""

    def write(self, text):
        super().write(text)
        if "epoch 1:" in text:
            raise KeyboardInterrupt
        return len(text)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Pictures of three classes, a split of them, and what a teacher sees in them."""
    folder = tmp_path_factory.mktemp("inputs")
    labelled = write_class_folders(folder / "labelled", KINDS[:3], n=20, size=20)
    (labelled / "circle" / "text.png").write_bytes(b"no picture")
    shutil.copytree(labelled, folder / "split" / "train")
    write_class_folders(folder / "split" / "test", KINDS[:3], n=4, size=20, seed=1)
    paths = [str(path.relative_to(labelled)) for path in sorted(labelled.rglob("*.png"))]
    features = np.random.default_rng(0).normal(0, 0.3, (len(paths), 8))
    for row, path in enumerate(paths):
        features[row, KINDS.index(Path(path).parent.name)] += 1
    np.savez(folder / "teacher.npz", paths=paths, features=features.astype(np.float32))
    return folder


@pytest.fixture
def session(session, inputs):
    shutil.copytree(inputs, ".", dirs_exist_ok=True)
    return session


def arrays_of(path):
    """Return the floats that the integers of the file stand for."""
    return float_arrays(load_model(path))


def check(golden, session, name):
    has_sam = name in ("sharpness", "everything", "bfloat16_everything", "resumed")
    golden.check_arrays(
        f"train_{name}", arrays_of("w.npz"), tolerance=0.2 if has_sam else 0.03
    )  # 0.01 and a step of 8 bits
    session("info w.npz --json")
    session.add(Path("w.history.jsonl").read_text())
    text = session.text if golden.is_exact else _OF_ROUNDED_WEIGHTS.sub("N", session.text)
    golden.check_text(f"train_{name}.txt", text, tolerance=0.2 if has_sam else 0.1)


@pytest.mark.parametrize("name", TRAININGS)
def test_trained_weights(session, golden, name):
    assert session(f"train {TRAININGS[name]} {RUN} -o w.npz") == 0
    check(golden, session, name)


def test_a_resumed_run_ends_with_the_same_weights(session, golden):
    line = f"train {TRAININGS['everything']} {RUN} -o"
    assert session(f"{line} w.npz", stderr=Stopping(io.BytesIO(), write_through=True)) == 130
    assert session(f"{line} w.npz") == 2
    assert session(f"{line} w.npz --resume --seed 1") == 2
    assert session(f"{line} w.npz --resume") == 0
    check(golden, session, "resumed")
    assert session(f"{line} whole.npz --quiet") == 0
    resumed, whole = arrays_of("w.npz"), arrays_of("whole.npz")
    assert {name: array.tobytes() for name, array in resumed.items()} == {
        name: array.tobytes() for name, array in whole.items()
    }
    assert not Path("w.npz.checkpoint").exists()
