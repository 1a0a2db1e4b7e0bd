import errno
import json
import mmap
import os
import stat
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from drhn_cli.codes import layout
from drhn_cli.codes import reader as file_module
from drhn_cli.codes import writer as write
from drhn_cli.codes.entries import CONTENT_DTYPE, NOT_READ, UNKNOWN_TIME, Entries, Entry
from drhn_cli.codes.manifest import CodeManifest, CopyCodes, LastRun, Shard
from drhn_cli.codes.reader import CodeFile
from drhn_cli.codes.writer import write_code_file
from drhn_cli.errors import CodeFileError, ConfigError, DrhnError
from drhn_cli.files import FileStamp
from drhn_cli.search.hamming import search
from tests.entries import entries_of
from tests.hearing import Hearing
from tests.locking import lock_code_file
from tests.old_files import make_version_1

POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX only")
NOT_ROOT = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may do anything")


def with_part(part):
    """Return the manifest of five codes, with this part."""
    return manifest().to_json(n_items=5, format_version=1).replace(b"{", b'{"part":' + part + b",", 1)


def manifest(n_bits=12, **values):
    return CodeManifest(
        **{"root": "/photos", "n_bits": n_bits, "model": "fast", "fingerprint": "f" * 64, **values},
    )


def random_codes(n, n_bits, seed=0):
    bits = np.random.default_rng(seed).random((n, n_bits)) < 0.5
    return np.packbits(bits, axis=1, bitorder="little")


def numbered(n):
    return entries_of([b"%06d.jpg" % i for i in range(n)], range(n), range(10**18, 10**18 + n), range(n))


def write_some(path, n=5, n_bits=12, copy_codes=None):
    codes = random_codes(n, n_bits)
    kind = copy_codes and CopyCodes(dct=1, head="a" * 64 if copy_codes == 64 else None)
    rows = copy_codes and random_codes(n, 8 * copy_codes, seed=1)
    write_code_file(path, codes, numbered(n), manifest(n_bits, copy_codes=kind), rows)
    return codes


def reseal(path, *, trailer=None, **parts):
    """Change parts of a file and give it the CRC-32s that fit, as a hostile writer would."""
    raw = path.read_bytes()
    old = layout.Trailer.unpack(raw[-layout.TRAILER_SIZE :])
    ends = [0, layout.HEADER_SIZE, old.entries_offset, old.table_offset, old.manifest_offset, -layout.TRAILER_SIZE]
    names = ("header", "codes", "entries", "table", "manifest")
    contents = {name: raw[a:b] for name, a, b in zip(names, ends, ends[1:], strict=False)} | parts
    if "entries" in parts and "table" not in parts:
        row = np.array([(len(parts["entries"]), zlib.crc32(parts["entries"]), 0)], dtype=layout.TABLE_DTYPE)
        contents["table"] = row.tobytes()
    offsets = np.cumsum([len(contents[name]) for name in names]).tolist()
    values = {
        "entries_offset": offsets[1],
        "table_offset": offsets[2],
        "manifest_offset": offsets[3],
        "block_rows": old.block_rows,
        **{f"{name}_crc": zlib.crc32(contents[name]) for name in names if name != "entries"},
        **(trailer or {}),
    }
    path.write_bytes(b"".join(contents[name] for name in names) + layout.Trailer(**values).pack())


NOT_BELOW = (b"", b"/etc/passwd", b"../x", b"a/../../x", b"a/..", b"a//b", b"a/", b"a\0b", b"x" * 4096)
NO_MANIFESTS = (
    *({"root": root} for root in ("", "photos", "./photos", "/a/../b", "/a\0b", "/\ud800", "/" + "x" * 4096)),
    {"model": "\ud800"},
    {"fingerprint": "ab"},
    *(
        {"copy_codes": kind}
        for kind in (1, {}, {"dct": 1}, {"dct": 0, "head": None}, {"dct": True, "head": None}, {"dct": 1, "head": "a"})
    ),
    {"copy_codes": {"dct": 1, "head": None}},  # there are none
    {"options": []},
    {"options": {}, "sources": "/photos"},
    {"options": {}, "sources": [1]},
)


