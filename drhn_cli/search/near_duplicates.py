"""Groups of near-duplicate codes: the connected components of codes within a radius.

Two codes that differ in at most R bits differ in at most R of R + k substrings, so they agree in at least k of them
(pigeonholes). For each choice of k substrings the codes are sorted by those bits, and only codes that agree in all of
them are compared. A larger k means more choices, so more sorting, but fewer comparisons; the cheapest k is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, count, pairwise

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.pack import check_codes, pack_bits
from drhn_cli.errors import ConfigError
from drhn_cli.search.scan import copy_words, count_bits

_SORT_COST = 30  # comparisons that take as long as sorting one code
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # of Fibonacci hashing (Knuth, TAOCP 3, 6.4)
_MIN_BUFFERED = 1 << 16  # pairs to collect before they are joined, which takes a pass over all codes

Words = NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Components:
    """Groups of two rows or more, in the order of their first rows.

    Attributes:
        rows: (k,) int64, group after group, ascending within a group.
        starts: (n_groups + 1,) int64; group i is ``rows[starts[i]:starts[i + 1]]``.
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        for start, stop in pairwise(self.starts.tolist()):
            yield self.rows[start:stop]


def connected_components(codes: NDArray[np.uint8], n_bits: int, max_distance: int) -> Components:
    """Group rows whose codes differ in at most ``max_distance`` bits, directly or through other rows; exact.

    Memory is linear in the rows of ``codes``, (n, code_size(n_bits)) uint8. Time is that of one sort for distance 0 and
    of several for small distances, but quadratic in the number of different codes if they are crowded or the distance
    is a large part of the bits.

    Source: the pigeonholes are those of Norouzi, Punjani, Fleet 2012, Fast Search in Hamming Space with Multi-Index
        Hashing, and of Manku, Jain, Das Sarma 2007, Detecting Near-Duplicates for Web Crawling.
    """
    check_codes(codes, n_bits)
    if max_distance < 0:
        raise ConfigError("max_distance is out of range", expected="0 or more", found=str(max_distance))
    words = copy_words(codes, n_bits)
    order = np.lexsort(words)
    ordered = words[:, order]
    is_new = np.ones(len(order), dtype=np.bool_)
    is_new[1:] = (ordered[:, 1:] != ordered[:, :-1]).any(axis=0)
    code_of_row = np.empty(len(order), dtype=np.int64)  # equal codes count once from here on
    code_of_row[order] = np.cumsum(is_new) - 1
    labels = np.arange(is_new.sum())
    if max_distance >= n_bits:
        labels[:] = 0
    elif max_distance:
        distinct = np.ascontiguousarray(ordered[:, is_new])
        for mask in _cheapest_masks(distinct, n_bits, max_distance):
            _join_within_buckets(distinct, mask, max_distance, labels)
    return _group_rows(labels[code_of_row])


def join(labels: NDArray[np.int64], pairs: NDArray[np.int64]) -> None:
    """Join sets of items, in place, by pairs of items, (2, p).

    Args:
        labels: (n,) of each item the smallest item of its set: ``arange(n)`` before anything is joined.
        pairs: items whose sets become one.
    """
    while True:
        roots = labels[pairs]
        apart = roots[0] != roots[1]
        if not apart.any():
            return
        pairs, roots = pairs[:, apart], roots[:, apart]
        # Each root is linked to the smallest root it is paired with: about half of the roots go in every round.
        np.minimum.at(labels, roots.max(axis=0), roots.min(axis=0))
        while not np.array_equal(shorter := labels[labels], labels):
            labels[:] = shorter


def _cheapest_masks(words: Words, n_bits: int, max_distance: int) -> list[Words]:
    """Return the bits of a code to sort by, one mask of (words,) for each sort."""
    best, best_cost = [], math.inf
    for n_agreeing in range(1, n_bits - max_distance + 1):
        n_parts = max_distance + n_agreeing
        n_masks = math.comb(n_parts, n_agreeing)
        cost = float(n_masks * _SORT_COST * words.shape[1])
        if cost >= best_cost:
            break
        parts = np.zeros((n_masks, n_parts), dtype=np.bool_)
        for row, agreeing in zip(parts, combinations(range(n_parts), n_agreeing), strict=True):
            row[list(agreeing)] = True
        bits = parts[:, np.arange(n_bits) * n_parts // n_bits]  # of each mask: (n_masks, n_bits)
        masks = list(copy_words(pack_bits(bits), n_bits).T)
        for mask in masks:
            lengths = np.diff(_run_bounds(np.sort(_keys(words, mask)))).astype(np.float64)
            cost += float((lengths * (lengths - 1)).sum()) / 2
            if cost >= best_cost:
                break
        else:
            best, best_cost = masks, cost
    return best


def _keys(words: Words, mask: Words) -> Words:
    """Return a key for each code, equal where the masked bits are; a rare collision only costs a comparison."""
    keys: Words = words[0] & mask[0]
    for word, word_mask in zip(words[1:], mask[1:], strict=True):
        keys = keys * _MULTIPLIER + (word & word_mask)
    return keys


def _run_bounds(keys: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return where each run of equal keys, sorted, begins, and where the last one ends."""
    inner = np.flatnonzero(keys[1:] != keys[:-1]) + 1
    return np.concatenate([[0], inner, [len(keys)]]).astype(np.int64)


def _join_within_buckets(words: Words, mask: Words, max_distance: int, labels: NDArray[np.int64]) -> None:
    """Join the codes within ``max_distance`` among those that agree in the masked bits."""
    keys = _keys(words, mask)
    order = np.argsort(keys)
    bounds = _run_bounds(keys[order])
    last = np.repeat(bounds[1:] - 1, np.diff(bounds))  # the last place of the bucket that each place is in
    ordered = words[:, order]
    places = np.arange(len(order))
    pairs, n_pairs = [np.empty((2, 0), dtype=np.int64)], 0  # to be joined
    for shift in count(1):
        # Pair each place with the one ``shift`` further, in all buckets at once: at most one pair per code in memory.
        places = places[places + shift <= last[places]]
        if not len(places):
            break
        apart = places[labels[order[places]] != labels[order[places + shift]]]
        near = apart[count_bits(ordered[:, apart] ^ ordered[:, apart + shift]) <= max_distance]
        pairs.append(order[np.stack([near, near + shift])])
        n_pairs += len(near)
        if n_pairs > max(_MIN_BUFFERED, len(labels)):
            join(labels, np.concatenate(pairs, axis=1))
            pairs, n_pairs = pairs[:1], 0
    join(labels, np.concatenate(pairs, axis=1))


def _group_rows(labels: NDArray[np.int64]) -> Components:
    """Return the groups of two rows or more with the same label."""
    order = np.argsort(labels, kind="stable")
    bounds = _run_bounds(labels[order])
    lengths = np.diff(bounds)
    groups = np.flatnonzero(lengths > 1)
    groups = groups[np.argsort(order[bounds[groups]])]
    starts = np.concatenate([[0], np.cumsum(lengths[groups])]).astype(np.int64)
    places = np.repeat(bounds[groups] - starts[:-1], lengths[groups]) + np.arange(starts[-1])
    return Components(rows=order[places], starts=starts)
