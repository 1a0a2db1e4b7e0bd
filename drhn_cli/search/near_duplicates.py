"""Groups of codes that hang together by small distances: what finds near-duplicates.

Two codes that differ in at most R bits differ in at most R of R + k substrings, so they agree in k of them. For each
choice of k substrings the codes are put in order of those bits, and only codes that agree there are compared. A
larger k means more choices, hence more sorting, and fewer comparisons: the cheapest is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.pack import check_codes, pack_bits
from drhn_cli.errors import ConfigError
from drhn_cli.search.words import copy_words

_SORT_COST = 30  # sorting one code takes about as long as so many comparisons
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd and irregular: folds the words of a long code into one
_MIN_BUFFERED = 1 << 16  # pairs that are joined at once: each time costs a pass over all codes

Words = NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Components:
    """Groups of two rows or more, in the order of their first rows.

    Attributes:
        rows: (k,) int64, group after group, ascending within one.
        starts: (n_groups + 1,) int64; group i is ``rows[starts[i]:starts[i + 1]]``.
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        for start, stop in zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True):
            yield self.rows[start:stop]


def find_components(codes: NDArray[np.uint8], n_bits: int, max_distance: int) -> Components:
    """Join rows whose codes differ in at most ``max_distance`` bits, directly or through others; exact.

    Equal codes are grouped by sorting and count once from there on. Memory is linear in the rows. Time is that of
    sorting for distance 0; beyond it, sorting and comparing the different codes that agree in enough bits: for codes
    that are spread evenly little more than sorting, for ones that are crowded or distances that are a large part of
    the bits up to the square of their number.

    Args:
        codes: (n, code_size(n_bits)) uint8.
        n_bits: length of a code, 1..4096.
        max_distance: 0 or more.

    Raises:
        DrhnError: an array of another shape or dtype.
        ConfigError: ``max_distance`` is below 0.

    Source: the pigeonholes are those of Norouzi, Punjani, Fleet 2012, Fast Search in Hamming Space with
        Multi-Index Hashing, and of Manku, Jain, Das Sarma 2007, Detecting Near-Duplicates for Web Crawling.
    """
    check_codes(codes, n_bits)
    if max_distance < 0:
        raise ConfigError("max_distance is out of range", expected="0 or more", found=str(max_distance))
    words = copy_words(codes, n_bits)
    order = np.lexsort(words)
    ordered = words[:, order]
    is_new = np.ones(len(order), dtype=np.bool_)
    is_new[1:] = (ordered[:, 1:] != ordered[:, :-1]).any(axis=0)
    item_of_row = np.empty(len(order), dtype=np.int64)
    item_of_row[order] = np.cumsum(is_new) - 1
    joined = _Joined(int(is_new.sum()))
    if max_distance >= n_bits:
        joined.labels[:] = 0
    elif max_distance:
        distinct = np.ascontiguousarray(ordered[:, is_new])
        for mask in _cheapest_masks(distinct, n_bits, max_distance):
            _join_within_buckets(distinct, mask, max_distance, joined)
    return _collect(joined.labels[item_of_row])


