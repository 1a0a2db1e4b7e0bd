"""Exact search by Hamming distance, straight over the packed codes.

Of a chunk of rows at a time, only those that beat a query's worst result so far are looked at again; ``compare`` finds
them. Nothing is built and nothing but the chunk is copied, so codes may be a mapped file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.pack import check_codes
from drhn_cli.errors import ConfigError, DrhnError
from drhn_cli.search.scan import choose_comparison, compares_natively
from drhn_cli.search.words import copy_words, differing_bits

_CHUNK_WORDS = 1 << 16  # 64-bit words at a time: with their counts 576 KB, which stay in the L2 cache
_NATIVE_WORDS = 1 << 28  # of all queries, where C compares them in place: a tenth of a second, as Ctrl-C waits so long
_FIRST_ROWS = 1 << 10  # all rows are hits until top_k of them have set a bound, so the first chunk is a small one
_THREAD_ROWS = 1 << 20  # below this many rows a thread costs more than it saves


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """What one query found, nearest first, equal distances in order of rows.

    Attributes:
        indices: (k,) int64, rows of the codes.
        distances: (k,) int32, bits that differ, 0..n_bits.
        scores: (k,) float64, what orders them instead of the distance; None where the distance does.
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
    rows: NDArray[np.bool_] | NDArray[np.integer] | None = None,
    n_threads: int | None = None,
) -> list[Neighbours]:
    """Find the codes nearest to each query.

    Args:
        codes: (n, code_size(n_bits)) uint8; bits beyond ``n_bits`` are not looked at.
        queries: (q, code_size(n_bits)) uint8.
        n_bits: length of a code, 1..4096.
        top_k: keep this many for each query, 1 or more; all of them if left out.
        max_distance: keep those at this distance or nearer, 0 or more; at any distance if left out.
        rows: where to look: (n,) bool, or rows in any order (one given twice is found once); everywhere if left out.
        n_threads: 1 or more; by default one for each million rows, and no more than there are cores.

    Returns:
        q results, each with ``min(top_k, rows within max_distance)`` neighbours.

    Raises:
        DrhnError: an array of another shape or dtype, or a row that does not exist.
        ConfigError: a number out of its range.

    Source: the scan is that of faiss IndexBinaryFlat.
    """
    check_codes(codes, n_bits)
    check_search(queries, n_bits, top_k=top_k, max_distance=max_distance, n_threads=n_threads)
    candidates = None if rows is None else candidate_rows(rows, len(codes))
    n_rows = len(codes) if candidates is None else len(candidates)
    limit = n_bits if max_distance is None else min(max_distance, n_bits)
    scan = _Scan(
        codes=codes if codes.flags.c_contiguous or candidates is not None else np.ascontiguousarray(codes),
        candidates=candidates,
        queries=copy_words(queries, n_bits),
        n_bits=n_bits,
        top_k=n_rows if top_k is None else top_k,
        max_distance=limit,
    )
    n_threads = count_threads(n_rows, n_threads)
    if n_threads == 1:
        return [best.result() for best in scan.run(0, n_rows)]
    bounds = np.linspace(0, n_rows, n_threads + 1).astype(int).tolist()
    from drhn_cli.threads import ThreadPool  # milliseconds, and one thread does without

    with ThreadPool(n_threads, "drhn-scan") as pool:  # numpy and C let go of the interpreter lock
        parts = list(pool.map(scan.run, bounds[:-1], bounds[1:]))
    return [_merge(best) for best in zip(*parts, strict=True)]


def check_search(
    queries: NDArray[np.uint8], n_bits: int, *, top_k: int | None, max_distance: int | None, n_threads: int | None
) -> None:
    """Refuse what ``search`` cannot be asked.

    Raises:
        DrhnError: queries of another shape or dtype.
        ConfigError: a number out of its range.
    """
    check_codes(queries, n_bits, "queries")
    for name, value, least in (("top_k", top_k, 1), ("max_distance", max_distance, 0), ("n_threads", n_threads, 1)):
        if value is not None and value < least:
            raise ConfigError(f"{name} is out of range", expected=f"{least} or more", found=str(value))


