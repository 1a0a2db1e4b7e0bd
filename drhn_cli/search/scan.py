"""Find the codes of a chunk that are nearer to each query than a bound: in C, or in numpy without the library.

Both scanners find the same rows. The numpy one copies the chunk into 64-bit words once for all queries, and keeps its
buffers from chunk to chunk, because allocating them would take longer than computing in them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drhn_cli.native import load_library

_MIN_CAPACITY = 1 << 12  # hits that each query has room for; scan.c stops at a block that might not fit
_CAPACITY = 1 << 14  # hits that all queries together have room for: more would take longer to allocate than to use

Hits = tuple[int, NDArray[np.int64], NDArray[np.unsignedinteger]]
"""The number of a query, the places of its hits in the chunk, and their distances."""


def choose_scanner(queries: NDArray[np.uint64], n_bits: int, n_rows: int, top_k: int) -> NumpyScanner | NativeScanner:
    """Return the scanner of queries, (words, q) uint64, for chunks of at most ``n_rows``."""
    library = load_library()
    if library is None:
        return NumpyScanner(queries, n_bits, n_rows)
    return NativeScanner(library, queries, n_bits, top_k)


class NumpyScanner:
    """The scan in numpy."""

    def __init__(self, queries: NDArray[np.uint64], n_bits: int, n_rows: int) -> None:
        self._queries, self._n_bits = queries, n_bits
        self._words = np.empty((len(queries), n_rows), dtype=np.uint64)
        self._counts = np.empty(self._words.shape, dtype=np.uint8)

    def hits(self, codes: NDArray[np.uint8], n_rows: int, bounds: dict[int, float]) -> Iterator[Hits]:
        """Yield the codes of a chunk that are nearer than the bound of each query; queries without one are skipped.

        The chunk is the first ``n_rows`` of contiguous codes; up to 7 rows beyond it make copying faster.
        """
        words = copy_words(codes, self._n_bits, out=self._words[:, :n_rows])
        previous = np.zeros(len(words), dtype=np.uint64)
        for number, bound in bounds.items():
            query = self._queries[:, number]
            words ^= (previous ^ query)[:, np.newaxis]  # in place: undoes the query before and applies this one
            previous = query
            distances = count_bits(words, self._counts[:, :n_rows])
            if distances[distances.argmin()] < bound:  # faster than distances.min()
                places = np.flatnonzero(distances < bound)
                yield number, places, distances[places]


class _Search(ctypes.Structure):
    """``struct search`` of scan.c, where the fields are described."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("kernel", "size", "n_queries", "n_distances", "top_k", "capacity")),
        *((name, ctypes.c_void_p) for name in ("mask", "queries", "bounds", "n_hits")),
        *((name, ctypes.c_void_p) for name in ("rows", "distances", "n_near", "counts")),
        ("places", ctypes.c_uint8 * 64),
    )


