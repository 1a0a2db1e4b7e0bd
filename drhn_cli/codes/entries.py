"""What a code file knows of each picture, in columns: a million entries are a few large arrays."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drhn_cli.errors import DrhnError
from drhn_cli.files import FileStamp


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
        sizes: (n,) int64, bytes.
        mtimes_ns: (n,) int64, nanoseconds since 1970.
        inodes: (n,) uint64, 0 where unknown.

    Raises:
        DrhnError: the columns have different lengths.
    """

    blob: bytes
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    mtimes_ns: NDArray[np.int64]
    inodes: NDArray[np.uint64]

    def __post_init__(self) -> None:
        lengths = (len(self.offsets) - 1, len(self.sizes), len(self.mtimes_ns), len(self.inodes))
        if len(set(lengths)) != 1:
            raise DrhnError("columns of entries differ in length", found=" ".join(map(str, lengths)))

    @classmethod
    def from_columns(
        cls, paths: Sequence[bytes], sizes: ArrayLike, mtimes_ns: ArrayLike, inodes: ArrayLike | None = None
    ) -> Self:
        """Build from n paths relative to the root, in any order, and n integers for each other column."""
        offsets = np.zeros(len(paths) + 1, dtype=np.int64)
        np.cumsum(np.fromiter(map(len, paths), dtype=np.int64, count=len(paths)), out=offsets[1:])
        return cls(
            blob=b"".join(paths),
            offsets=offsets,
            sizes=np.asarray(sizes, dtype=np.int64),
            mtimes_ns=np.asarray(mtimes_ns, dtype=np.int64),
            inodes=np.zeros(len(paths), np.uint64) if inodes is None else np.asarray(inodes, dtype=np.uint64),
        )

    @classmethod
    def from_stamps(cls, paths: Sequence[bytes], stamps: Sequence[FileStamp]) -> Self:
        """Build from n paths relative to the root, in any order, and the stamp of each."""
        columns = ([getattr(stamp, name) for stamp in stamps] for name in ("size", "mtime_ns", "inode"))
        return cls.from_columns(paths, *columns)

    @classmethod
    def concatenate(cls, parts: Sequence[Entries]) -> Self:
        """Join several, in order; none give an empty one."""
        ends = np.cumsum([0, *(int(part.offsets[-1]) for part in parts)], dtype=np.int64)
        shifted = [part.offsets[1:] + end for part, end in zip(parts, ends, strict=False)]
        return cls(
            blob=b"".join(part.blob for part in parts),
            offsets=np.concatenate([np.zeros(1, np.int64), *shifted]),
            sizes=np.concatenate([np.zeros(0, np.int64), *(part.sizes for part in parts)]),
            mtimes_ns=np.concatenate([np.zeros(0, np.int64), *(part.mtimes_ns for part in parts)]),
            inodes=np.concatenate([np.zeros(0, np.uint64), *(part.inodes for part in parts)]),
        )

    def __len__(self) -> int:
        return len(self.sizes)

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
        return FileStamp(size=int(self.sizes[row]), mtime_ns=int(self.mtimes_ns[row]), inode=int(self.inodes[row]))

    def paths(self) -> Iterator[bytes]:
        """Yield the paths in order of rows; much faster than ``path`` for each."""
        # Plain integers, a few at a time: a list of ten million would weigh more than the paths.
        step = 1 << 16
        for start in range(0, len(self), step):
            ends = self.offsets[start : start + step + 1].tolist()
            for first, last in pairwise(ends):
                yield self.blob[first:last]

    def with_paths(self, paths: Sequence[bytes]) -> Entries:
        """Return the same entries under other paths, (n,) of them."""
        return Entries.from_columns(paths, self.sizes, self.mtimes_ns, self.inodes)

    def part(self, start: int, stop: int) -> Entries:
        """Return rows ``start`` to ``stop`` (0 <= start <= stop <= n), sharing the columns' memory."""
        first = self.offsets[start]
        return Entries(
            blob=self.blob[first : self.offsets[stop]],
            offsets=self.offsets[start : stop + 1] - first,
            sizes=self.sizes[start:stop],
            mtimes_ns=self.mtimes_ns[start:stop],
            inodes=self.inodes[start:stop],
        )

    def take(self, rows: NDArray[np.int64] | Sequence[int]) -> Entries:
        """Return the named rows, (k,), in the order given."""
        at = np.asarray(rows, dtype=np.int64)
        paths = [self.path(row) for row in at.tolist()]
        return Entries.from_columns(paths, self.sizes[at], self.mtimes_ns[at], self.inodes[at])