def count_threads(n_rows: int, n_threads: int | None) -> int:
    """Return how many threads scan so many rows: as told, or one for each million, and no more than there are cores."""
    if n_threads is None and n_rows >= 2 * _THREAD_ROWS:
        from drhn_cli.threads import n_processors

        n_threads = min(n_processors(), n_rows // _THREAD_ROWS)
    return n_threads or 1


def hamming_distances(queries: NDArray[np.uint8], codes: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return the distance of every query to every code, for numbers of them whose product fits in memory.

    Args:
        queries: (q, code_size) uint8, padding bits zero.
        codes: (n, code_size) uint8, padding bits zero.

    Returns:
        (q, n) uint16, bits that differ.

    Raises:
        DrhnError: an array of another shape or dtype.
    """
    n_bits = 8 * (codes.shape[1] if codes.ndim == 2 else 1)
    check_codes(codes, n_bits)
    check_codes(queries, n_bits, "queries")
    words = copy_words(codes, n_bits)
    distances = np.empty((len(queries), len(codes)), dtype=np.uint16)
    for row, query in zip(distances, copy_words(queries, n_bits).T, strict=True):
        row[:] = differing_bits(words, query)
    return distances


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scan:
    """One search: what to compare, and what to keep."""

    codes: NDArray[np.uint8]
    candidates: NDArray[np.int64] | None
    queries: NDArray[np.uint64]  # (words, q)
    n_bits: int
    top_k: int
    max_distance: int

    def run(self, start: int, stop: int) -> list[_Best]:
        """Scan candidates ``start`` to ``stop`` for all queries. Ranges share nothing, so each may have its thread."""
        best = [_Best(self.top_k, self.max_distance) for _ in range(self.queries.shape[1])]
        n_rows, n_first = self._chunk_rows(stop - start)
        comparison = choose_comparison(self.queries, self.n_bits, n_rows, self.top_k)
        for first, last in _chunk_bounds(start, stop, n_rows, n_first):
            # Who has top_k equal codes can find nothing better: the common case where codes repeat.
            bounds = {number: kept.bound for number, kept in enumerate(best) if kept.bound}
            if not bounds:
                break
            for number, hits, distances in comparison.near(self._codes(first, last + 7), last - first, bounds):
                places = hits + first
                best[number].add(distances, places if self.candidates is None else self.candidates[places])
        return best

    def _chunk_rows(self, n_rows: int) -> tuple[int, int]:
        """Return how many of so many rows a chunk has, and how many the first one has."""
        n_words, n_queries = self.queries.shape
        if self.candidates is None and compares_natively():
            most = max(1, _NATIVE_WORDS // (n_words * max(1, n_queries)))
            return most, most  # its bounds fall inside a chunk, too
        most = max(1, min(_CHUNK_WORDS // n_words, n_rows))
        return most, min(_FIRST_ROWS, most)

    def _codes(self, first: int, last: int) -> NDArray[np.uint8]:
        """Return the codes of these candidates, as far as there are so many."""
        if self.candidates is None:
            return self.codes[first:last]
        return self.codes.take(self.candidates[first:last], axis=0)


class _Best:
    """The nearest rows that one query has met so far. Rows must come in ascending order."""

    def __init__(self, top_k: int, max_distance: int) -> None:
        self.bound = max_distance + 1  # only rows nearer than this are worth adding
        self._top_k = top_k
        self._distances: list[NDArray[np.unsignedinteger]] = []
        self._rows: list[NDArray[np.int64]] = []
        self._n_added = 0  # since the last cut

    def add(self, distances: NDArray[np.unsignedinteger], rows: NDArray[np.int64]) -> None:
        """Take rows nearer than ``bound``, (m,) and (m,)."""
        self._distances.append(distances)
        self._rows.append(rows)
        self._n_added += len(rows)
        # Not at every call: cutting sorts top_k rows, and once for each top_k new ones keeps the whole linear.
        if self._n_added >= self._top_k:
            distances, rows = self._cut()
            # A later row at the same distance loses the tie, so it takes a smaller distance to get in from here on.
            self.bound = min(self.bound, int(distances[-1]))

    def result(self) -> Neighbours:
        """Return what was kept, sorted."""
        if not self._rows:
            return Neighbours(indices=np.empty(0, dtype=np.int64), distances=np.empty(0, dtype=np.int32))
        distances, rows = self._cut()
        return Neighbours(indices=rows, distances=distances.astype(np.int32))

    def absorb(self, other: _Best) -> None:
        """Add what another has kept of later rows."""
        for distances, rows in zip(other._distances, other._rows, strict=True):
            self._distances.append(distances)
            self._rows.append(rows)

    def _cut(self) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
        distances = np.concatenate(self._distances)
        # Stable, and rows are ascending: equal distances stay in order of rows.
        order = np.argsort(distances, kind="stable")[: self._top_k]
        distances, rows = distances[order], np.concatenate(self._rows)[order]
        self._distances, self._rows, self._n_added = [distances], [rows], 0
        return distances, rows


def _merge(parts: tuple[_Best, ...]) -> Neighbours:
    """Join what one query found in successive ranges of rows."""
    first, *others = parts
    for other in others:
        first.absorb(other)
    return first.result()


def candidate_rows(rows: NDArray[np.bool_] | NDArray[np.integer], n: int) -> NDArray[np.int64]:
    """Return the rows to look at, ascending and each once."""
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


def _chunk_bounds(start: int, stop: int, most: int, first: int) -> Iterator[tuple[int, int]]:
    """Yield where chunks begin and end: one of ``first`` rows, then those of ``most``."""
    return pairwise(sorted({start, *range(start + first, stop, most), stop}))