class _Joined:
    """Which component each item belongs to, while pairs come in."""

    def __init__(self, n_items: int) -> None:
        self.labels = np.arange(n_items)  # of each item the smallest of its component
        self._pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self._n_pairs = 0

    def add(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> None:
        """Join items pair by pair, (p,) and (p,): now or, where they are few, later."""
        self._pairs.append((first, second))
        self._n_pairs += len(first)
        if self._n_pairs > max(_MIN_BUFFERED, len(self.labels)):
            self.flush()

    def flush(self) -> None:
        """Bring ``labels`` up to date."""
        if not self._pairs:
            return
        first, second = (np.concatenate(column) for column in zip(*self._pairs, strict=True))
        self._pairs, self._n_pairs = [], 0
        labels = self.labels
        while True:
            ends = np.stack([labels[first], labels[second]])
            apart = ends[0] != ends[1]
            if not apart.any():
                return
            first, second, ends = first[apart], second[apart], ends[:, apart]
            # Each root takes the smallest that it is joined to, so about half of them or more go in every round.
            np.minimum.at(labels, ends.max(axis=0), ends.min(axis=0))
            while not np.array_equal(shorter := labels[labels], labels):
                labels[:] = shorter


def _cheapest_masks(words: Words, n_bits: int, max_distance: int) -> list[Words]:
    """Return which bits of a code to sort by, once for each mask: (words,) uint64 each."""
    best, best_cost = [], math.inf
    for n_agreeing in range(1, n_bits - max_distance + 1):
        n_parts = max_distance + n_agreeing
        sorting = math.comb(n_parts, n_agreeing) * _SORT_COST * words.shape[1]
        if sorting >= best_cost:
            break
        bounds = [n_bits * part // n_parts for part in range(n_parts + 1)]
        bits = np.zeros((math.comb(n_parts, n_agreeing), n_bits), dtype=np.bool_)
        for row, parts in zip(bits, combinations(range(n_parts), n_agreeing), strict=True):
            for part in parts:
                row[bounds[part] : bounds[part + 1]] = True
        masks = list(copy_words(pack_bits(bits), n_bits).T)
        cost: float = sorting
        for mask in masks:
            lengths = np.diff(_bucket_bounds(np.sort(_keys(words, mask)))).astype(np.float64)
            cost += float((lengths * (lengths - 1)).sum()) / 2
            if cost >= best_cost:
                break
        else:
            best, best_cost = masks, cost
    return best


def _keys(words: Words, mask: Words) -> Words:
    """Return a number for each code that is equal where the masked bits are; rarely elsewhere too, which is no harm."""
    keys: Words = words[0] & mask[0]
    for word, word_mask in zip(words[1:], mask[1:], strict=True):
        keys = keys * _MULTIPLIER + (word & word_mask)
    return keys


def _bucket_bounds(keys: Words) -> NDArray[np.int64]:
    """Return where runs of equal keys, sorted, begin, and where the last one ends."""
    inner = np.flatnonzero(keys[1:] != keys[:-1]) + 1
    return np.concatenate([[0], inner, [len(keys)]]).astype(np.int64)


def _join_within_buckets(words: Words, mask: Words, max_distance: int, joined: _Joined) -> None:
    """Join the codes within ``max_distance`` among those that agree in the masked bits."""
    keys = _keys(words, mask)
    order = np.argsort(keys)
    bounds = _bucket_bounds(keys[order])
    last = np.repeat(bounds[1:] - 1, np.diff(bounds))  # of the bucket that a place is in
    ordered = words[:, order]
    places = np.arange(len(order))
    shift = 0
    while True:
        shift += 1
        # Each place with the one ``shift`` further: all buckets at once, however long, in memory for one pair a code.
        places = places[places + shift <= last[places]]
        if not len(places):
            break
        first, second = order[places], order[places + shift]
        apart = joined.labels[first] != joined.labels[second]
        near_places = places[apart]
        distances = np.zeros(len(near_places), dtype=np.uint16)
        for word in ordered:
            distances += np.bitwise_count(word[near_places] ^ word[near_places + shift])
        near = distances <= max_distance
        if near.any():
            joined.add(first[apart][near], second[apart][near])
    joined.flush()


def _collect(labels: NDArray[np.int64]) -> Components:
    """Return the rows of every label that two or more have."""
    order = np.argsort(labels, kind="stable")
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(labels[order])) + 1, [len(labels)]]).astype(np.int64)
    lengths = np.diff(bounds)
    several = np.flatnonzero(lengths > 1)
    several = several[np.argsort(order[bounds[several]])]
    starts = np.concatenate([[0], np.cumsum(lengths[several])]).astype(np.int64)
    places = np.repeat(bounds[several] - starts[:-1], lengths[several]) + np.arange(starts[-1])
    return Components(rows=order[places], starts=starts)
