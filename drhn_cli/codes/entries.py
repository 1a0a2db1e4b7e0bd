"""What a code file notes of pictures besides their codes, in columns: a million entries are a few large arrays."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from drhn_cli.errors import DrhnError
from drhn_cli.files import FileStamp

STAMP_DTYPE = np.dtype([("size", "<i8"), ("mtime_ns", "<i8"), ("inode", "<u8"), ("ctime_ns", "<i8"), ("device", "<u8")])
"""A ``FileStamp`` in an array."""

DIGEST_BYTES = 16

CONTENT_DTYPE = np.dtype([("digest", f"V{DIGEST_BYTES}"), ("width", "<u4"), ("height", "<u4"), ("taken_ns", "<i8")])
"""What reading a file told, in an array; the attributes of ``Entry`` have these names. A digest of zeros is unknown."""

UNKNOWN_TIME = -(2**63)
"""A ``taken_ns`` that is not known."""

NOT_READ = np.array((bytes(DIGEST_BYTES), 0, 0, UNKNOWN_TIME), CONTENT_DTYPE)
"""A row of ``CONTENT_DTYPE`` of which nothing is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One picture.

    Attributes:
        path: relative to the root of the code file, as ``os.fsencode`` gives it.
        stamp: of its file when it was hashed, or found unchanged later.
        digest: 16 bytes, the first half of the SHA-256 of the file; empty where the file was not read.
        width: of the picture as it is shown, in pixels; 0 where the file was not read.
        height: likewise.
        taken_ns: when it was taken, by the clock of the camera, nanoseconds since 1970 there. None: not known.
    """

    path: bytes
    stamp: FileStamp
    digest: bytes = b""
    width: int = 0
    height: int = 0
    taken_ns: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Entries(Sequence[Entry]):
    """Many pictures, in columns like Arrow's.

    Attributes:
        blob: the paths, one after the other.
        offsets: (n + 1,) int64, ascending from 0; path i is ``blob[offsets[i]:offsets[i + 1]]``.
        stamps: (n,) ``STAMP_DTYPE``.
        contents: (n,) ``CONTENT_DTYPE``.

    Raises:
        DrhnError: columns of different lengths.
    """

    blob: bytes
    offsets: NDArray[np.int64]
    stamps: NDArray[Any]
    contents: NDArray[Any]

    def __post_init__(self) -> None:
        lengths = len(self.offsets) - 1, len(self.stamps), len(self.contents)
        if len(set(lengths)) > 1:
            raise DrhnError("columns of entries differ in length", found=" ".join(map(str, lengths)))

    @classmethod
    def from_stamps(
        cls, paths: Sequence[bytes], stamps: Sequence[FileStamp] | NDArray[Any], contents: NDArray[Any] | None = None
    ) -> Self:
        """Build from n paths relative to the root, in any order, and the stamp of each.

        ``contents`` are (n,) ``CONTENT_DTYPE``; None: no file was read.
        """
        offsets = np.zeros(len(paths) + 1, dtype=np.int64)
        np.cumsum(np.fromiter(map(len, paths), dtype=np.int64, count=len(paths)), out=offsets[1:])
        if contents is None:
            contents = np.full(len(paths), NOT_READ, CONTENT_DTYPE)
        return cls(
            blob=b"".join(paths), offsets=offsets, stamps=np.asarray(stamps, dtype=STAMP_DTYPE), contents=contents
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Entries]) -> Self:
        """Join several, in order; none give an empty one."""
        ends = np.cumsum([0, *(len(part.blob) for part in parts)], dtype=np.int64)
        shifted = [part.offsets[1:] + end for part, end in zip(parts, ends, strict=False)]
        return cls(
            blob=b"".join(part.blob for part in parts),
            offsets=np.concatenate([np.zeros(1, np.int64), *shifted]),
            stamps=np.concatenate([np.empty(0, STAMP_DTYPE), *(part.stamps for part in parts)]),
            contents=np.concatenate([np.empty(0, CONTENT_DTYPE), *(part.contents for part in parts)]),
        )

    def __len__(self) -> int:
        return len(self.stamps)

    def __getitem__(self, row: int) -> Entry:  # type: ignore[override]  # take() and part() stand for slices
        return entry_of(self.path(row), self.stamps[row].tolist(), self.contents[row].tolist())

    def path(self, row: int) -> bytes:
        """Return the path of one row, 0..n-1; another is an IndexError."""
        row = operator.index(row)
        if not 0 <= row < len(self):
            raise IndexError(row)
        return self.blob[self.offsets[row] : self.offsets[row + 1]]

    def stamp(self, row: int) -> FileStamp:
        """Return the stamp of one row, 0..n-1."""
        return FileStamp(*self.stamps[row].tolist())

    def are_read(self) -> NDArray[np.bool_]:
        """Return for each row whether its file was read, so that its content is known: (n,) bool."""
        digests = np.ascontiguousarray(self.contents["digest"]).view(np.uint8).reshape(len(self), DIGEST_BYTES)
        return np.asarray(digests.any(axis=1))

    def paths(self) -> Iterator[bytes]:
        """Yield the paths in order of rows; much faster than ``path`` for each."""
        # Plain integers, a few at a time: a list of ten million would weigh more than the paths.
        step = 1 << 16
        for start in range(0, len(self), step):
            for first, last in pairwise(self.offsets[start : start + step + 1].tolist()):
                yield self.blob[first:last]

    def part(self, start: int, stop: int) -> Entries:
        """Return rows ``start`` to ``stop`` (0 <= start <= stop <= n), sharing the columns' memory."""
        offsets = self.offsets[start : stop + 1]
        blob = self.blob[offsets[0] : offsets[-1]]
        rows = slice(start, stop)
        return Entries(blob=blob, offsets=offsets - offsets[0], stamps=self.stamps[rows], contents=self.contents[rows])

    def take(self, rows: NDArray[np.int64] | Sequence[int]) -> Entries:
        """Return these rows, (k,), in this order."""
        at = np.asarray(rows, dtype=np.int64)
        return Entries.from_stamps([self.path(row) for row in at.tolist()], self.stamps[at], self.contents[at])


def entry_of(path: bytes, stamp: Sequence[int], content: Sequence[Any]) -> Entry:
    """Return one row as an object, of its path and the fields of a ``STAMP_DTYPE`` and a ``CONTENT_DTYPE``."""
    digest, width, height, taken_ns = content
    return Entry(
        path=path,
        stamp=FileStamp(*stamp),
        digest=digest if any(digest) else b"",
        width=width,
        height=height,
        taken_ns=None if taken_ns == UNKNOWN_TIME else taken_ns,
    )
