"""Code files of version 2, which have a section more than version 1: an index, which is skipped."""

import base64
import json
import os
import struct
import zlib
from pathlib import Path

import pytest

from drhn_cli.codes import layout
from drhn_cli.codes.reader import CodeFile
from drhn_cli.errors import CodeFileError
from tests.drawing import draw_picture
from tests.old_files import make_version_1

# Eight codes of 8 bits, as ``drhn index`` of version 0.1.0 left them; compressed, as most of the index is zeros.
INDEXED = zlib.decompress(
    base64.b64decode(
        "eNrzdKpw42BgYGAEYhANAozIHHZGdnZGTvb/KVB+KpROg9LpUDoDSmdC6Swonc2AChihNBOUZobSLFCaFUqzweynon4eIJYAYhUg"
        "NgBiGyD2AOIQIE4A4oKM/JL8Yn0DvayCdCjbEIlthMQ2RmKbILFNkdhmSGxzENsF6vir3UeZqpWSMkuKlawsdJRSijLy4stSi4oz"
        "8/OUrJQM9Az1DJR0lNIy89JTiwqKMvNKgKKJSZRBkIH5RbmJJQibDHWUcvNTUnOAppdk5lUCVeTFZ5ak5kJcVVCUWlCUn5xaXAx0"
        "h5JVtVJxZlUqUJNZrY5SUX4+yE36BZnJJaVFqcVKtcA08p8BKSrYoEHPgRT8TNDoYoNGIws0utjRohcbZkLSP4pH8SgeXpgFS/EO"
        "EvdgQi3eQfIGs5aIaUL5uVANlTCNAgwMs+UU2M+IzN58NitcVzDe6EIE1Dz51Ru7XII8/Jz9XVwBFoCHVA=="
    )
)


def add_section(path):
    """Make a file of version 2 of another one, with some bytes for an index."""
    make_version_1(path)
    raw = Path(path).read_bytes()
    index, parts = bytes(range(100)), raw[-layout.TRAILER_SIZE : -20]
    trailer = struct.pack("<QQII", len(raw) - layout.TRAILER_SIZE, 8, 1, zlib.crc32(index)) + parts
    trailer += struct.pack("<II", 88, 2)
    trailer += struct.pack("<I8s", zlib.crc32(trailer), b"DRHNCODE")
    Path(path).write_bytes(raw[: -layout.TRAILER_SIZE] + index + trailer)


@pytest.fixture
def indexed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("indexed.bin").write_bytes(INDEXED)
    return "indexed.bin"


def test_info(drhn, indexed):
    told = json.loads(drhn("info", "--verify", "--json", indexed).out)
    expected = {"kind": "codes", "n_items": 8, "bits": 8, "root": "/pictures", "model": "tiny", "verified": True}
    assert told.items() >= expected.items()
    assert "index" not in told


def test_query_export_and_dups(drhn, indexed):
    found = drhn("query", "--code", "07", "--top", "5", "--json", indexed)
    told = [json.loads(line) for line in found.lines]
    assert [(one["path"], one["distance"]) for one in told] == [
        ("/pictures/photos/0.jpg", 0),
        ("/pictures/photos/2.jpg", 0),
        ("/pictures/photos/3.jpg", 0),
        ("/pictures/photos/6.jpg", 0),
        ("/pictures/photos/1.jpg", 2),
    ]
    groups = [json.loads(line)["pictures"] for line in drhn("dups", "--max-distance", "0", "--json", indexed).lines]
    assert [[one["path"][-5] for one in group] for group in groups] == [["6", "3", "2", "0"], ["4", "1"]]
    assert drhn("export", "--format", "tsv", indexed).status == 0


def test_the_next_write_drops_the_index(drhn, indexed):
    assert drhn("merge", indexed, "-o", "plain.bin", "-q").status == 0
    plain = Path("plain.bin").read_bytes()
    assert len(plain) < len(INDEXED)
    assert layout.TAIL.unpack(plain[-layout.TAIL.size :])[1] == layout.FORMAT_VERSION
    with CodeFile.open("plain.bin") as file, CodeFile.open(indexed) as before:
        assert file.codes.tolist() == before.codes.tolist()
        assert list(file) == list(before)
        assert file.copy_codes.shape == (8, 0)


def test_hash_goes_on_with_it_and_drops_the_index_when_something_changed(drhn, update, weights_path):
    update()
    plain = Path("codes.bin").read_bytes()
    add_section("codes.bin")
    with_index = Path("codes.bin").read_bytes()
    hash_ = ("hash", "photos", "-o", "codes.bin", "--weights", weights_path, "--json")
    assert json.loads(drhn(*hash_, "--later").out)["unchanged"] == 8
    assert Path("codes.bin").read_bytes() == with_index
    draw_picture("circle", 99, 16).save("photos/new.png")
    told = json.loads(drhn(*hash_, "--later").out)
    assert (told["unchanged"], told["added"]) == (8, 1)
    os.remove("photos/new.png")
    result = drhn(*hash_)
    assert json.loads(result.out)["removed"] == 1
    assert "8 pictures have to be read again" in result.err
    assert Path("codes.bin").read_bytes() == plain


def test_a_damaged_index_is_found_by_verify_and_hinders_nothing_else(drhn, update, weights_path):
    update()
    add_section("codes.bin")
    raw = bytearray(Path("codes.bin").read_bytes())
    raw[-100] ^= 1
    Path("codes.bin").write_bytes(raw)
    result = drhn("info", "--verify", "codes.bin")
    assert (result.status, "damaged index" in result.err) == (2, True)
    assert drhn("info", "codes.bin").status == 0
    assert drhn("query", "photos/circle/0000.png", "codes.bin").status == 0
    os.remove("photos/circle/0000.png")
    assert drhn("hash", "photos", "-o", "codes.bin", "--weights", weights_path).status == 0
    assert drhn("info", "--verify", "codes.bin").status == 0


def test_every_flipped_byte_is_found(drhn, indexed):
    for place in range(len(INDEXED)):
        Path(indexed).write_bytes(INDEXED[:place] + bytes([INDEXED[place] ^ 0x40]) + INDEXED[place + 1 :])
        with pytest.raises(CodeFileError), CodeFile.open(indexed) as file:
            file.verify()
        if place % 64 == 0:  # the command does no more, and takes much longer
            assert drhn("info", "--verify", indexed).status == 2, place


def test_faiss_opens_it(indexed):
    faiss = pytest.importorskip("faiss")
    assert faiss.read_index_binary(indexed).ntotal == 8
