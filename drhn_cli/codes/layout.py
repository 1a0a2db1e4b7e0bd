"""The bytes of a code file, little-endian throughout.

====================  ====================================================================================
header, 33 bytes      a faiss IndexBinaryFlat: ``IBxF``, int32 d (bits rounded up to 8), int32 code_size,
                      int64 n, uint8 1 (trained), int32 1 (metric), uint64 n * code_size
codes                 n rows of code_size bytes, ordered by the path of the row
copy codes            n rows of 0, 32 or 64 bytes, as the manifest says; from version 3 on
entries               blocks of ``block_rows`` rows (the last one shorter): int64 sizes, int64 mtimes in ns,
                      uint64 inodes, uint32 offsets of the paths (rows + 1), the paths; from version 3 on
                      int64 ctimes in ns, uint64 devices, digests of 16 bytes, uint32 widths, uint32 heights,
                      int64 times when they were taken in ns
block table           for each block uint64 end (from the start of the entries), uint32 CRC-32; from version 3 on
                      uint32 CRC-32 of the copy codes of its rows
manifest              JSON in ASCII
index                 only in version 2, which earlier releases wrote: tables that are skipped now
trailer, 64 bytes     uint64 entries_offset, table_offset, manifest_offset; uint32 block_rows; uint32 CRC-32 of
                      header, codes, block table, manifest; uint32 length, version, CRC-32 of the trailer up to
                      here; 8 bytes ``DRHNCODE``. In version 2, 88 bytes: uint64 index_offset, 12 bytes that are
                      skipped, uint32 CRC-32 of the index; then those of version 1
====================  ====================================================================================

The parts follow each other without gaps, so every byte is under one CRC-32 or another. faiss stops reading after the
codes.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.entries import CONTENT_DTYPE, DIGEST_BYTES, NOT_READ, STAMP_DTYPE, Entries, Entry, entry_of
from drhn_cli.codes.pack import MAX_BITS
from drhn_cli.errors import CodeFileError
from drhn_cli.files import FileStamp

FORMAT_VERSION = 3
INDEXED_VERSION = 2  # read, never written, as version 1
BLOCK_ROWS = 4096  # about 500 KB: looking up one path reads one block, not all entries
FAISS_MAGIC = b"IBxF"
MAGIC = b"DRHNCODE"
MAX_PATH_BYTES = 4096  # what Linux takes, with the zero at its end

TABLE_DTYPE = np.dtype([("end", "<u8"), ("crc", "<u4"), ("copy_crc", "<u4")])
OLD_TABLE_DTYPE = np.dtype([("end", "<u8"), ("crc", "<u4")])
"""Of versions 1 and 2."""

_SLASH, _DOT = ord("/"), ord(".")

_HEADER = struct.Struct("<4siiqBiQ")
_PARTS = struct.Struct("<QQQIIIII")
_INDEX = struct.Struct("<Q12xI")
TAIL = struct.Struct("<III8s")
"""Length of the trailer, version, CRC-32 and magic: the last 20 bytes of a file of any version."""

# The columns of a block, and their forms for struct. Those before the paths are all that versions 1 and 2 have.
_BEFORE_PATHS = {"size": "<q", "mtime_ns": "<q", "inode": "<Q"}
_STAMPS_AFTER = {"ctime_ns": "<q", "device": "<Q"}
_CONTENTS_AFTER = {"digest": f"<{DIGEST_BYTES}s", "width": "<I", "height": "<I", "taken_ns": "<q"}
_BYTES_BEFORE = sum(STAMP_DTYPE[name].itemsize for name in _BEFORE_PATHS)
_BYTES_AFTER = STAMP_DTYPE.itemsize - _BYTES_BEFORE + CONTENT_DTYPE.itemsize

HEADER_SIZE = _HEADER.size
TRAILER_SIZE = _PARTS.size + TAIL.size
TRAILER_SIZES = {1: TRAILER_SIZE, INDEXED_VERSION: _INDEX.size + TRAILER_SIZE, FORMAT_VERSION: TRAILER_SIZE}


def pack_header(n_items: int, code_size: int) -> bytes:
    """Return the 33 bytes that make ``n_items`` codes of ``code_size`` bytes a faiss IndexBinaryFlat.

    As ``write_index_binary`` in impl/index_write.cpp of faiss does.
    """
    return _HEADER.pack(FAISS_MAGIC, 8 * code_size, code_size, n_items, 1, 1, n_items * code_size)


def unpack_header(raw: bytes) -> tuple[int, int]:
    """Return n_items and code_size of a header, 33 bytes. Another kind of faiss index is a ValueError."""
    _, _, code_size, n_items, _, _, _ = _HEADER.unpack(raw)
    in_range = 1 <= code_size <= MAX_BITS // 8 and 0 <= n_items < 1 << 48
    if not in_range or raw != pack_header(n_items, code_size):
        raise ValueError("fields contradict each other")
    return n_items, code_size


class Trailer(NamedTuple):
    """Where the parts of a file are, and their CRC-32s.

    Attributes:
        entries_offset: where the entries begin and the copy codes end, in bytes from the start of the file.
        table_offset: where the block table begins and the entries end.
        manifest_offset: where the manifest begins and the block table ends.
        block_rows: rows of every block but the last.
        header_crc: CRC-32 of the header, as the others are of their part.
        codes_crc: of the codes.
        table_crc: of the block table, which has one for each block of entries.
        manifest_crc: of the manifest.
        index_offset: where the index of a file of version 2 begins.
        index_crc: of the index.
        version: of the format.
    """

    entries_offset: int
    table_offset: int
    manifest_offset: int
    block_rows: int
    header_crc: int
    codes_crc: int
    table_crc: int
    manifest_crc: int
    index_offset: int | None = None
    index_crc: int = 0
    version: int = FORMAT_VERSION

    def pack(self) -> bytes:
        """Return the 64 bytes of a trailer without an index."""
        parts = _PARTS.pack(*self[:8]) + struct.pack("<II", TRAILER_SIZE, self.version)
        return parts + struct.pack("<I8s", zlib.crc32(parts), MAGIC)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Read a trailer: the last 64 bytes of a file, or 88 in version 2."""
        offset, crc = _INDEX.unpack_from(raw) if len(raw) > TRAILER_SIZE else (None, 0)
        _, version, _, _ = TAIL.unpack(raw[-TAIL.size :])
        parts = cls(*_PARTS.unpack_from(raw, len(raw) - TRAILER_SIZE))
        return parts._replace(index_offset=offset, index_crc=crc, version=version)

    @property
    def table_dtype(self) -> np.dtype[np.void]:
        """A row of the block table of this version."""
        return TABLE_DTYPE if self.version == FORMAT_VERSION else OLD_TABLE_DTYPE


