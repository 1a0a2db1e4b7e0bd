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
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.entries import Entries, Entry
from drhn_cli.codes.pack import MAX_BITS
from drhn_cli.errors import AnyPath, CodeFileError
from drhn_cli.files import FileStamp

FORMAT_VERSION = 1
INDEXED_VERSION = 2  # read, never written
BLOCK_ROWS = 4096  # some 300 KB: ten paths out of ten million cost ten of these, not the whole section
FAISS_MAGIC = b"IBxF"
MAGIC = b"DRHNCODE"
MAX_PATH_BYTES = 1 << 16  # far beyond any file system; keeps a block's offsets within 32 bits

TABLE_DTYPE = np.dtype([("end", "<u8"), ("crc", "<u4")])

_HEADER = struct.Struct("<4siiqBiQ")
_PARTS = struct.Struct("<QQQIIIII")
_INDEX = struct.Struct("<Q12xI")
# The tail keeps its place in every version: it tells how long the trailer is, before anything else of it is believed.
_TAIL = struct.Struct("<III8s")
_OFFSETS = struct.Struct("<II")
_ROW_SIZE = 24  # of the three columns before the offsets

HEADER_SIZE = _HEADER.size
TRAILER_SIZE = _PARTS.size + _TAIL.size
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Tail:
    """The last 20 bytes of a file: enough to tell a damaged file from a newer one."""

    length: int
    version: int
    crc: int
    magic: bytes

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Read the last bytes of ``raw``, which has 20 or more."""
        length, version, crc, magic = _TAIL.unpack_from(raw, len(raw) - _TAIL.size)
        return cls(length=length, version=version, crc=crc, magic=magic)

    def matches(self, trailer: bytes) -> bool:
        """Tell whether the CRC-32 fits a trailer of any version."""
        return zlib.crc32(trailer[:-12]) == self.crc  # the CRC-32 and the magic do not cover themselves


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexPart:
    """The index of a file of version 2: where it begins, which is where the manifest ends, and its CRC-32."""

    offset: int
    crc: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Trailer:
    """Where the parts of a file are and what they sum to.

    Attributes:
        entries_offset: where the entries begin and the codes end, in bytes from the start of the file.
        table_offset: where the block table begins and the entries end.
        manifest_offset: where the manifest begins and the block table ends; it ends where the index or trailer begins.
        block_rows: rows of every block but the last.
        header_crc: CRC-32 of the header, as the others are of their part.
        codes_crc: of the codes.
        table_crc: of the block table, which has one for each block of entries.
        manifest_crc: of the manifest.
        index: of a file of version 2.
    """

    entries_offset: int
    table_offset: int
    manifest_offset: int
    block_rows: int
    header_crc: int
    codes_crc: int
    table_crc: int
    manifest_crc: int
    index: IndexPart | None = None

    def pack(self) -> bytes:
        """Return the 64 bytes of a trailer of version 1."""
        values = (getattr(self, name) for name in self.__slots__ if name != "index")
        parts = _PARTS.pack(*values) + struct.pack("<II", TRAILER_SIZE, FORMAT_VERSION)
        return parts + struct.pack("<I8s", zlib.crc32(parts), MAGIC)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Read a trailer: the last 64 bytes of a file, or 88 in version 2."""
        index = None
        if len(raw) > TRAILER_SIZE:
            offset, crc = _INDEX.unpack_from(raw)
            index = IndexPart(offset=offset, crc=crc)
        parts = _PARTS.unpack_from(raw, len(raw) - TRAILER_SIZE)
        return cls(**dict(zip(cls.__slots__, parts, strict=False)), index=index)


def pack_block(entries: Entries) -> bytes:
    """Return one block of the entries section."""
    columns = ((entries.sizes, "<i8"), (entries.mtimes_ns, "<i8"), (entries.inodes, "<u8"), (entries.offsets, "<u4"))
    return b"".join([column.astype(dtype).tobytes() for column, dtype in columns] + [entries.blob])


def unpack_block(raw: bytes, n_rows: int) -> Entries:
    """Undo ``pack_block``. A block that is not made of ``n_rows`` entries is a ValueError."""
    blob_start = _blob_start(n_rows)
    if len(raw) < blob_start:
        raise ValueError("shorter than its columns")

    def column(dtype: str, row_bytes: int, count: int) -> NDArray[np.generic]:
        return np.frombuffer(raw, dtype=dtype, offset=row_bytes * n_rows, count=count)

    offsets = column("<u4", _ROW_SIZE, n_rows + 1).astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != len(raw) - blob_start or (np.diff(offsets) < 0).any():
        raise ValueError("paths do not fill it")
    return Entries(
        blob=raw[blob_start:],
        offsets=offsets,
        sizes=column("<i8", 0, n_rows).astype(np.int64),
        mtimes_ns=column("<i8", 8, n_rows).astype(np.int64),
        inodes=column("<u8", 16, n_rows).astype(np.uint64),
    )


def read_path(raw: mmap.mmap | bytes, start: int, n_rows: int, row: int) -> bytes:
    """Return one path of the block of ``n_rows`` that begins at ``start``, without reading the rest of the block."""
    first, last = _OFFSETS.unpack_from(raw, start + _ROW_SIZE * n_rows + 4 * row)
    blob_start = start + _blob_start(n_rows)
    return raw[blob_start + first : blob_start + last]


def read_entry(raw: mmap.mmap | bytes, start: int, n_rows: int, row: int) -> Entry:
    """Return one entry of the block of ``n_rows`` that begins at ``start``, without reading the rest of the block."""
    (size,) = struct.unpack_from("<q", raw, start + 8 * row)
    (mtime_ns,) = struct.unpack_from("<q", raw, start + 8 * (n_rows + row))
    (inode,) = struct.unpack_from("<Q", raw, start + 8 * (2 * n_rows + row))
    return Entry(path=read_path(raw, start, n_rows, row), stamp=FileStamp(size=size, mtime_ns=mtime_ns, inode=inode))


def _blob_start(n_rows: int) -> int:
    return _ROW_SIZE * n_rows + 4 * (n_rows + 1)


def require_regular(path: AnyPath, status: os.stat_result, hint: str) -> None:
    """Refuse a folder, pipe or device in the place of a code file."""
    if not stat.S_ISREG(status.st_mode):
        found = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
        raise CodeFileError("not a code file", path=path, expected="a regular file", found=found, hint=hint)