def five_entries(first, size=0):
    return layout.pack_block(entries_of([first, b"y1", b"y2", b"y3", b"y4"], [size, 0, 0, 0, 0], 0))


def changed_manifest(**values):
    text = manifest(preprocessing={"size": 32}).to_json(n_items=5, format_version=3)
    return json.dumps(json.loads(text) | values, separators=(",", ":")).encode()


# Reading back


def test_rows_come_back_sorted_by_path(tmp_path):
    path = tmp_path / "codes.bin"
    entries = entries_of([b"b", b"a/z", b"a"], [1, 2, 3], [-1, 5, 2**62], [2**64 - 1, 0, 7])
    write_code_file(path, np.array([[1], [2], [3]], np.uint8), entries, manifest(8, preprocessing={"size": 32}))
    with CodeFile.open(path) as codes:
        assert codes.path == path
        assert (codes.n_items, len(codes), codes.n_bits, codes.root) == (3, 3, 8, "/photos")
        assert codes.codes.tolist() == [[3], [2], [1]]
        assert codes.manifest == manifest(8, preprocessing={"size": 32})
        assert [entry.path for entry in codes] == [b"a", b"a/z", b"b"]
        assert codes.entry(0) == Entry(path=b"a", stamp=FileStamp(size=3, mtime_ns=2**62, inode=7))
        assert codes.entry(2) == Entry(path=b"b", stamp=FileStamp(size=1, mtime_ns=-1, inode=2**64 - 1))
        assert codes.path_bytes(np.int64(1)) == b"a/z"
        assert list(codes.entries()) == list(codes)
        codes.verify()


def test_codes_are_the_file_itself(tmp_path):
    write_some(tmp_path / "codes.bin")
    with CodeFile.open(tmp_path / "codes.bin") as codes:
        view = codes.codes
        assert not view.flags.writeable
        assert not view.flags.owndata
        assert view.shape == (5, 2)
    assert view.tolist() == random_codes(5, 12).tolist()  # and outlive the with block


def test_closing_twice_is_no_harm(tmp_path):
    write_some(tmp_path / "codes.bin")
    codes = CodeFile.open(tmp_path / "codes.bin")
    codes.close()
    codes.close()
    with pytest.raises(ValueError, match="closed"):
        codes.path_bytes(0)


