"""Read a code file. Its format is in ``layout``."""

from __future__ import annotations

import contextlib
import mmap
import operator
import os
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes import layout
from drhn_cli.codes.entries import Entries, Entry
from drhn_cli.codes.manifest import COPY_CODE_SIZES, CodeManifest
from drhn_cli.codes.pack import code_size, padding_mask
from drhn_cli.codes.writer import Block
from drhn_cli.errors import AnyPath, CodeFileError, about
from drhn_cli.files import open_nonblocking, os_errors

_CHECKED_AT_OPEN = 8 << 20  # bytes of entries, some 6 ms; larger sections are checked block by block when first read
_SLICE = 1 << 22  # bytes a step when everything is read through
_REBUILD = "hash again with --rebuild"
_MAKE_ONE = "make one with drhn hash FOLDER -o FILE"
_NAME_ONE = f"name one, which drhn query takes last, or {_MAKE_ONE}"


class CodeFile:
    """A code file, mapped into memory and open for reading. A context manager; make one with ``CodeFile.open``.

    The map stays valid when another process replaces the file, and shows the old content until closed.

    Attributes:
        path: as it was given.
        n_items: number of codes, 0 or more.
        manifest: what made the codes.
        n_bits: length of a code, in bits.
        root: folder that the paths are relative to.
    """

    def __init__(self, path: AnyPath, contents: mmap.mmap) -> None:
        self.path = path
        self._map = contents
        self._data = np.frombuffer(contents, dtype=np.uint8)
        self._trailer = self._read_trailer()
        self.n_items, self._code_size = self._read_header()
        self.manifest = self._read_manifest()
        self.n_bits, self.root = self.manifest.n_bits, self.manifest.root
        self._block_starts, self._block_crcs, self._copy_crcs = self._read_table()
        self._checked = np.zeros(len(self._block_starts) - 1, dtype=np.bool_)
        if self._trailer.table_offset - self._trailer.entries_offset <= _CHECKED_AT_OPEN:
            for _ in self.blocks():
                pass

    @classmethod
    def open(cls, path: AnyPath) -> Self:
        """Map a code file and check all of it but the codes (and entries beyond 8 MiB, checked when they are read).

        Raises:
            CodeFileError: the file is missing, unreadable, empty, foreign, truncated, damaged, or of a newer version.
        """
        absent = CodeFileError("no such code file", path=path, hint=_MAKE_ONE)
        with os_errors(CodeFileError, "cannot open the code file", path=path, absent=absent):
            descriptor = open_nonblocking(path)
        try:
            with about(path), os_errors(CodeFileError, "cannot read the code file"):
                status = os.fstat(descriptor)
                layout.require_regular(status, _NAME_ONE)
                if not status.st_size:
                    raise CodeFileError("the code file is empty", hint=_MAKE_ONE)
                contents = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        return cls(path, contents)

    def close(self) -> None:
        """Unmap the file. Arrays taken from ``codes`` stay valid: the map lives as long as they do."""
        self._data = np.empty(0, dtype=np.uint8)
        # BufferError: an array still uses the map, and frees it in the end.
        with contextlib.suppress(BufferError):
            self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.n_items

    def __iter__(self) -> Iterator[Entry]:
        for block in self.blocks():
            yield from block.entries

    @property
    def codes(self) -> NDArray[np.uint8]:
        """The packed codes, (n_items, code_size) uint8: the file itself, read-only, nothing copied."""
        return self._rows(layout.HEADER_SIZE, self._code_size)

    @property
    def copy_codes(self) -> NDArray[np.uint8]:
        """The copy codes, (n_items, manifest.copy_code_size) uint8, as ``codes`` are; zeros where none is known."""
        return self._rows(self._copy_offset, self.manifest.copy_code_size)

    @property
    def digest(self) -> bytes:
        """32 bytes by which the rows are known whatever the name of the file: of their checksums and their model."""
        import hashlib  # two milliseconds that most readers do without

        checksums = self._trailer.codes_crc, self._trailer.table_crc
        values = (self.n_items, self.n_bits, self.manifest.fingerprint, *checksums)
        return hashlib.sha256(repr(values).encode()).digest()

    def describe(self) -> dict[str, Any]:
        """Return what ``drhn info`` shows of the file, JSON-ready."""
        shard = self.manifest.shard and asdict(self.manifest.shard)
        made_by = {"drhn_version": self.manifest.drhn_version, "part": shard}
        return {"kind": "codes", "n_items": self.n_items, **self.manifest.describe(), **made_by}

    def entry(self, row: int) -> Entry:
        """Return the entry of one row, 0..n_items-1. A damaged block is a CodeFileError here and below."""
        return layout.read_entry(self._map, *self._locate(row), self._trailer.version)

    def path_bytes(self, row: int) -> bytes:
        """Return the path of one row, 0..n_items-1, relative to the root, as ``os.fsencode`` gives it."""
        return layout.read_path(self._map, *self._locate(row))

    def find(self, path: bytes) -> int | None:
        """Return the row of a path relative to the root, or None."""
        row = bisect_left(range(self.n_items), path, key=self.path_bytes)
        return row if row < self.n_items and self.path_bytes(row) == path else None

    def entries(self) -> Entries:
        """Return all entries, in columns, as a copy that outlives the file."""
        return Entries.concatenate([block.entries for block in self.blocks()])

    def blocks(self) -> Iterator[Block]:
        """Yield some thousand rows at a time, in order."""
        codes, copy_codes, n = self.codes, self.copy_codes, self._trailer.block_rows
        for number in range(len(self._checked)):
            rows = slice(number * n, (number + 1) * n)
            yield Block(codes[rows], self._block_entries(number), copy_codes[rows])

    def verify(self, *, index: bool = True) -> None:
        """Read everything and check it: every CRC-32, that padding bits are zero, that paths ascend.

        Args:
            index: check the index of a file of version 2, too; a writer, which drops it, does not.

        Raises:
            CodeFileError: naming the part that is damaged.
        """
        self._match("codes", self._crc(layout.HEADER_SIZE, self._copy_offset), self._trailer.codes_crc)
        if index and self._trailer.index_offset is not None:
            self._match("index", self._crc(self._manifest_end, self._end), self._trailer.index_crc)
        self._checked[:] = False
        padding, previous = padding_mask(self.n_bits), b""
        for number, block in enumerate(self.blocks()):
            if (block.codes[:, -1] & padding).any():
                raise self._damaged("codes", f"{self.n_bits} bits a code", "padding bits that are set")
            if self._copy_crcs is not None:
                self._match("copy codes", zlib.crc32(block.copy_codes.tobytes()), int(self._copy_crcs[number]))
            for path in block.entries.paths():
                if path <= previous:
                    raise self._damaged("entries", "paths in ascending order", repr(path))
                previous = path

    def _read_trailer(self) -> layout.Trailer:
        size = len(self._map)
        if size < layout.TRAILER_SIZE or self._map[-8:] != layout.MAGIC:
            expected, found = f"{layout.FAISS_MAGIC.decode()} at its start", repr(self._map[:4])
            if self._map[:4] != layout.FAISS_MAGIC:
                raise self._error("not a code file", expected, found, _NAME_ONE)
            expected, found = f"{layout.MAGIC.decode()} at its end", f"{size} bytes that end in {self._map[-8:]!r}"
            raise self._error("truncated, or a faiss index without paths", expected, found)
        length, version, crc, _ = layout.TAIL.unpack(self._map[-layout.TAIL.size :])
        # The CRC-32 and the magic do not cover themselves.
        if not layout.TRAILER_SIZE <= length <= size or zlib.crc32(self._map[size - length : -12]) != crc:
            raise self._damaged("trailer", "a trailer that fits its CRC-32", "another")
        if version not in layout.TRAILER_SIZES:
            expected = f"format {' or '.join(map(str, layout.TRAILER_SIZES))}"
            raise self._error("code file of a newer version", expected, f"format {version}", "update drhn")
        if length != layout.TRAILER_SIZES[version]:
            raise self._damaged("trailer", f"{layout.TRAILER_SIZES[version]} bytes", f"{length}")
        self._end = size - length
        trailer = layout.Trailer.unpack(self._map[self._end :])
        self._manifest_end = self._end if trailer.index_offset is None else trailer.index_offset
        bounds = (layout.HEADER_SIZE, *trailer[:3], self._manifest_end, self._end)  # where each part begins
        if any(first > last for first, last in pairwise(bounds)) or not trailer.block_rows:
            raise self._damaged("trailer", "parts in order", f"offsets {bounds}")
        return trailer

    def _read_header(self) -> tuple[int, int]:
        raw = self._map[: layout.HEADER_SIZE]
        self._match("header", zlib.crc32(raw), self._trailer.header_crc)
        try:
            n_items, size = layout.unpack_header(raw)
        except ValueError as error:
            raise self._damaged("header", "a faiss IndexBinaryFlat", str(error)) from error
        self._copy_offset = layout.HEADER_SIZE + n_items * size
        is_new = self._trailer.version == layout.FORMAT_VERSION
        widths = COPY_CODE_SIZES if is_new else (0,)
        if self._trailer.entries_offset - self._copy_offset not in {n_items * width for width in widths}:
            expected = f"rows that end at byte {self._trailer.entries_offset}"
            raise self._damaged("header", expected, f"{n_items} codes of {size} bytes")
        return n_items, size

    def _read_manifest(self) -> CodeManifest:
        raw = self._map[self._trailer.manifest_offset : self._manifest_end]
        self._match("manifest", zlib.crc32(raw), self._trailer.manifest_crc)
        try:
            manifest, n_items = CodeManifest.from_json(raw)
        except CodeFileError as error:
            raise self._damaged("manifest", str(error.expected), str(error.found)) from error
        if (n_items, code_size(manifest.n_bits)) != (self.n_items, self._code_size):
            found = f"{n_items} codes of {manifest.n_bits} bits"
            raise self._damaged("manifest", f"{self.n_items} codes of {self._code_size} bytes", found)
        if self._trailer.version < layout.FORMAT_VERSION:
            manifest = replace(manifest, copy_codes=None, last_run=None)
        n_bytes = self._trailer.entries_offset - self._copy_offset
        if n_bytes != n_items * manifest.copy_code_size:
            found = f"copy codes of {manifest.copy_code_size} bytes"
            raise self._damaged("manifest", f"{n_items} rows that fill {n_bytes} bytes", found)
        return manifest

    def _read_table(self) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.uint32] | None]:
        """Return where the blocks of entries start and the last one ends, their CRC-32s, and those of copy codes."""
        trailer = self._trailer
        raw = self._map[trailer.table_offset : trailer.manifest_offset]
        self._match("block table", zlib.crc32(raw), trailer.table_crc)
        n_blocks = -(-self.n_items // trailer.block_rows)
        dtype = trailer.table_dtype
        if len(raw) != n_blocks * dtype.itemsize:
            raise self._damaged("block table", f"{n_blocks} blocks", f"{len(raw)} bytes")
        table = np.frombuffer(raw, dtype=dtype)
        length = trailer.table_offset - trailer.entries_offset
        ends = np.concatenate([np.zeros(1, np.uint64), table["end"]])
        if ends[-1] != length or (ends[1:] < ends[:-1]).any():
            raise self._damaged("block table", f"blocks that fill {length} bytes", f"{ends[-1]} bytes")
        copy_crcs = table["copy_crc"] if dtype == layout.TABLE_DTYPE else None
        return ends.astype(np.int64) + trailer.entries_offset, table["crc"], copy_crcs

    def _rows(self, start: int, width: int) -> NDArray[np.uint8]:
        return self._data[start : start + self.n_items * width].reshape(self.n_items, width)

    def _block_rows(self, block: int) -> int:
        return min(self._trailer.block_rows, self.n_items - block * self._trailer.block_rows)

    def _block_entries(self, block: int) -> Entries:
        """Read a block, and check it the first time."""
        start, stop = self._block_starts[block : block + 2].tolist()
        raw, n_rows = self._map[start:stop], self._block_rows(block)
        if hasattr(mmap, "MADV_DONTNEED"):  # mapped pages count as memory of this process for as long as they stay
            first_page = start // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, first_page, stop - first_page)
        if not self._checked[block]:
            self._match("entries", zlib.crc32(raw), int(self._block_crcs[block]))
        try:
            entries = layout.unpack_block(raw, n_rows, self._trailer.version)
        except ValueError as error:
            raise self._damaged("entries", f"{n_rows} entries in block {block}", str(error)) from error
        self._checked[block] = True
        return entries

    def _locate(self, row: int) -> tuple[int, int, int]:
        """Return the start of the row's block, the rows of that block, and the row's place in it."""
        row = operator.index(row)
        if not 0 <= row < self.n_items:
            raise IndexError(row)
        block, within = divmod(row, self._trailer.block_rows)
        if not self._checked[block]:
            self._block_entries(block)
        return int(self._block_starts[block]), self._block_rows(block), within

    def _crc(self, start: int, stop: int) -> int:
        crc = 0
        for first in range(start, stop, _SLICE):
            crc = zlib.crc32(self._data[first : min(first + _SLICE, stop)].data, crc)
        return crc

    def _match(self, part: str, found: int, expected: int) -> None:
        if found != expected:
            raise self._damaged(part, f"CRC-32 {expected:08x}", f"{found:08x}")

    def _damaged(self, part: str, expected: str, found: str) -> CodeFileError:
        return self._error(f"damaged {part}", expected, found)

    def _error(self, problem: str, expected: str, found: str, hint: str = _REBUILD) -> CodeFileError:
        return CodeFileError(problem, path=self.path, expected=expected, found=found, hint=hint)
