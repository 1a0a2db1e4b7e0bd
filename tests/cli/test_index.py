import json
import os
from pathlib import Path

import pytest

from drhn_cli.codes import layout
from drhn_cli.codes.reader import CodeFile, lock_code_file
from drhn_cli.jobs import index as job
from tests.drawing import draw_picture

CODE = "0123456789abcdef"


@pytest.fixture
def codes(update):
    update()
    return Path("codes.bin")


def test_an_index_changes_no_answer(drhn, codes):
    before = [drhn("query", "--code", CODE, *options, codes).out for options in ((), ("--max-distance", "30"))]
    result = drhn("index", codes)
    assert (result.status, result.out) == (0, b"")
    assert result.err.startswith("drhn: codes.bin: index of 8 codes (8 tables of 8 entries, 8,480 bytes) in ")
    assert [drhn("query", "--code", CODE, *options, codes).out for options in ((), ("--max-distance", "30"))] == before


def test_info_tells_of_the_index(drhn, codes):
    assert "index: -" in drhn("info", codes).lines
    assert json.loads(drhn("info", "--json", codes).out)["index"] is None
    drhn("index", codes, "-q")
    assert "index: n_distinct 8, widths 8 8 8 8 8 8 8 8" in drhn("info", "--verify", codes).lines
    assert json.loads(drhn("info", "--json", codes).out)["index"] == {"n_distinct": 8, "widths": [8] * 8}


def test_as_json_and_quiet(drhn, codes):
    told = json.loads(drhn("index", "--json", codes).out)
    assert told.pop("seconds") >= 0
    assert told == {"n_items": 8, "n_distinct": 8, "widths": [8] * 8, "n_bytes": 8 * (257 * 4 + 8 * 4)}
    result = drhn("index", "-q", codes)
    assert (result.status, result.out, result.err) == (0, b"", "")


def test_hashing_drops_the_index_only_when_something_changed(drhn, codes, update):
    drhn("index", codes)
    update()
    with CodeFile.open(codes) as file:
        assert file.index is not None
    draw_picture("circle", 99, 16).save("photos/new.png")
    update()
    with CodeFile.open(codes) as file:
        assert (file.index, file.n_items) == (None, 9)


def test_hashing_says_that_the_index_is_gone(drhn, codes, weights_path):
    drhn("index", codes)
    said = "its index no longer fits and is gone; make a new one with drhn index"
    hash_ = ("hash", "photos", "-o", codes, "--weights", weights_path)
    assert said not in drhn(*hash_).err
    os.remove("photos/circle/0000.png")
    assert said in drhn(*hash_).err
    assert said not in drhn(*hash_).err


def test_a_damaged_index_is_made_anew(drhn, codes):
    drhn("index", codes)
    whole = codes.read_bytes()
    damaged = bytearray(whole)
    damaged[-200] ^= 1
    codes.write_bytes(damaged)
    result = drhn("info", "--verify", codes)
    assert (result.status, "damaged index" in result.err, "drhn index" in result.err) == (2, True, True)
    assert drhn("index", codes).status == 0
    assert codes.read_bytes() == whole


def test_damaged_codes_get_no_index(drhn, codes):
    content = bytearray(codes.read_bytes())
    content[layout.HEADER_SIZE + 3] ^= 0x10
    codes.write_bytes(content)
    result = drhn("index", codes)
    assert (result.status, result.out) == (2, b"")
    assert "damaged codes" in result.err
    assert codes.read_bytes() == content


def test_no_file_and_a_locked_one(drhn, codes, monkeypatch):
    assert "no such code file" in drhn("index", "other.bin").err
    monkeypatch.setattr(job, "LOCK_TIMEOUT_SECONDS", 0)
    with lock_code_file(codes):
        result = drhn("index", codes)
    assert (result.status, "another drhn is writing" in result.err) == (2, True)
