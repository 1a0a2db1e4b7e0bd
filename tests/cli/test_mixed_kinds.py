import json
import subprocess
import sys

import pytest

from tests.conftest import CHECKOUT


@pytest.fixture
def measure(photos):
    """Run the benchmark on a folder beside ``photos``, which has 2 pictures of each of 4 classes."""

    def call(folder, *options):
        command = [sys.executable, "-m", "tests.benchmarks.mixed_kinds", photos.absolute().parent / folder]
        return subprocess.run([*command, *map(str, options)], cwd=CHECKOUT, capture_output=True, text=True, check=False)

    return call


def test_few_pictures_are_enough(measure, weights_path):
    result = measure("photos", "--each", 2, "--queries", 3, "--weights", weights_path)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["hashed"], told["queries"], told["answers"]) == (8, 3, 3 * 7)
    assert told["share"] == pytest.approx(3 / (3 * 7))  # all are found, of which one is of the query's class


@pytest.mark.parametrize(
    ("folder", "options", "message"),
    [
        ("photos", (), "--each 60: the smallest class has 2 pictures"),
        ("photos/circle", ("--each", 1), "--each 1: the smallest class has 0 pictures"),
        ("photos", ("--each", 2), "--queries 50: 8 pictures are looked up among each other"),
        ("photos", ("--each", 2, "--queries", 0), "--queries 0: 8 pictures are"),
        ("photos", ("--each", 0, "--queries", 1), "--queries 1: 0 pictures are"),
        ("nowhere", (), "nowhere is no folder"),
    ],
)
def test_too_few_pictures_are_one_clear_line(measure, folder, options, message):
    result = measure(folder, *options)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
