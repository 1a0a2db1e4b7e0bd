"""Paths and stamps of pictures, in columns: a million entries are a few large arrays."""

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

STAMP_DTYPE = np.dtype([("size", "<i8"), ("mtime_ns", "<i8"), ("inode", "<u8")])
"""A ``FileStamp`` in an array."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One picture.

    Attributes:
        path: relative to the root of the code file, as ``os.fsencode`` gives it.
        stamp: of its file when it was hashed.
    """

    path: bytes
    stamp: FileStamp


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Entries(Sequence[Entry]):
    """Many pictures, in columns like Arrow's.

    Attributes:
        blob: the paths, one after the other.
        offsets: (n + 1,) int64, ascending from 0; path i is ``blob[offsets[i]:offsets[i + 1]]``.
        stamps: (n,) ``STAMP_DTYPE``.

    Raises:
        DrhnError: not as many paths as stamps.
    """

    blob: bytes
    offsets: NDArray[np.int64]
    stamps: NDArray[Any]

    def __post_init__(self) -> None:
        n_paths, n_stamps = len(self.offsets) - 1, len(self.stamps)
        if n_paths != n_stamps:
            raise DrhnError("columns of entries differ in length", found=f"{n_paths} {n_stamps}")

    @classmethod
    def from_stamps(cls, paths: Sequence[bytes], stamps: Sequence[FileStamp] | NDArray[Any]) -> Self:
        """Build from n paths relative to the root, in any order, and the stamp of each."""
        offsets = np.zeros(len(paths) + 1, dtype=np.int64)
        np.cumsum(np.fromiter(map(len, paths), dtype=np.int64, count=len(paths)), out=offsets[1:])
        return cls(blob=b"".join(paths), offsets=offsets, stamps=np.asarray(stamps, dtype=STAMP_DTYPE))

    @classmethod
    def concatenate(cls, parts: Sequence[Entries]) -> Self:
        """Join several, in order; none give an empty one."""
        ends = np.cumsum([0, *(len(part.blob) for part in parts)], dtype=np.int64)
        shifted = [part.offsets[1:] + end for part, end in zip(parts, ends, strict=False)]
        return cls(
            blob=b"".join(part.blob for part in parts),
            offsets=np.concatenate([np.zeros(1, np.int64), *shifted]),
            stamps=np.concatenate([np.empty(0, STAMP_DTYPE), *(part.stamps for part in parts)]),
        )

    def __len__(self) -> int:
        return len(self.stamps)

    def __getitem__(self, row: int) -> Entry:  # type: ignore[override]  # take() and part() stand for slices
        return Entry(path=self.path(row), stamp=self.stamp(row))

    def path(self, row: int) -> bytes:
        """Return the path of one row, 0..n-1; another is an IndexError."""
        row = operator.index(row)
        if not 0 <= row < len(self):
            raise IndexError(row)
        return self.blob[self.offsets[row] : self.offsets[row + 1]]

    def stamp(self, row: int) -> FileStamp:
        """Return the stamp of one row, 0..n-1."""
        return FileStamp(*self.stamps[row].tolist())

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
        return Entries(blob=blob, offsets=offsets - offsets[0], stamps=self.stamps[start:stop])

    def take(self, rows: NDArray[np.int64] | Sequence[int]) -> Entries:
        """Return these rows, (k,), in this order."""
        at = np.asarray(rows, dtype=np.int64)
        return Entries.from_stamps([self.path(row) for row in at.tolist()], self.stamps[at])
