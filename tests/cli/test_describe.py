"""What code files, weights files and tables say of themselves, by ``drhn info --json``."""

import json
import os
from pathlib import Path

import pytest

from drhn_cli.codes import layout
from drhn_cli.codes.reader import CodeFile
from drhn_cli.network.drhn import DRHN
from drhn_cli.network.model import load_model


@pytest.fixture
def describe(drhn):
    def call(*arguments):
        result = drhn("info", "--json", *arguments)
        assert (result.status, result.err) == (0, "")
        return json.loads(result.out)

    return call


def test_a_code_file(describe, photos, update, weights_path):
    update("photos", n_bits=12)
    weights = load_model(weights_path)
    described = describe("codes.bin")
    assert described["preprocessing"] == weights.preprocessing.to_dict()
    assert (
        described.items()
        >= {
            "kind": "codes",
            "n_items": 8,
            "bits": 12,
            "root": str(photos.absolute()),
            "model": "tiny",
            "fingerprint": weights.fingerprint,
            "verified": False,
        }.items()
    )
    assert describe("codes.bin", "--verify")["verified"] is True


def test_a_weights_file(describe, weights_path):
    weights = load_model(weights_path)
    described = describe(weights_path)
    assert described["parameters"] == sum(p.numel() for p in DRHN(weights.config).parameters())
    assert (
        described.items()
        >= {
            "kind": "weights",
            "name": "tiny",
            "bits": [12, 16, 48, 64],
            "classes": list(weights.class_names),
            "fingerprint": weights.fingerprint,
            "verified": True,
        }.items()
    )


def test_descriptions_are_json(update, weights_path):
    update("photos")
    with CodeFile.open("codes.bin") as file:
        for described in (file.describe(), load_model(weights_path).describe()):
            assert json.loads(json.dumps(described)) == described


def test_verify_finds_a_flipped_bit_of_a_code(drhn, describe, update):
    update("photos")
    content = bytearray(Path("codes.bin").read_bytes())
    content[layout.HEADER_SIZE] ^= 1
    Path("codes.bin").write_bytes(content)
    assert describe("codes.bin")["n_items"] == 8
    result = drhn("info", "codes.bin", "--verify")
    assert (result.status, result.out) == (2, b"")
    assert "damaged codes" in result.err


def refused(drhn, path):
    """Return what is said of a file that is refused."""
    result = drhn("info", path)
    assert (result.status, result.out) == (2, b"")
    return result.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the code file is empty"),
        *((content, "not a code file") for content in (b"P", b"text\n", b"\x89PNG\r\n\x1a\n")),
        (b"IBxF", "truncated, or a faiss index without paths"),
        (b"PK\x03\x04 and no more", "not a drhn weights file, or a damaged one"),
    ],
)
def test_a_foreign_file_is_refused(drhn, tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    assert f"{tmp_path}/file: {message}" in refused(drhn, tmp_path / "file")


def test_a_missing_file_is_refused(drhn, tmp_path):
    assert "nowhere: cannot read the file (found No such file" in refused(drhn, tmp_path / "nowhere")


def test_a_folder_is_refused(drhn, tmp_path):
    assert "found a folder" in refused(drhn, tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX only")
def test_a_pipe_is_refused_without_waiting_for_a_writer(drhn, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "found a pipe" in refused(drhn, tmp_path / "pipe")