@pytest.mark.parametrize("n", [0, 1, layout.BLOCK_ROWS, layout.BLOCK_ROWS + 1, 2 * layout.BLOCK_ROWS + 3])
def test_any_number_of_blocks(tmp_path, n):
    path = tmp_path / "codes.bin"
    written = write_some(path, n)
    with CodeFile.open(path) as codes:
        codes.verify()
        assert codes.codes.shape == (n, 2)
        assert (codes.codes == written).all()
        for row in {0, n // 2, n - 1} if n else ():
            assert codes.find(codes.path_bytes(row)) == row
            assert codes.entry(row) == numbered(n)[row]
        assert codes.find(b"") is None
        assert codes.find(b"~") is None
        assert codes.find(b"000000.jpg~") is None
        assert list(codes.entries().paths()) == list(numbered(n).paths())


CONTENTS = np.array(
    [(bytes(range(16)), 640, 480, 10**18), (b"\0" * 15 + b"\1", 2**32 - 1, 1, UNKNOWN_TIME), NOT_READ.tolist()],
    CONTENT_DTYPE,
)


def test_what_reading_the_pictures_told_comes_back(tmp_path):
    path = tmp_path / "codes.bin"
    stamps = [FileStamp(1, 2, 3, 4, 5), FileStamp(6, -7, 2**64 - 1, -(2**63), 2**64 - 1), FileStamp(8, 9)]
    entries = Entries.from_stamps([b"a", b"bb", b"ccc"], stamps, CONTENTS)
    last_run = LastRun(sources=["/photos", "/\udcff"], options={"exclude": ["*.gif"], "hidden": True})
    kind = CopyCodes(dct=3, head="b" * 64)
    signs = random_codes(3, 512)
    write_code_file(path, random_codes(3, 12), entries, manifest(copy_codes=kind, last_run=last_run), signs)
    with CodeFile.open(path) as codes:
        assert (codes.manifest.copy_codes, codes.manifest.last_run) == (kind, last_run)
        assert codes.copy_codes.tolist() == signs.tolist()
        assert not codes.copy_codes.flags.owndata
        assert codes.entry(0) == Entry(
            path=b"a", stamp=stamps[0], digest=bytes(range(16)), width=640, height=480, taken_ns=10**18
        )
        assert [codes.entry(row) for row in range(3)] == list(codes.entries()) == list(entries)
        assert (codes.entry(1).taken_ns, codes.entry(2).digest, codes.entry(2).width) == (None, b"", 0)
        assert codes.entries().are_read().tolist() == [True, True, False]
        codes.verify()


@pytest.mark.parametrize("copy_codes", [None, 32, 64])
def test_faiss_opens_a_file_with_copy_codes(tmp_path, copy_codes):
    faiss = pytest.importorskip("faiss")
    write_some(tmp_path / "codes.bin", 7, 64, copy_codes=copy_codes)
    index = faiss.read_index_binary(str(tmp_path / "codes.bin"))
    assert faiss.vector_to_array(index.xb).tolist() == random_codes(7, 64).ravel().tolist()


@pytest.mark.parametrize("n", [0, 1, layout.BLOCK_ROWS + 1])
def test_version_1_is_read(tmp_path, n):
    path = tmp_path / "codes.bin"
    written = write_some(path, n, copy_codes=32)
    make_version_1(path)
    with CodeFile.open(path) as codes:
        codes.verify()
        assert (codes.codes == written).all()
        assert codes.copy_codes.shape == (n, 0)
        assert (codes.manifest.copy_codes, codes.manifest.last_run) == (None, None)
        entries = codes.entries()
        assert not entries.are_read().any()
        assert list(entries) == list(numbered(n))
        for row in {0, n - 1} if n else ():
            assert codes.entry(row) == numbered(n)[row]


def test_copy_codes_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(DrhnError, match="copy codes do not fit"):
        write_code_file(tmp_path / "c", random_codes(3, 12), numbered(3), manifest(), np.zeros((3, 32), np.uint8))


@pytest.mark.parametrize("row", [-1, 5])
def test_rows_that_do_not_exist(tmp_path, row):
    write_some(tmp_path / "codes.bin")
    with CodeFile.open(tmp_path / "codes.bin") as codes, pytest.raises(IndexError):
        codes.entry(row)


def test_any_name_survives(tmp_path):
    names = sorted([b"caf\xe9.jpg", b"new\nline", b" ", "é".encode(), b"\x01", b"x" * 4000])
    path = tmp_path / "codes.bin"
    root = os.fsdecode(b"/photos/caf\xe9")
    entries = entries_of(names, [0] * 6, [0] * 6)
    write_code_file(path, random_codes(6, 12), entries, manifest(root=root))
    with CodeFile.open(path) as codes:
        assert [entry.path for entry in codes] == names
        assert [codes.find(name) for name in names] == list(range(6))
        assert os.fsencode(codes.root) == b"/photos/caf\xe9"
        assert codes.entry(0).stamp.inode == 0


def test_search_runs_over_the_mapped_codes(tmp_path):
    written = write_some(tmp_path / "codes.bin", 300, 48)
    with CodeFile.open(tmp_path / "codes.bin") as codes:
        (result,) = search(codes.codes, written[299:], n_bits=48, top_k=1)
        assert (result.indices[0], result.distances[0]) == (299, 0)
        del result


@pytest.mark.parametrize("n_bits", [8, 12, 16, 48, 64, 128])
def test_faiss_opens_the_file_as_it_is(tmp_path, n_bits):
    faiss = pytest.importorskip("faiss")
    path = tmp_path / "codes.bin"
    written = write_some(path, 50, n_bits)
    index = faiss.read_index_binary(str(path))
    assert type(index) is faiss.IndexBinaryFlat
    assert (index.ntotal, index.code_size) == (50, -(-n_bits // 8))
    distances, _ = index.search(written[:5], 50)
    for row, result in zip(distances, search(written, written[:5], n_bits=n_bits), strict=True):
        assert row.tolist() == result.distances.tolist()


def test_faiss_opens_an_empty_file(tmp_path):
    faiss = pytest.importorskip("faiss")
    write_some(tmp_path / "codes.bin", 0)
    assert faiss.read_index_binary(str(tmp_path / "codes.bin")).ntotal == 0


def test_eight_bytes_follow_the_codes_at_least(tmp_path):
    write_some(tmp_path / "codes.bin", 0)
    assert layout.TRAILER_SIZE == 64
    assert (tmp_path / "codes.bin").stat().st_size > layout.HEADER_SIZE + 8


# Refusing what is not a whole code file


@pytest.mark.parametrize("version", [1, 3])
def test_every_flipped_byte_is_found(tmp_path, version):
    path = tmp_path / "codes.bin"
    write_some(path, 3, copy_codes=32)
    if version == 1:
        make_version_1(path)
    raw = path.read_bytes()
    codes = range(layout.HEADER_SIZE, layout.HEADER_SIZE + 6)
    copy_codes = range(codes.stop, codes.stop + (0 if version == 1 else 96))
    for place in range(len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 0x40]) + raw[place + 1 :])
        if place in codes or place in copy_codes:
            match = "damaged codes" if place in codes else "damaged copy codes"
            with CodeFile.open(path) as damaged, pytest.raises(CodeFileError, match=match):
                damaged.verify()
        else:
            with pytest.raises(CodeFileError):
                CodeFile.open(path)


def test_every_truncation_is_found(tmp_path):
    path = tmp_path / "codes.bin"
    write_some(path, 3)
    raw = path.read_bytes()
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        with pytest.raises(CodeFileError):
            CodeFile.open(path)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "the code file is empty"),
        (b"x", "not a code file"),
        (b"\x89PNG" + b"x" * 500, r"not a code file \(expected IBxF at its start, found b'\\x89PNG'\)"),
        (b"IBxF", "truncated, or a faiss index without paths"),
        (b"IBxF" + b"x" * 500, "truncated, or a faiss index without paths"),
    ],
)
def test_foreign_and_short_files(tmp_path, contents, message):
    path = tmp_path / "codes.bin"
    path.write_bytes(contents)
    with pytest.raises(CodeFileError, match=message) as caught:
        CodeFile.open(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint


def test_missing_file(tmp_path):
    with pytest.raises(CodeFileError, match="no such code file; make one with drhn hash"):
        CodeFile.open(tmp_path / "codes.bin")


def test_folder(tmp_path):
    with pytest.raises(CodeFileError, match=r"expected a regular file, found a folder|cannot open"):
        CodeFile.open(tmp_path)


@POSIX
def test_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CodeFileError, match="found a pipe or device"):
        CodeFile.open(tmp_path / "pipe")


