"""The bytes of a code file, little-endian throughout.

====================  ====================================================================================
header, 33 bytes      a faiss IndexBinaryFlat: ``IBxF``, int32 d (bits rounded up to 8), int32 code_size,
                      int64 n, uint8 1 (trained), int32 1 (metric), uint64 n * code_size
codes                 n rows of code_size bytes, ordered by the path of the row
entries               blocks of ``block_rows`` rows (the last one shorter): int64 sizes, int64 mtimes in ns,
                      uint64 inodes, uint32 offsets of the paths (rows + 1), the paths
block table           for each block uint64 end (from the start of the entries), uint32 CRC-32
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
from typing import NamedTuple, Self

import numpy as np

from drhn_cli.codes.entries import STAMP_DTYPE, Entries, Entry
from drhn_cli.codes.pack import MAX_BITS
from drhn_cli.errors import CodeFileError
from drhn_cli.files import FileStamp

FORMAT_VERSION = 1
INDEXED_VERSION = 2  # read, never written
BLOCK_ROWS = 4096  # about 300 KB: looking up one path reads one block, not all entries
FAISS_MAGIC = b"IBxF"
MAGIC = b"DRHNCODE"
MAX_PATH_BYTES = 1 << 16  # far beyond any file system; keeps a block's offsets within 32 bits

TABLE_DTYPE = np.dtype([("end", "<u8"), ("crc", "<u4")])

_HEADER = struct.Struct("<4siiqBiQ")
_PARTS = struct.Struct("<QQQIIIII")
_INDEX = struct.Struct("<Q12xI")
TAIL = struct.Struct("<III8s")
"""Length of the trailer, version, CRC-32 and magic: the last 20 bytes of a file of any version."""

_STAMP_COLUMNS = {"size": "<q", "mtime_ns": "<q", "inode": "<Q"}  # for struct, in the order of a block

HEADER_SIZE = _HEADER.size
TRAILER_SIZE = _PARTS.size + TAIL.size
TRAILER_SIZES = {FORMAT_VERSION: TRAILER_SIZE, INDEXED_VERSION: _INDEX.size + TRAILER_SIZE}


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
        entries_offset: where the entries begin and the codes end, in bytes from the start of the file.
        table_offset: where the block table begins and the entries end.
        manifest_offset: where the manifest begins and the block table ends.
        block_rows: rows of every block but the last.
        header_crc: CRC-32 of the header, as the others are of their part.
        codes_crc: of the codes.
        table_crc: of the block table, which has one for each block of entries.
        manifest_crc: of the manifest.
        index_offset: where the index of a file of version 2 begins.
        index_crc: of the index.
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

    def pack(self) -> bytes:
        """Return the 64 bytes of a trailer of version 1."""
        parts = _PARTS.pack(*self[:8]) + struct.pack("<II", TRAILER_SIZE, FORMAT_VERSION)
        return parts + struct.pack("<I8s", zlib.crc32(parts), MAGIC)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Read a trailer: the last 64 bytes of a file, or 88 in version 2."""
        index = _INDEX.unpack_from(raw) if len(raw) > TRAILER_SIZE else ()
        return cls(*_PARTS.unpack_from(raw, len(raw) - TRAILER_SIZE), *index)


def pack_block(entries: Entries) -> bytes:
    """Return one block of the entries section."""
    columns = [*(entries.stamps[name] for name in _STAMP_COLUMNS), entries.offsets.astype("<u4")]
    return b"".join([*(column.tobytes() for column in columns), entries.blob])


def unpack_block(raw: bytes, n_rows: int) -> Entries:
    """Undo ``pack_block``. A block that is not made of ``n_rows`` entries is a ValueError."""
    blob_start = _blob_start(n_rows)
    if len(raw) < blob_start:
        raise ValueError("shorter than its columns")
    offsets = np.frombuffer(raw, "<u4", n_rows + 1, STAMP_DTYPE.itemsize * n_rows).astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != len(raw) - blob_start or (np.diff(offsets) < 0).any():
        raise ValueError("paths do not fill it")
    stamps = np.empty(n_rows, STAMP_DTYPE)
    for i, name in enumerate(_STAMP_COLUMNS):
        stamps[name] = np.frombuffer(raw, STAMP_DTYPE[name], n_rows, 8 * n_rows * i)
    return Entries(blob=raw[blob_start:], offsets=offsets, stamps=stamps)


def read_path(raw: mmap.mmap | bytes, start: int, n_rows: int, row: int) -> bytes:
    """Return one path of the block of ``n_rows`` that begins at ``start``, without reading the rest of the block."""
    first, last = struct.unpack_from("<II", raw, start + STAMP_DTYPE.itemsize * n_rows + 4 * row)
    blob_start = start + _blob_start(n_rows)
    return raw[blob_start + first : blob_start + last]


def read_entry(raw: mmap.mmap | bytes, start: int, n_rows: int, row: int) -> Entry:
    """Return one entry of the block of ``n_rows`` that begins at ``start``, without reading the rest of the block."""
    forms = enumerate(_STAMP_COLUMNS.values())
    stamp = FileStamp(*(struct.unpack_from(form, raw, start + 8 * (n_rows * i + row))[0] for i, form in forms))
    return Entry(path=read_path(raw, start, n_rows, row), stamp=stamp)


def _blob_start(n_rows: int) -> int:
    return STAMP_DTYPE.itemsize * n_rows + 4 * (n_rows + 1)


def require_regular(status: os.stat_result, hint: str) -> None:
    """Refuse a folder, pipe or device in the place of a code file. The caller adds the path."""
    if not stat.S_ISREG(status.st_mode):
        found = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
        raise CodeFileError("not a code file", expected="a regular file", found=found, hint=hint)
