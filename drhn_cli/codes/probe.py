"""Search with a multi-index: the answers of the scan, from a small share of the codes."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.index import CodeIndex, Table, substring
from drhn_cli.native import load_library
from drhn_cli.search.hamming import Neighbours, check_search, search
from drhn_cli.search.scan import copy_words, count_bits

# What work costs, in rows scanned for one query by one thread of numpy; measured with tests/benchmarks/search.py.
_LOOK_UP_COST = 12_000
_STEP_COST = 45_000
_BUCKET_COST = 8
_CANDIDATE_COST = 24
_FIRST_ITEMS = 1 << 12
_BATCH_SHARE = 0.5  # of the cost of a scan for each of many queries, which share the reading of the codes
# The same where C scans: half of what was measured or less, for beside it small steps cost more than is said above.
_NATIVE_SHARE, _NATIVE_BATCH_SHARE = 0.1, 0.08
_WASTE = 0.1  # share of the scan's work that may be done in vain
_CHUNK_CANDIDATES = 1 << 16
_SAMPLE = 8  # queries: if buckets are too much work for all of these, the others are not tried


def search_indexed(
    index: CodeIndex,
    queries: NDArray[np.uint8],
    *,
    top_k: int | None = None,
    max_distance: int | None = None,
    n_threads: int | None = None,
) -> list[Neighbours]:
    """Find the codes nearest to each query, as ``search`` does over all rows, with the same results.

    A query for which opening buckets would take longer than scanning is scanned; work that turns out to have been in
    vain is at most a tenth of the scan, and where the first queries are all scanned, so are the others.

    Args:
        index: of the codes.
        queries: (q, code_size(n_bits)) uint8.
        top_k: keep this many for each query, 1 or more; all of them if left out.
        max_distance: keep those at this distance or nearer, 0 or more; at any distance if left out.
        n_threads: 1 or more; by default one for each million items, and no more than there are cores.

    Returns:
        q results, each with ``min(top_k, rows within max_distance)`` neighbours.

    Raises:
        DrhnError: queries of another shape or dtype.
        ConfigError: a number out of its range.
        IndexError, ValueError: the index is damaged.

    Source: Norouzi, Punjani, Fleet 2012, section 2; when to scan instead is ours.
    """
    from drhn_cli.threads import ThreadPool  # milliseconds, and who has no index needs none

    check_search(queries, index.n_bits, top_k=top_k, max_distance=max_distance, n_threads=n_threads)
    limit = index.n_bits if max_distance is None else min(max_distance, index.n_bits)
    n_items = len(index.distinct)
    n_threads = n_threads or 1
    alone, in_batch = (_NATIVE_SHARE, _NATIVE_BATCH_SHARE) if load_library() is not None else (1, _BATCH_SHARE)
    # One query is scanned by several threads, but probed by one; many are probed by several.
    scan_cost = in_batch * n_items if len(queries) > 1 else alone * n_items / n_threads

    def probe(query: NDArray[np.uint8]) -> Neighbours | None:
        return _Probe(index, query[np.newaxis], top_k, limit, scan_cost).run()

    with ThreadPool(n_threads, "drhn-probe") as pool:
        probe_all = pool.map if min(n_threads, len(queries)) > 1 else map
        found = list(probe_all(probe, queries[:_SAMPLE]))
        others = queries[_SAMPLE:]
        found += probe_all(probe, others) if any(result is not None for result in found) else [None] * len(others)
    left = [place for place, result in enumerate(found) if result is None]
    if left:
        scanned = search(
            index.distinct,
            queries[left],
            n_bits=index.n_bits,
            top_k=top_k,
            max_distance=max_distance,
            n_threads=n_threads,
        )
        for place, items in zip(left, scanned, strict=True):
            found[place] = _rows_of(index, items.indices, items.distances, top_k)
    return [result for result in found if result is not None]


class _Ring(NamedTuple):
    """The buckets of one step: the items of the table, and where those of each bucket begin and how many they are."""

    items: NDArray[np.uint32]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @property
    def n_candidates(self) -> int:
        return int(self.lengths.sum())


@dataclass(eq=False)
class _Probe:
    """One query on its way outwards: after step r everything at distance r or less has been met."""

    index: CodeIndex
    query: NDArray[np.uint8]  # (1, code_size)
    top_k: int | None
    bound: int  # nothing farther is wanted; shrinks
    scan_cost: float
    _rings: dict[int, _Ring] = field(default_factory=dict)
    _met: defaultdict[int, list[NDArray[np.uint32]]] = field(default_factory=lambda: defaultdict(list))
    _spent: float = 0.0

    def run(self) -> Neighbours | None:
        """Return what there is to find, or None where scanning is less work."""
        # Codes that repeat are often found at once, so there it is worth more than what may be done in vain.
        most = self._allowance if self.index.groups is None else self.scan_cost
        if most < _STEP_COST + _FIRST_ITEMS:
            return None  # too few codes to begin
        certain = False
        # Nothing is nearer than top_k equal codes among the first items, and later ones lose the tie.
        step = 1 if self._meet_first() else 0
        while step <= self.bound:
            certain = certain or self._is_less_than_scanning(step)
            if not certain and not self._is_cheap(step):
                return None
            self._open(step)
            self._tighten()
            step += 1
        levels = {distance: np.sort(met[0]) for distance, met in sorted(self._met.items())}
        items = np.concatenate([np.empty(0, np.int64), *levels.values()])
        distances = np.array([distance for distance, level in levels.items() for _ in level], dtype=np.int32)
        return _rows_of(self.index, items, distances, self.top_k)

    def _meet_first(self) -> bool:
        """Compare the first items: codes that repeat come early. Tell whether ``top_k`` rows are equal to the query."""
        self._spent += _STEP_COST + _FIRST_ITEMS
        self._compare(np.arange(min(_FIRST_ITEMS, len(self.index.distinct)), dtype=np.uint32))
        self._tighten()
        equal = self._met.get(0)
        return self.top_k is not None and equal is not None and self._count_rows(equal[0]) >= self.top_k

    def _is_cheap(self, step: int) -> bool:
        """Tell whether a step can be taken even if all is to be scanned in the end."""
        may_look_up = step in self._rings or self._look_up_cost(step) <= self._allowance
        return may_look_up and self._cost(step) <= self._allowance

    def _is_less_than_scanning(self, step: int) -> bool:
        """Tell whether this step and all that may follow are less work than scanning.

        Estimates at first, and counts the candidates only where that promises to be worth it.
        """
        look_ups = expected = 0.0
        for later in range(step, self.bound + 1):
            if later in self._rings:
                expected += self._cost(later)
                continue
            table, near = self._table_of(later)
            look_ups += self._look_up_cost(later)
            share = math.comb(table.width, near) / (1 << table.width)
            expected += _STEP_COST + _CANDIDATE_COST * share * len(self.index.distinct)
            if look_ups > self._allowance or self._spent + look_ups + expected > self.scan_cost:
                return False
        counted = sum(self._cost(later) for later in range(step, self.bound + 1))  # looks up, so _spent grows first
        return self._spent + counted <= self.scan_cost

    @property
    def _allowance(self) -> float:
        return _WASTE * self.scan_cost - self._spent

    def _table_of(self, step: int) -> tuple[Table, int]:
        """Return the table that a step looks at, and in how many bits its substrings differ from the query's."""
        near, place = divmod(step, len(self.index.tables))
        return self.index.tables[place], near

    def _look_up_cost(self, step: int) -> float:
        table, near = self._table_of(step)
        return _LOOK_UP_COST + _BUCKET_COST * math.comb(table.width, near)

    def _cost(self, step: int) -> float:
        """Return what opening the buckets of a step costs, once they are looked up."""
        return _STEP_COST + _CANDIDATE_COST * self._ring(step).n_candidates

    def _ring(self, step: int) -> _Ring:
        """Return the buckets of a step: those of one table whose substring differs from the query's in so many bits."""
        if step not in self._rings:
            self._spent += self._look_up_cost(step)
            table, near = self._table_of(step)
            buckets = _masks(table.width, near) ^ substring(self.query, table.first_bit, table.width)
            starts = table.starts[buckets].astype(np.int64)
            lengths = table.starts[buckets + np.uint32(1)] - starts
            filled = np.flatnonzero(lengths)
            self._rings[step] = _Ring(table.items, starts[filled], lengths[filled])
        return self._rings[step]

    def _open(self, step: int) -> None:
        """Compare the candidates of a step with the query and keep those that are near enough."""
        self._spent += self._cost(step)
        ring = self._rings.pop(step)
        ends = np.cumsum(ring.lengths)
        cuts = np.searchsorted(ends, np.arange(0, ring.n_candidates, _CHUNK_CANDIDATES))
        for first, last in pairwise(sorted({*cuts.tolist(), len(ends)})):
            starts, lengths = ring.starts[first:last], ring.lengths[first:last]
            self._compare(ring.items[_places(starts, lengths, len(ring.items))])

    def _compare(self, candidates: NDArray[np.uint32]) -> None:
        """Compare some candidates, each given once, with the query, and keep those that are near enough."""
        words = copy_words(self.index.distinct.take(candidates, axis=0), self.index.n_bits)
        distances = count_bits(words ^ copy_words(self.query, self.index.n_bits))
        if self.top_k is not None and len(candidates) >= self.top_k:
            n_within = np.cumsum(np.bincount(distances, minlength=self.bound + 1))
            self.bound = min(self.bound, int(np.searchsorted(n_within, self.top_k)))
        near = np.flatnonzero(distances <= self.bound)
        candidates, distances = candidates[near], distances[near]
        for distance in np.flatnonzero(np.bincount(distances)).tolist():
            self._met[distance].append(candidates[distances == distance])

    def _tighten(self) -> None:
        """Forget what was met again, in another substring, and what is too far now."""
        n_rows = 0
        for distance in sorted(self._met):
            if distance > self.bound:
                del self._met[distance]
                continue
            met = self._met[distance]
            if len(met) > 1:
                met[:] = [_unique(np.concatenate(met))]
            n_rows += self._count_rows(met[0])
            if self.top_k is not None and n_rows >= self.top_k:
                self.bound = distance

    def _count_rows(self, items: NDArray[np.uint32]) -> int:
        if self.index.groups is None:
            return len(items)
        starts = self.index.groups[0]
        return int((starts[items + np.uint32(1)].astype(np.int64) - starts[items]).sum())