@POSIX
@NOT_ROOT
def test_unreadable_file(tmp_path):
    write_some(tmp_path / "codes.bin")
    (tmp_path / "codes.bin").chmod(0)
    with pytest.raises(CodeFileError, match="Permission denied"):
        CodeFile.open(tmp_path / "codes.bin")


@pytest.mark.parametrize(
    ("module", "function", "message"), [(os, "open", "cannot open"), (mmap, "mmap", "cannot read")]
)
def test_errors_of_the_system_are_told(tmp_path, monkeypatch, module, function, message):
    write_some(tmp_path / "codes.bin")
    monkeypatch.setattr(module, function, fail_with(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(CodeFileError, match=f"{message} the code file .found Input/output error"):
        CodeFile.open(tmp_path / "codes.bin")


def test_newer_version(tmp_path):
    path = tmp_path / "codes.bin"
    write_some(path)
    raw = path.read_bytes()
    longer = b"something new" + raw[-64:-20] + struct.pack("<II", 77, 4)
    path.write_bytes(raw[:-64] + longer + struct.pack("<I", zlib.crc32(longer)) + b"DRHNCODE")
    with pytest.raises(
        CodeFileError, match=r"newer version \(expected format 1 or 2 or 3, found format 4\); update drhn"
    ):
        CodeFile.open(path)


@pytest.mark.parametrize(
    ("parts", "part"),
    [
        ({"trailer": {"table_offset": 0}}, "trailer"),
        ({"trailer": {"manifest_offset": 2**60}}, "trailer"),
        ({"trailer": {"block_rows": 0}}, "trailer"),
        ({"header": layout.pack_header(4, 2)}, "header"),
        ({"header": b"IBxF" + bytes(29)}, "header"),
        ({"header": b"IxF2" + layout.pack_header(5, 2)[4:]}, "header"),
        ({"header": struct.pack("<4siiqBiQ", b"IBxF", -8, -1, -5, 1, 1, 5)}, "header"),
        ({"manifest": b"{"}, "manifest"),
        ({"manifest": b"\xff"}, "manifest"),
        ({"manifest": b"[" * 100_000}, "manifest"),
        ({"manifest": b"[]"}, "manifest"),
        ({"manifest": b"{}"}, "manifest"),
        ({"manifest": manifest().to_json(n_items=4, format_version=1)}, "manifest"),
        ({"manifest": manifest(17).to_json(n_items=5, format_version=1)}, "manifest"),
        ({"manifest": manifest().to_json(n_items=5, format_version=1).replace(b":12", b":0")}, "manifest"),
        ({"manifest": manifest().to_json(n_items=5, format_version=1).replace(b":12", b":true")}, "manifest"),
        ({"manifest": with_part(b"null")}, "manifest"),
        ({"manifest": with_part(b'{"number":1,"count":2}')}, "manifest"),
        ({"manifest": with_part(b'{"number":3,"count":2,"finished":true}')}, "manifest"),
        ({"manifest": with_part(b'{"number":true,"count":2,"finished":true}')}, "manifest"),
        ({"table": b""}, "block table"),
        ({"table": bytes(12)}, "block table"),
        ({"entries": b"short"}, "entries"),
        ({"entries": bytes(24 * 5 + 4 * 6) + b"path"}, "entries"),
        ({"entries": bytes(24 * 5 + 4 * 6) + b"path" + bytes(48 * 5)}, "entries"),
        *(({"entries": five_entries(path)}, "entries") for path in NOT_BELOW),
        ({"entries": five_entries(b"x", size=-1)}, "entries"),
        *(({"manifest": changed_manifest(**values)}, "manifest") for values in NO_MANIFESTS),
        (
            {"manifest": changed_manifest().replace(b'{"size"', b'{"deep":' + b"[" * 40 + b"]" * 40 + b',"size"')},
            "manifest",
        ),
        ({"manifest": changed_manifest().replace(b":32", b":1e999")}, "manifest"),
        ({"manifest": changed_manifest().replace(b":32", b":NaN")}, "manifest"),
    ],
)
def test_parts_that_contradict_each_other(tmp_path, parts, part):
    path = tmp_path / "codes.bin"
    write_some(path)
    reseal(path, **parts)
    with pytest.raises(CodeFileError, match=f"damaged {part} .*; hash again with --rebuild"):
        CodeFile.open(path)


def test_the_part_of_a_collection_survives(tmp_path):
    path = tmp_path / "codes.bin"
    shard = Shard(number=2, count=4, finished=False)
    write_code_file(path, random_codes(5, 12), numbered(5), manifest(shard=shard))
    with CodeFile.open(path) as codes:
        assert codes.manifest.shard == shard


def test_unknown_manifest_keys_are_ignored(tmp_path):
    path = tmp_path / "codes.bin"
    write_some(path)
    text = manifest().to_json(n_items=5, format_version=1)
    reseal(path, manifest=text.replace(b"{", b'{"new":[1],', 1))
    with CodeFile.open(path) as codes:
        codes.verify()
        assert codes.manifest == manifest()


def test_verify_finds_padding_bits_and_unsorted_paths(tmp_path):
    path = tmp_path / "codes.bin"
    write_some(path, 2)
    reseal(path, codes=b"\xff\xff\xff\x0f")
    with CodeFile.open(path) as codes, pytest.raises(CodeFileError, match=r"damaged codes .expected 12 bits a code"):
        codes.verify()
    for names in ([b"b", b"a"], [b"a", b"a"]):
        write_some(path, 2)
        reseal(path, entries=layout.pack_block(entries_of(names, [0, 0], [0, 0])))
        with CodeFile.open(path) as codes, pytest.raises(CodeFileError, match="ascending order"):
            codes.verify()


def test_large_entries_are_checked_when_first_read(tmp_path, monkeypatch):
    monkeypatch.setattr(file_module, "_CHECKED_AT_OPEN", 0)
    path = tmp_path / "codes.bin"
    n = 2 * layout.BLOCK_ROWS
    write_some(path, n)
    raw = bytearray(path.read_bytes())
    raw[layout.Trailer.unpack(bytes(raw[-64:])).table_offset - 1] ^= 1  # the last path of the second block
    path.write_bytes(raw)
    with CodeFile.open(path) as codes:
        assert codes.path_bytes(3) == b"000003.jpg"
        assert codes.entry(3).stamp.size == 3
        assert next(iter(codes)).path == b"000000.jpg"
        for read in (lambda: codes.path_bytes(n - 1), codes.entries, codes.verify):
            with pytest.raises(CodeFileError, match="damaged entries"):
                read()


# Writing whole or not at all


def test_equal_content_gives_equal_bytes(tmp_path):
    codes, entries = random_codes(9, 12), numbered(9)
    order = np.random.default_rng(1).permutation(9)
    write_code_file(tmp_path / "a", codes, entries, manifest(preprocessing={"a": 1, "b": 2}))
    write_code_file(tmp_path / "b", codes[order], entries.take(order), manifest(preprocessing={"b": 2, "a": 1}))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_may_be_rewritten_from_itself(tmp_path):
    path = tmp_path / "codes.bin"
    written = write_some(path, 5)
    with CodeFile.open(path) as old:
        kept = np.array([4, 0])
        write_code_file(path, old.codes[kept], old.entries().take(kept), old.manifest)
        assert old.n_items == 5
    with CodeFile.open(path) as new:
        assert new.codes.tolist() == written[[0, 4]].tolist()
        assert [entry.path for entry in new] == [b"000000.jpg", b"000004.jpg"]


@pytest.mark.parametrize("path_type", [str, os.fsencode])
def test_paths_of_any_type(tmp_path, path_type):
    path = path_type(tmp_path / "codes.bin")
    with lock_code_file(path):
        write_some(path)
    with CodeFile.open(path) as codes:
        assert codes.n_items == 5


@pytest.mark.parametrize(
    ("codes", "names", "error", "message"),
    [
        (np.zeros((2, 2), np.uint8), [b"a", b"a"], CodeFileError, "two entries have the same path .found a"),
        (np.zeros((3, 2), np.uint8), [b"b", b"a", b"b"], CodeFileError, "two entries have the same path"),
        (np.zeros((2, 2), np.uint8), [b"a", b""], DrhnError, "a code file cannot hold a path of 0 bytes"),
        (np.zeros((1, 2), np.uint8), [b"x" * 70000], DrhnError, "cannot hold a path of 70000 bytes"),
        (np.zeros((1, 2), np.uint8), [b"a", b"b"], DrhnError, "differ in number .expected 1, found 2"),
        (np.zeros((1, 3), np.uint8), [b"a"], DrhnError, "do not hold 12-bit codes"),
        (np.full((1, 2), 255, np.uint8), [b"a"], DrhnError, "codes have more than 12 bits"),
    ],
)
def test_contents_that_do_not_fit(tmp_path, codes, names, error, message):
    entries = entries_of(names, [0] * len(names), [0] * len(names))
    with pytest.raises(error, match=message):
        write_code_file(tmp_path / "codes.bin", codes, entries, manifest())
    assert not any(tmp_path.iterdir())


def test_manifest_refuses_other_lengths():
    with pytest.raises(ConfigError):
        manifest(0)


def fail_with(error):
    def fail(*_args, **_keywords):
        raise error

    return fail


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("function", ["replace", "fsync", "open"])
@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()])
def test_the_old_file_survives_any_failure(tmp_path, monkeypatch, function, error):
    path = tmp_path / "codes.bin"
    write_some(path, 3)
    before = path.read_bytes()
    monkeypatch.setattr(os, function, fail_with(error))
    with pytest.raises(CodeFileError if error is FULL else KeyboardInterrupt) as caught:
        write_some(path, 7)
    monkeypatch.undo()
    if error is FULL:
        assert "cannot write the code file (found No space left on device); the old file" in str(caught.value)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["codes.bin"]


