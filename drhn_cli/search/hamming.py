"""Exact search by Hamming distance, over the packed codes.

Codes are scanned chunk by chunk, and the scanner returns only rows that are nearer than a query's worst result so far.
There is no index, and only the chunk is copied, so the codes may be a mapped file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.pack import check_codes
from drhn_cli.errors import ConfigError, DrhnError
from drhn_cli.native import load_library
from drhn_cli.search.scan import choose_scanner, copy_words, count_bits

Rows = NDArray[np.bool_] | NDArray[np.integer]
"""Some rows of n codes: an (n,) mask, or row numbers in any order."""

_CHUNK_WORDS = 1 << 16  # 64-bit words of a chunk in numpy: with their counts 576 KB, which fit the L2 cache
_NATIVE_WORDS = 1 << 28  # words compared per C call, over all queries: 0.1 s, which is how long Ctrl-C may wait
_FIRST_ROWS = 1 << 10  # without a bound every row is a hit, so the first chunk, which gives one, is small
_THREAD_ROWS = 1 << 20  # with fewer rows, a thread costs more than it saves


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """The neighbours of one query, nearest first, ties in order of rows.

    Attributes:
        indices: (k,) int64, rows of the codes.
        distances: (k,) int32, Hamming distances, 0..n_bits.
        scores: (k,) float64, which give the order in asymmetric search; otherwise None.
    """

    indices: NDArray[np.int64]
    distances: NDArray[np.int32]
    scores: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.indices)


def search(
    codes: NDArray[np.uint8],
    queries: NDArray[np.uint8],
    *,
    n_bits: int,
    top_k: int | None = None,
    max_distance: int | None = None,
    rows: Rows | None = None,
) -> list[Neighbours]:
    """Find the codes nearest to each query, as faiss.IndexBinaryFlat does.

    Args:
        codes: (n, code_size(n_bits)) uint8; padding bits are ignored.
        queries: (q, code_size(n_bits)) uint8.
        n_bits: length of a code, 1..4096.
        top_k: matches for each query, 1 or more. None: all.
        max_distance: only codes at this distance or nearer, 0 or more. None: any distance.
        rows: the rows to search. None: all.

    Raises:
        DrhnError: an array of another shape or dtype, or a row that does not exist.
        ConfigError: a number out of its range.
    """
    check_codes(codes, n_bits)
    check_search(queries, n_bits, top_k=top_k, max_distance=max_distance)
    candidates = None if rows is None else candidate_rows(rows, len(codes))
    n_rows = len(codes) if candidates is None else len(candidates)
    scan = _Scan(
        codes=codes if candidates is not None else np.ascontiguousarray(codes),
        candidates=candidates,
        queries=copy_words(queries, n_bits),
        n_bits=n_bits,
        top_k=n_rows if top_k is None else top_k,
        max_distance=n_bits if max_distance is None else min(max_distance, n_bits),
    )
    n_threads = count_threads(n_rows)
    if n_threads == 1:
        return [_neighbours([nearest]) for nearest in scan.run(0, n_rows)]
    from drhn_cli.threads import ThreadPool  # takes milliseconds to import, which small files do not need

    bounds = np.linspace(0, n_rows, n_threads + 1).astype(int).tolist()
    with ThreadPool(n_threads, "drhn-scan") as pool:  # numpy and C release the interpreter lock
        ranges = list(pool.map(scan.run, bounds[:-1], bounds[1:]))
    return [_neighbours(parts) for parts in zip(*ranges, strict=True)]


def count_threads(n_rows: int) -> int:
    """Return how many threads scan ``n_rows``: one per 2^20 rows, at most one per processor."""
    if n_rows < 2 * _THREAD_ROWS:
        return 1
    from drhn_cli.threads import n_processors

    return min(n_processors(), n_rows // _THREAD_ROWS)


def check_search(queries: NDArray[np.uint8], n_bits: int, *, top_k: int | None, max_distance: int | None) -> None:
    """Check arguments of ``search``, with its errors."""
    check_codes(queries, n_bits, "queries")
    for name, value, least in (("top_k", top_k, 1), ("max_distance", max_distance, 0)):
        if value is not None and value < least:
            raise ConfigError(f"{name} is out of range", expected=f"{least} or more", found=str(value))


def candidate_rows(rows: Rows, n: int) -> NDArray[np.int64]:
    """Return the numbers of the rows to search, ascending, without duplicates."""
    if rows.dtype == np.bool_:
        if rows.shape != (n,):
            raise DrhnError("mask of rows of another shape", expected=f"({n},)", found=str(rows.shape))
        return np.flatnonzero(rows).astype(np.int64)
    if rows.ndim != 1 or (rows.size and not np.issubdtype(rows.dtype, np.integer)):
        raise DrhnError("not rows", expected="(m,) bool or integer", found=f"{rows.shape} {rows.dtype}")
    unique = np.unique(rows).astype(np.int64)
    if unique.size and not 0 <= unique[0] <= unique[-1] < n:
        raise DrhnError("no such row", expected=f"0..{n - 1}", found=f"{unique[0]}..{unique[-1]}")
    return unique


def hamming_distances(queries: NDArray[np.uint8], codes: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return the distance of every query to every code: (q, code_size), (n, code_size) uint8 -> (q, n) uint16.

    Padding bits must be zero. Arrays of another shape or dtype are a ``DrhnError``.
    """
    n_bits = 8 * (codes.shape[1] if codes.ndim == 2 else 1)
    check_codes(codes, n_bits)
    check_codes(queries, n_bits, "queries")
    words = copy_words(codes, n_bits)
    distances = np.empty((len(queries), len(codes)), dtype=np.uint16)
    for row, query in zip(distances, copy_words(queries, n_bits).T, strict=True):
        row[:] = count_bits(words ^ query[:, np.newaxis])
    return distances


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scan:
    """The arguments of one search."""

    codes: NDArray[np.uint8]
    candidates: NDArray[np.int64] | None
    queries: NDArray[np.uint64]  # (words, q)
    n_bits: int
    top_k: int
    max_distance: int

    def run(self, start: int, stop: int) -> list[Nearest]:
        """Scan candidates ``start`` to ``stop`` for all queries. Threads may scan other ranges at the same time."""
        n_words, n_queries = self.queries.shape
        nearest = [Nearest(self.top_k, self.max_distance + 1) for _ in range(n_queries)]
        if self.candidates is None and load_library() is not None:  # C lowers the bounds within a chunk
            n_rows = n_first = max(1, _NATIVE_WORDS // (n_words * max(1, n_queries)))
        else:
            n_rows = max(1, min(_CHUNK_WORDS // n_words, stop - start))
            n_first = min(_FIRST_ROWS, n_rows)
        scanner = choose_scanner(self.queries, self.n_bits, n_rows, self.top_k)
        for first, last in pairwise(sorted({start, *range(start + n_first, stop, n_rows), stop})):
            # A query with top_k codes at distance 0 is done, which is common where codes repeat.
            bounds = {number: kept.bound for number, kept in enumerate(nearest) if kept.bound}
            if not bounds:
                break
            rows = slice(first, last + 7)
            codes = self.codes[rows] if self.candidates is None else self.codes.take(self.candidates[rows], axis=0)
            for number, places, distances in scanner.hits(codes, last - first, bounds):
                places = places + first
                nearest[number].add(distances, places if self.candidates is None else self.candidates[places])
        return nearest


class Nearest:
    """The nearest rows of one query so far, by distance or score; rows must be added in ascending order.

    Attributes:
        bound: only rows nearer than this can be among the ``top_k`` nearest.
        parts: distances and rows that were added, cut to the ``top_k`` nearest now and then.
    """

    def __init__(self, top_k: int, bound: float) -> None:
        self.bound = bound
        self.top_k = top_k
        self.parts: list[tuple[NDArray[Any], NDArray[np.int64]]] = []
        self._n_added = 0  # since the last cut

    def add(self, distances: NDArray[Any], rows: NDArray[np.int64]) -> None:
        """Add rows nearer than ``bound``, (m,) and (m,)."""
        self.parts.append((distances, rows))
        self._n_added += len(rows)
        # Cutting sorts top_k rows; once for every top_k new ones keeps the search linear.
        if self._n_added >= self.top_k:
            distances, rows = cut([self])
            self.parts, self._n_added = [(distances, rows)], 0
            # A later row at the same distance loses the tie, so only smaller distances get in from here on.
            self.bound = min(self.bound, distances[-1].item())


def cut(ranges: Sequence[Nearest]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the ``top_k`` smallest distances and their rows, of one query in successive ranges of rows; sorted."""
    parts = [part for nearest in ranges for part in nearest.parts]
    if not parts:
        return np.empty(0), np.empty(0, np.int64)
    distances, rows = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
    order = np.argsort(distances, kind="stable")[: ranges[0].top_k]  # stable: ties stay in order of rows
    return distances[order], rows[order]


def _neighbours(ranges: Sequence[Nearest]) -> Neighbours:
    distances, indices = cut(ranges)
    return Neighbours(indices=indices, distances=distances.astype(np.int32))
