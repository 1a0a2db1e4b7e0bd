"""The comparison in C, where installing found a compiler: ``scan.c`` by way of ctypes, which lets go of the lock.

Nothing depends on it. Without the library, with one of another version or with ``DRHN_NATIVE=0`` numpy compares, and
finds the same.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from drhn_cli.search.scan import Hits

LIBRARY = Path(__file__).parent.parent / "native" / "libscan.so"
VERSION = 1  # that of scan.c
_LEAST_CAPACITY = 1 << 12  # of each query; scan.c stops where there is room for less than 1024
_CAPACITY = 1 << 14  # hits of all queries that there is room for; much memory would take longer to get than to use

Library = ctypes.CDLL


class _Search(ctypes.Structure):
    """``struct search`` of scan.c, which describes the fields."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("kernel", "size", "n_queries", "n_distances", "top_k", "capacity")),
        *((name, ctypes.c_void_p) for name in ("mask", "queries", "bounds", "n_hits")),
        *((name, ctypes.c_void_p) for name in ("rows", "distances", "n_near", "counts")),
        ("places", ctypes.c_uint8 * 64),
    )


def load_native() -> Library | None:
    """Return the library, or None where there is none to be used."""
    return None if os.environ.get("DRHN_NATIVE") == "0" else open_library(LIBRARY)


@cache
def open_library(path: Path) -> Library | None:
    """Return a library, or None if it is missing, does not fit this machine, or has another version."""
    try:
        library = ctypes.CDLL(os.fspath(path))
        if library.drhn_version() != VERSION:
            return None
        library.drhn_scan.argtypes = (ctypes.POINTER(_Search), ctypes.c_void_p, ctypes.c_uint64)
        library.drhn_scan.restype = ctypes.c_uint64
    except (OSError, AttributeError):  # AttributeError: a library of something else
        return None
    return library


class NativeComparison:
    """Any number of queries, any length of codes."""

    def __init__(
        self,
        library: Library,
        queries: NDArray[np.uint64],
        n_bits: int,
        top_k: int,
        *,
        kernel: int | None = None,
    ) -> None:
        """Lay out what the library reads and writes.

        Args:
            library: as ``load_native`` gives it.
            queries: (words, q) uint64, as ``copy_words`` gives them.
            n_bits: length of a code.
            top_k: rows that a query needs no more of, 1 or more.
            kernel: 0 to ``library.drhn_best_kernel()``, which is taken if left out.
        """
        n_queries = queries.shape[1]
        capacity = max(_LEAST_CAPACITY, _CAPACITY // max(1, n_queries))
        mask = np.full((len(queries), 1), ~np.uint64(0))
        mask[-1] >>= np.uint64(-n_bits % 64)
        self._size = (n_bits + 7) // 8
        self._spread = _spread(np.concatenate([mask, queries], axis=1))
        self._numbers = np.empty((3, n_queries), dtype=np.uint64)
        self._bounds, self._n_hits, _ = self._numbers
        self._rows = np.empty((n_queries, capacity), dtype=np.int64)
        self._distances = np.empty((n_queries, capacity), dtype=np.uint16)
        self._counts = np.empty((n_queries, n_bits + 1), dtype=np.uint64)
        spread, numbers = self._spread.ctypes.data, self._numbers.ctypes.data
        self._search = _Search(
            kernel=library.drhn_best_kernel() if kernel is None else kernel,
            size=self._size,
            n_queries=n_queries,
            n_distances=n_bits + 1,
            top_k=min(top_k, 1 << 63),
            capacity=capacity,
            mask=spread,
            queries=spread + self._spread.shape[1],
            bounds=numbers,
            n_hits=numbers + self._n_hits.nbytes,
            rows=self._rows.ctypes.data,
            distances=self._distances.ctypes.data,
            n_near=numbers + 2 * self._n_hits.nbytes,
            counts=self._counts.ctypes.data,
        )
        self._scan = library.drhn_scan

    def near(self, codes: NDArray[np.uint8], n_rows: int, bounds: dict[int, int]) -> Iterator[Hits]:
        """Find the codes of a chunk that are nearer than the bounds, but for those that top_k others come before.

        See ``Comparison.near``; a query may come several times, with later places each time.
        """
        self._bounds[:] = 0
        self._bounds[list(bounds)] = list(bounds.values())
        address, done = codes.ctypes.data, 0
        while done < n_rows:
            before = done
            done += self._scan(self._search, address + before * self._size, n_rows - before)
            for number in np.flatnonzero(self._n_hits).tolist():
                hits = slice(0, int(self._n_hits[number]))
                yield number, self._rows[number, hits] + before, self._distances[number, hits].copy()


def _spread(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Lay out codes, (words, n) uint64, as the vectors of scan.c hold them: (n, a multiple of 64)."""
    n_words, n = words.shape
    room = 1 << (n_words - 1).bit_length() if n_words <= 4 else -(-n_words // 8) * 8
    spread = np.zeros((n, max(1, 8 // room), room), dtype="<u8")
    spread[:, :, :n_words] = words.T[:, np.newaxis]
    return spread.reshape(n, -1).view(np.uint8)