def pack_block(entries: Entries) -> bytes:
    """Return one block of the entries section."""
    before, after = _columns(entries.stamps, entries.contents)
    before.append(entries.offsets.astype("<u4"))
    return b"".join([*(column.tobytes() for column in before), entries.blob, *(column.tobytes() for column in after)])


def unpack_block(raw: bytes, n_rows: int, version: int = FORMAT_VERSION) -> Entries:
    """Undo ``pack_block``. A block that is not made of ``n_rows`` entries is a ValueError."""
    names, after = _blob_start(n_rows), _BYTES_AFTER * n_rows if version == FORMAT_VERSION else 0
    if len(raw) < names + after:
        raise ValueError("shorter than its columns")
    offsets = np.frombuffer(raw, "<u4", n_rows + 1, _BYTES_BEFORE * n_rows).astype(np.int64)
    blob = raw[names : len(raw) - after]
    if offsets[0] != 0 or offsets[-1] != len(blob) or (np.diff(offsets) < 0).any():
        raise ValueError("paths do not fill it")
    stamps, contents = np.zeros(n_rows, STAMP_DTYPE), np.full(n_rows, NOT_READ, CONTENT_DTYPE)
    columns_before, columns_after = _columns(stamps, contents)
    _fill(columns_before, raw)
    if after:
        _fill(columns_after, raw[len(raw) - after :])
    entries = Entries(blob=blob, offsets=offsets, stamps=stamps, contents=contents)
    if problem := find_problem(entries):
        raise ValueError(problem)
    return entries


