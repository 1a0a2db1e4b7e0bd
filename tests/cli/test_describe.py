import json
import os
from pathlib import Path

import pytest

from drhn_cli.cli.describe import describe_bundled, describe_file
from drhn_cli.codes import layout
from drhn_cli.errors import CodeFileError, DrhnError, WeightsError
from drhn_cli.network.drhn import DRHN
from drhn_cli.network.model import DEFAULT, load_model


def test_a_code_file(photos, update, weights_path):
    update("photos", n_bits=12)
    weights = load_model(weights_path)
    described = describe_file("codes.bin")
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
    assert describe_file("codes.bin", verify=True)["verified"] is True


def test_a_weights_file(weights_path):
    weights = load_model(weights_path)
    described = describe_file(weights_path)
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
    for path in ("codes.bin", weights_path):
        described = describe_file(path)
        assert json.loads(json.dumps(described)) == described


def test_the_bundled_models_are_described_by_name():
    models = describe_bundled()
    assert DEFAULT in [model["name"] for model in models]
    assert all(model["kind"] == "weights" for model in models)


def test_verify_finds_a_flipped_bit_of_a_code(update):
    update("photos")
    content = bytearray(Path("codes.bin").read_bytes())
    content[layout.HEADER_SIZE] ^= 1
    Path("codes.bin").write_bytes(content)
    assert describe_file("codes.bin")["n_items"] == 8
    with pytest.raises(CodeFileError, match="damaged codes"):
        describe_file("codes.bin", verify=True)


@pytest.mark.parametrize("content", [b"", b"P", b"text\n", b"\x89PNG\r\n\x1a\n", b"IBxF"])
def test_a_foreign_file_is_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CodeFileError):
        describe_file(tmp_path / "file")


def test_a_foreign_zip_file_is_refused_as_weights(tmp_path):
    (tmp_path / "file").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(WeightsError):
        describe_file(tmp_path / "file")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DrhnError, match=r"nowhere: cannot read the file \(found No such file"):
        describe_file(tmp_path / "nowhere")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(CodeFileError, match="found a folder"):
        describe_file(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX only")
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CodeFileError, match="found a pipe"):
        describe_file(tmp_path / "pipe")