class NativeScanner:
    """The scan in C, called by ctypes, which releases the interpreter lock.

    ``kernel`` is 0 to ``library.drhn_best_kernel()``, the default; each query needs ``top_k`` hits.
    """

    def __init__(
        self, library: ctypes.CDLL, queries: NDArray[np.uint64], n_bits: int, top_k: int, *, kernel: int | None = None
    ) -> None:
        n_queries = queries.shape[1]
        capacity = max(_MIN_CAPACITY, _CAPACITY // max(1, n_queries))
        mask = np.full((len(queries), 1), ~np.uint64(0))
        mask[-1] >>= np.uint64(-n_bits % 64)
        self._size = (n_bits + 7) // 8
        spread = _spread(np.concatenate([mask, queries], axis=1))
        per_query, per_hit = (n_queries,), (n_queries, capacity)
        self._arrays: dict[str, NDArray[Any]] = {
            "mask": spread[0],
            "queries": spread[1:],
            "bounds": np.empty(per_query, np.uint64),
            "n_hits": np.empty(per_query, np.uint64),
            "rows": np.empty(per_hit, np.int64),
            "distances": np.empty(per_hit, np.uint16),
            "n_near": np.empty(per_query, np.uint64),
            "counts": np.empty((n_queries, n_bits + 1), np.uint64),
        }
        self._search = _Search(
            kernel=library.drhn_best_kernel() if kernel is None else kernel,
            size=self._size,
            n_queries=n_queries,
            n_distances=n_bits + 1,
            top_k=min(top_k, 1 << 63),
            capacity=capacity,
            **{name: array.ctypes.data for name, array in self._arrays.items()},
        )
        self._scan = library.drhn_scan
        self._scan.argtypes = (ctypes.POINTER(_Search), ctypes.c_void_p, ctypes.c_uint64)
        self._scan.restype = ctypes.c_uint64

    def hits(self, codes: NDArray[np.uint8], n_rows: int, bounds: dict[int, float]) -> Iterator[Hits]:
        """As ``NumpyScanner.hits``, but a query may come several times, with later places each time.

        Hits with ``top_k`` better ones before them may be left out.
        """
        n_hits, rows, distances = (self._arrays[name] for name in ("n_hits", "rows", "distances"))
        self._arrays["bounds"][:] = 0
        self._arrays["bounds"][list(bounds)] = list(bounds.values())
        address, done = codes.ctypes.data, 0
        while done < n_rows:  # the library returns early where a query has no room for more hits
            before = done
            done += self._scan(self._search, address + before * self._size, n_rows - before)
            for number in np.flatnonzero(n_hits).tolist():
                found = slice(0, int(n_hits[number]))
                yield number, rows[number, found] + before, distances[number, found].copy()


def _spread(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Lay out codes, (words, n) uint64, as the vectors of scan.c hold them: (n, a multiple of 64)."""
    n_words, n = words.shape
    room = 1 << (n_words - 1).bit_length() if n_words <= 4 else -(-n_words // 8) * 8
    spread = np.zeros((n, max(1, 8 // room), room), dtype="<u8")
    spread[:, :, :n_words] = words.T[:, np.newaxis]
    return spread.reshape(n, -1).view(np.uint8)


def copy_words(codes: NDArray[np.uint8], n_bits: int, out: NDArray[np.uint64] | None = None) -> NDArray[np.uint64]:
    """Copy packed codes, (n, code_size) uint8, into 64-bit words, (words, n), padding bits zero.

    ``out`` gets as many codes as it has columns, faster if there are 7 more codes.
    """
    codes = np.ascontiguousarray(codes)
    size = codes.shape[1]
    words = np.empty((-(-size // 8), len(codes)), dtype=np.uint64) if out is None else out
    n_words, n_rows = words.shape
    # The last word of a code reaches up to 7 bytes into the codes that follow, and is masked below. At the end of the
    # array there is nothing to reach into, so the last few codes are padded instead.
    n_viewed = max(0, min(n_rows, len(codes) - -(-(8 * n_words - size) // size)))
    if n_viewed:
        for index, word in enumerate(words[:, :n_viewed]):
            # An unaligned view, as rows of 6 bytes allow no other: fast to copy from, slow to compute with.
            word[:] = np.ndarray(word.shape, dtype="<u8", buffer=codes, offset=8 * index, strides=(size,))
    if n_viewed < n_rows:
        padded = np.zeros((n_rows - n_viewed, 8 * n_words), dtype=np.uint8)
        padded[:, :size] = codes[n_viewed:n_rows]
        words[:, n_viewed:] = padded.view("<u8").T
    if n_bits % 64:
        words[-1] &= np.uint64((1 << n_bits % 64) - 1)
    return words


def count_bits(words: NDArray[np.uint64], out: NDArray[np.uint8] | None = None) -> NDArray[np.unsignedinteger]:
    """Return how many bits are set in each column of (words, rows); ``out``, of that shape, is overwritten."""
    counts: NDArray[np.uint8] = np.bitwise_count(words, out=out)
    total: NDArray[np.unsignedinteger] = counts[0]
    if len(counts) > 1:
        total = np.add.reduce(counts, dtype=np.uint8 if len(counts) < 4 else np.uint16)
    return total