@pytest.mark.parametrize("step", ["pack_header", "pack_block"])
@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()])
def test_the_old_file_survives_a_failure_halfway(tmp_path, monkeypatch, step, error):
    path = tmp_path / "codes.bin"
    write_some(path, 3)
    before = path.read_bytes()
    monkeypatch.setattr(write.layout, step, fail_with(error))
    with pytest.raises(CodeFileError if error is FULL else KeyboardInterrupt):
        write_some(path, 7)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["codes.bin"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_device_is_no_place_for_a_code_file():
    with pytest.raises(CodeFileError, match="a folder, pipe or device is in its place"):
        write_some("/dev/full")


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(CodeFileError, match="No such file or directory"):
        write_some(tmp_path / "none" / "codes.bin")


def test_a_folder_in_its_place(tmp_path):
    with pytest.raises(CodeFileError, match="cannot write the code file"):
        write_some(tmp_path)


def test_a_folder_that_cannot_be_synced_does_not_matter(tmp_path, monkeypatch):
    path = tmp_path / "codes.bin"
    real_fsync = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_some(path)
    with CodeFile.open(path) as codes:
        codes.verify()


WRITER = """
import sys
import numpy as np
from drhn_cli.codes.entries import Entries
from drhn_cli.codes.manifest import CodeManifest
from drhn_cli.codes.writer import write_code_file
print("started", flush=True)
manifest = CodeManifest(root="/", n_bits=8, model="fast", fingerprint="f" * 64)
for n in range(1, 10**6):
    rows = 20_000 * (1 + n % 3)
    entries = Entries.from_stamps([b"%06d" % i for i in range(rows)], [(i, i, 0, 0, 0) for i in range(rows)])
    write_code_file(sys.argv[1], np.zeros((rows, 1), np.uint8), entries, manifest)
    print(n, flush=True)
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path):
    path = tmp_path / "codes.bin"
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE) as writer:
        for _ in range(3):
            writer.stdout.readline()
        threading.Event().wait(0.03)  # into the next write
        writer.kill()
    with CodeFile.open(path) as codes:
        codes.verify()
        assert codes.n_items in {20_000, 40_000, 60_000}


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path):
    path = tmp_path / "codes.bin"
    left = tmp_path / f".drhn-{zlib.crc32(b'codes.bin'):08x}-0123.tmp"
    foreign = tmp_path / ".drhn-00000000-0123.tmp"  # of another code file
    left.touch()
    foreign.touch()
    with lock_code_file(path):
        assert not left.exists()
    assert foreign.exists()


@POSIX
def test_permissions(tmp_path):
    path = tmp_path / "codes.bin"
    umask = os.umask(0o027)
    try:
        write_some(path)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    write_some(path, 6)
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


@POSIX
def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "real").mkdir()
    link, target = tmp_path / "link.bin", tmp_path / "real" / "codes.bin"
    link.symlink_to(target)
    for n in (3, 4):  # where it points at nothing yet, and at a file
        write_some(link, n)
        assert link.is_symlink()
        with CodeFile.open(target) as codes:
            assert codes.n_items == n


@POSIX
def test_the_longest_name_can_be_written(tmp_path):
    path = tmp_path / ("x" * 255)
    write_some(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


# Locking


def test_a_second_writer_is_refused(tmp_path):
    path = tmp_path / "codes.bin"
    with lock_code_file(path):
        refused = pytest.raises(CodeFileError, match="another drhn is writing this code file")
        with refused, lock_code_file(path):
            pass
    with lock_code_file(path):
        path.touch()
    assert (tmp_path / ".codes.bin.lock").exists()


def test_one_writer_at_a_time_where_lock_files_come_and_go(tmp_path):
    path = tmp_path / "codes.bin"
    inside, most = [], []

    def write(name):
        for _ in range(50):
            with lock_code_file(path, timeout_seconds=-1):
                inside.append(name)
                most.append(len(inside))
                time.sleep(0.001)
                inside.remove(name)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(most), max(most)) == (150, 1)


def test_a_second_writer_waits(tmp_path):
    path = tmp_path / "codes.bin"
    held = threading.Event()
    order = []

    def first():
        with lock_code_file(path):
            held.set()
            threading.Event().wait(0.15)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    held.wait()
    with lock_code_file(path, timeout_seconds=10, progress=Hearing(note=lambda _: order.append("waiting"))):
        order.append("second")
    thread.join()
    assert order == ["waiting", "first", "second"]
    with lock_code_file(path, timeout_seconds=10, progress=Hearing(note=lambda _: order.append("waiting"))):
        assert len(order) == 3


def test_the_lock_is_released_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), lock_code_file(tmp_path / "codes.bin"):
        raise KeyboardInterrupt
    with lock_code_file(tmp_path / "codes.bin"):
        pass


@POSIX
def test_a_symbolic_link_shares_the_lock(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "codes.bin")
    with lock_code_file(tmp_path / "link"), pytest.raises(CodeFileError), lock_code_file(tmp_path / "codes.bin"):
        pass


def test_no_folder_is_made_for_a_lock(tmp_path):
    refused = pytest.raises(CodeFileError, match=r"cannot lock the code file .found no such folder")
    with refused, lock_code_file(tmp_path / "none" / "codes.bin"):
        pass
    assert not any(tmp_path.iterdir())


def test_a_lock_that_cannot_be_made(tmp_path):
    (tmp_path / ".codes.bin.lock").mkdir()
    refused = pytest.raises(CodeFileError, match=r"cannot lock .*; write to a folder where files can be made")
    with refused, lock_code_file(tmp_path / "codes.bin"):
        pass


# Entries


def test_entries_are_a_sequence_of_entry():
    entries = numbered(3)
    assert len(entries) == 3
    assert [entry.stamp.size for entry in entries] == [0, 1, 2]
    assert entries[1] == Entry(path=b"000001.jpg", stamp=FileStamp(size=1, mtime_ns=10**18 + 1, inode=1))
    assert list(entries.part(1, 3).paths()) == [b"000001.jpg", b"000002.jpg"]
    with pytest.raises(IndexError):
        entries.path(3)


def test_entries_refuse_columns_of_different_lengths():
    with pytest.raises(DrhnError, match=r"differ in length .found 1 2"):
        Entries.from_stamps([b"a"], [FileStamp(size=1, mtime_ns=3), FileStamp(size=2, mtime_ns=3)])


def test_the_package_starts_without_torch():
    modules = "drhn_cli.codes.reader, drhn_cli.search.hamming, drhn_cli.evaluation.metrics"
    program = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