def _columns(stamps: NDArray[Any], contents: NDArray[Any]) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Return the columns before the paths of a block, and those after them."""
    after = [stamps[name] for name in _STAMPS_AFTER] + [contents[name] for name in _CONTENTS_AFTER]
    return [stamps[name] for name in _BEFORE_PATHS], after


def _fill(columns: Sequence[NDArray[Any]], raw: bytes) -> None:
    """Copy columns that follow each other."""
    at = 0
    for column in columns:
        column[:] = np.frombuffer(raw, column.dtype, len(column), at)
        at += column.nbytes


def read_path(raw: mmap.mmap | bytes, start: int, n_rows: int, row: int) -> bytes:
    """Return one path of the block of ``n_rows`` that begins at ``start``, without reading the rest of the block."""
    first, last = struct.unpack_from("<II", raw, start + _BYTES_BEFORE * n_rows + 4 * row)
    names = start + _blob_start(n_rows)
    return raw[names + first : names + last]


def read_entry(raw: mmap.mmap | bytes, start: int, n_rows: int, row: int, version: int) -> Entry:
    """Return one entry of the block of ``n_rows`` that begins at ``start``, without reading the rest of the block."""
    path = read_path(raw, start, n_rows, row)
    stamp = _read_row(raw, start, n_rows, row, _BEFORE_PATHS.values())
    if version < FORMAT_VERSION:
        return Entry(path=path, stamp=FileStamp(*stamp))
    (n_bytes,) = struct.unpack_from("<I", raw, start + _BYTES_BEFORE * n_rows + 4 * n_rows)
    forms = (*_STAMPS_AFTER.values(), *_CONTENTS_AFTER.values())
    ctime_ns, device, *content = _read_row(raw, start + _blob_start(n_rows) + n_bytes, n_rows, row, forms)
    return entry_of(path, (*stamp, ctime_ns, device), content)


def _read_row(raw: mmap.mmap | bytes, start: int, n_rows: int, row: int, forms: Iterable[str]) -> list[Any]:
    """Return a row of columns that follow each other."""
    values: list[Any] = []
    for form in forms:
        size = struct.calcsize(form)
        values += struct.unpack_from(form, raw, start + size * row)
        start += size * n_rows
    return values


def _blob_start(n_rows: int) -> int:
    return _BYTES_BEFORE * n_rows + 4 * (n_rows + 1)


def find_problem(entries: Entries) -> str | None:
    """Return what is wrong with entries that cannot be of pictures below a root; None if they can.

    A path is relative, has 1 to 4,095 bytes, no empty part and no ``..``.
    """
    offsets, blob = entries.offsets, entries.blob
    lengths = np.diff(offsets)
    if not len(entries):
        return None
    if not 0 < lengths.min() <= lengths.max() < MAX_PATH_BYTES:
        return f"a path of {lengths.max() if lengths.min() > 0 else lengths.min()} bytes"
    if (entries.stamps["size"] < 0).any():
        return "a negative size"
    if b"\0" in blob:
        return "a path with a zero byte"
    names = np.frombuffer(blob, np.uint8)
    if (names[offsets[:-1]] == _SLASH).any():
        return "an absolute path"
    if _has_pair(names, _SLASH) or (names[offsets[1:] - 1] == _SLASH).any():
        return "a path with an empty part"
    if _has_pair(names, _DOT) and any(b".." in path.split(b"/") for path in entries.paths() if b".." in path):
        return "a path that leads out of the root"
    return None


def _has_pair(names: NDArray[np.uint8], byte: int) -> bool:
    """Whether a byte stands twice in a row; five times as fast as ``in``, and each opening waits for it."""
    is_it = names == byte
    return bool((is_it[1:] & is_it[:-1]).any())


def require_regular(status: os.stat_result, hint: str) -> None:
    """Refuse a folder, pipe or device in the place of a code file. The caller adds the path."""
    if not stat.S_ISREG(status.st_mode):
        found = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
        raise CodeFileError("not a code file", expected="a regular file", found=found, hint=hint)
