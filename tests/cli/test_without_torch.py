"""What works where torch is not installed: everything but training, GPUs, and the CIFAR-10 of torchvision."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from drhn_cli.network.model import save_model
from drhn_cli.network.quantize import quantize
from tests.drawing import KINDS, write_class_folders
from tests.networks import drawn, random_model, tiny_config

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
sys.modules["torch"] = sys.modules["torchvision"] = None
sys.argv[0] = "drhn"
from drhn_cli.__main__ import main
main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    write_class_folders(folder / "data" / "train", KINDS, n=3, size=16)
    write_class_folders(folder / "data" / "test", KINDS, n=1, size=16, seed=1)
    model = random_model(tiny_config(), class_names=KINDS, training=[])
    save_model(folder / "w.npz", quantize(model, drawn(3).pixels))
    return folder


def drhn(folder, *arguments):
    command = [sys.executable, "-c", PROGRAM, *arguments]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_pictures_are_hashed_found_and_measured(folder):
    done = drhn(folder, "hash", "data/train", "-o", "codes.bin", "--weights", "w.npz", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = drhn(folder, "query", "data/test/circle/0000.png", "codes.bin", "--weights", "w.npz", "--top", "3")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 3), done.stderr
    done = drhn(folder, "eval", "data", "--weights", "w.npz", "--json")
    assert done.returncode == 0, done.stderr
    assert '"mAP"' in done.stdout
    for line in (["info", "w.npz"], ["dups", "codes.bin"]):
        assert drhn(folder, *line).returncode in (0, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "data", "-o", "new.npz", "--recipe", "tiny"],
        ["hash", "data/train", "-o", "new.bin", "--weights", "w.npz", "--device", "cuda"],
        ["eval", "data", "--weights", "w.npz", "--device", "cuda"],
    ],
)
def test_what_needs_torch_says_so(folder, arguments):
    done = drhn(folder, *arguments)
    assert done.returncode == 2
    message = done.stderr.splitlines()[-1]
    assert "torch is not installed, and this needs it; install it: pip install torch torchvision" in message
    assert "Traceback" not in done.stderr


def test_codes_are_those_of_torch(folder):
    import torch

    from drhn_cli.codes.reader import CodeFile
    from drhn_cli.images.load import load_image
    from drhn_cli.network import drhn as network
    from drhn_cli.network.encoder import codes_of
    from drhn_cli.network.integer import load_head
    from drhn_cli.network.model import load_model

    drhn(folder, "hash", "data/train", "-o", "codes.bin", "--weights", "w.npz", "-q")
    model = load_model(folder / "w.npz")
    with CodeFile.open(folder / "codes.bin") as file:
        pixels = np.stack([load_image(f"{file.root}/{entry.path.decode()}", model.preprocessing) for entry in file])
        sums = network.load_integer_trunk(model, torch.device("cpu"))(pixels)
        assert np.array_equal(file.codes, codes_of(load_head(model)(sums), model.config, 16))