def _rows_of(index: CodeIndex, items: NDArray[np.int64], distances: NDArray[np.int32], top_k: int | None) -> Neighbours:
    """Return the rows that items, sorted by distance and then by number, stand for.

    Items are in the order of their first rows, so the nearest ``top_k`` rows are of the first ``top_k`` items: each of
    those has a row that comes before all rows of any later item.
    """
    items, near = items[:top_k], distances[:top_k]
    if index.groups is None:
        return Neighbours(indices=items, distances=near)
    starts, rows = index.groups
    first = starts[items].astype(np.int64)
    lengths = starts[items + 1] - first
    if top_k is not None:
        lengths = np.minimum(lengths, top_k)
    found, near = rows[_places(first, lengths, len(rows))].astype(np.int64), np.repeat(near, lengths)
    order = np.lexsort((found, near))[:top_k]
    return Neighbours(indices=found[order], distances=near[order])


def _unique(items: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return items sorted and each once. ``np.unique`` does so too, but first loads numpy.ma: 15 ms for one query."""
    items = np.sort(items)
    is_new = np.ones(len(items), dtype=np.bool_)
    np.not_equal(items[1:], items[:-1], out=is_new[1:])
    return items[is_new]


def _places(starts: NDArray[np.int64], lengths: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return ``starts[i], starts[i] + 1, ...``, ``lengths[i]`` of them, for each i, one after the other.

    Raises:
        ValueError: they are more than ``most``, or a length is negative.
    """
    ends = np.cumsum(lengths)
    if len(ends) and (lengths.min() < 0 or ends[-1] > most):
        raise ValueError(f"{ends[-1]} places of {most}")
    places = np.repeat(starts - ends + lengths, lengths)
    places += np.arange(len(places))
    return places


@lru_cache(maxsize=64)
def _masks(width: int, n_set: int) -> NDArray[np.uint32]:
    """Return all numbers of ``width`` bits of which ``n_set`` are set, ascending."""
    if not n_set:
        return np.zeros(1, dtype=np.uint32)
    if n_set > width:
        return np.empty(0, dtype=np.uint32)
    smaller = _masks(width - 1, n_set - 1)
    parts = [smaller[: np.searchsorted(smaller, 1 << top)] | np.uint32(1 << top) for top in range(width)]
    return np.concatenate(parts)
