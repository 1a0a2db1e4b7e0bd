import json
import os
from pathlib import Path

import pytest

from drhn_cli.codes import layout
from drhn_cli.network.model import save_model
from tests.networks import random_model


@pytest.fixture
def codes(update):
    update()
    return Path("codes.bin")


def test_a_code_file(drhn, codes, photos):
    result = drhn("info", codes)
    assert (result.status, result.err) == (0, "")
    told = dict(line.split(": ", 1) for line in result.lines)
    expected = {"kind": "codes", "n_items": "8", "bits": "64", "root": str(photos.absolute()), "model": "tiny"}
    assert told.items() >= {**expected, "verified": "no"}.items()
    assert (
        told["preprocessing"] == "fit crop, mean 0.4914 0.4822 0.4465, shrink_gap 4, size 16, std 0.247 0.2435 0.2616"
    )


def test_a_code_file_as_json(drhn, codes):
    (line,) = drhn("info", "--json", codes).lines
    assert json.loads(line).items() >= {"kind": "codes", "n_items": 8, "bits": 64}.items()


def test_a_weights_file(drhn, weights_path):
    told = dict(line.split(": ", 1) for line in drhn("info", weights_path).lines)
    assert told.items() >= {"kind": "weights", "name": "tiny", "bits": "12 16 48 64", "training": "-"}.items()
    assert "threshold 0.5" in told["network"]


def test_a_weights_file_as_json(drhn, weights_path):
    (line,) = drhn("info", "--json", weights_path).lines
    assert json.loads(line).items() >= {"kind": "weights", "bits": [12, 16, 48, 64], "measured": {}}.items()


def test_what_is_measured_is_told_and_what_is_not_is_a_dash(drhn, tmp_path):
    path = tmp_path / "w.npz"
    measured = {"on": "test", "lengths": {"16": {"accuracy": None, "mAP": 0.123456789}}}
    save_model(path, random_model(measured=measured))
    told = dict(line.split(": ", 1) for line in drhn("info", path).lines)
    assert told["measured"] == "on test, lengths 16 accuracy -, mAP 0.123457"


def test_what_would_be_a_long_line_is_indented_below_its_name(drhn, tmp_path):
    path = tmp_path / "w.npz"
    stages = [{"epochs": 15}, {"epochs": 5}]
    runs = [{"recipe": {"stage": stages}, "data": "here", "command": ["drhn", "train", *["--option"] * 30]}]
    save_model(path, random_model(training=runs))
    lines = drhn("info", path).lines
    place = lines.index("training:")
    command = "drhn train" + 30 * " --option"
    expected = ["1:", "  recipe: stage epochs 15 epochs 5", "  data: here", f"  command: {command}"]
    assert lines[place + 1 : place + 5] == [f"  {line}" for line in expected]


def test_verify_says_so(drhn, codes):
    assert "verified: yes" in drhn("info", "--verify", codes).lines


def test_verify_finds_a_flipped_bit_of_a_code(drhn, codes):
    content = bytearray(codes.read_bytes())
    content[layout.HEADER_SIZE + 3] ^= 0x10
    codes.write_bytes(content)
    assert drhn("info", codes).status == 0
    result = drhn("info", "--verify", codes)
    assert (result.status, result.out) == (2, b"")
    assert "damaged codes" in result.err
    assert "--rebuild" in result.err


@pytest.mark.parametrize("content", [b"", b"just text\n", b"\x89PNG\r\n\x1a\n" + bytes(100), b"PK\x03\x04 zip"])
def test_a_foreign_file_is_one_clear_line(drhn, tmp_path, content):
    (tmp_path / "foreign").write_bytes(content)
    result = drhn("info", tmp_path / "foreign")
    assert (result.status, result.out, len(result.err.splitlines())) == (2, b"", 1)
    assert f"{tmp_path}/foreign: " in result.err


@pytest.mark.parametrize("name", ["nowhere", ""])
def test_a_file_that_is_not_there_or_a_folder_is_one_clear_line(drhn, tmp_path, name):
    result = drhn("info", tmp_path / name)
    assert (result.status, result.out, len(result.err.splitlines())) == (2, b"", 1)


@pytest.mark.skipif(os.name != "posix", reason="POSIX only")
def test_a_root_with_a_newline_stays_on_its_line(drhn, photos, update):
    photos.rename("a\nb")
    update("a\nb")
    root = next(line for line in drhn("info", "codes.bin").lines if line.startswith("root: "))
    assert root.endswith("a\\nb")


def test_a_terminal_obeys_nothing_that_a_file_says(drhn, tmp_path):
    path = tmp_path / "w.npz"
    measured = {"on\x1b[2J": {"key\x1b]0;title\x07": "value\x1b[2J"}, "long": {f"\x1b{'z' * 300}": 1}}
    save_model(path, random_model(measured=measured, training=[{"recipe": {"stage": [{}]}, "command": ["\x1b[2J"]}]))
    out = drhn("info", path).out
    assert b"\x1b" not in out
    assert b"\x07" not in out
    assert rb"on\x1b[2J: key\x1b]0;title\x07 value\x1b[2J" in out
