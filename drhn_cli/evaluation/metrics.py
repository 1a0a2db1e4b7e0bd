"""Retrieval metrics: mean average precision and precision, with ties scored by their expectation.

A ranking by Hamming distance has few distances and many ties, and the order within a tie is arbitrary. Unless stated
otherwise, a figure is the expectation over all orders within the ties.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drhn_cli.codes.pack import check_codes, unpack_bits
from drhn_cli.errors import DrhnError
from drhn_cli.search.hamming import hamming_distances
from drhn_cli.settings import require

_CHUNK_BYTES = 1 << 23  # of distances at a time


@dataclass(frozen=True, eq=False)
class LabelledCodes:
    """Codes and their classes."""

    codes: NDArray[np.uint8]  # (n, code_size(n_bits)), padding bits zero, n >= 1
    labels: NDArray[np.integer]  # (n,)
    n_bits: int  # 1..4096


@dataclass(frozen=True)
class RetrievalMetrics:
    """Measures of one set of queries against one gallery, all in 0..1, each the mean over ``n_queries``."""

    mean_average_precision: float  # over the full ranking, divided by the relevant items of the gallery
    # Over the first depth items, divided by the relevant ones among them (0 if there is none), with ties in the order
    # of a shuffled gallery.
    mean_average_precision_at_depth: float
    precision_at_k: float  # relevant fraction of the first k items (of all, in a smaller gallery)
    precision_at_radius2: float  # relevant fraction of the items within distance 2; 0 for a query that finds none
    n_queries: int
    n_queries_left_out: int  # without a relevant item; excluded from all means
    n_gallery: int
    k: int
    depth: int

    def to_dict(self) -> dict[str, float | int]:
        """Return the figures by the names that tables, JSON and manifests have."""
        return {
            "mAP": self.mean_average_precision,
            f"mAP@{self.depth}": self.mean_average_precision_at_depth,
            f"precision@{self.k}": self.precision_at_k,
            "precision@radius2": self.precision_at_radius2,
            "n_queries": self.n_queries,
            "n_queries_left_out": self.n_queries_left_out,
            "n_gallery": self.n_gallery,
        }


def retrieval_metrics(
    queries: LabelledCodes, gallery: LabelledCodes, *, k: int = 10, depth: int = 1000, seed: int = 0
) -> RetrievalMetrics:
    """Measure how well queries retrieve the items of their class.

    The protocol is that of Lin et al. 2015 (Deep learning of binary hash codes for fast image retrieval).

    Args:
        queries: are looked up.
        gallery: the codes they are looked up in.
        k: depth of the precision, 1 or more.
        depth: of the truncated mean average precision, 1 or more.
        seed: of the gallery's order, which decides ties in the truncated mean average precision and nothing else.

    Raises:
        DrhnError: arrays of another shape or dtype, an empty one, or no query with a relevant item in the gallery.
        ConfigError: a number out of range.
    """
    require(k >= 1, "k", "1 or more", k)
    require(depth >= 1, "depth", "1 or more", depth)
    grouped = _Gallery(queries, gallery, seed)
    scores = np.concatenate([grouped.score(part, k, depth) for part, _ in grouped.parts()])
    counted = grouped.query_repeats * ~np.isnan(scores[:, 0])  # (distinct queries,)
    n_queries = int(counted.sum())
    _refuse_none(n_queries)
    full, at_depth, at_k, at_radius2 = (counted @ np.nan_to_num(scores) / n_queries).tolist()
    n_left_out, n_gallery = len(queries.codes) - n_queries, len(gallery.codes)
    return RetrievalMetrics(full, at_depth, at_k, at_radius2, n_queries, n_left_out, n_gallery, k, depth)


@dataclass(frozen=True, kw_only=True, eq=False)
class PrecisionRecallCurve:
    """Precision and recall of all items within each radius from 0, means over the queries.

    The precision of a query that retrieves nothing is 0 (Liu et al., Supervised hashing with kernels, CVPR 2012).
    """

    precision: NDArray[np.float64]  # (n_bits + 1,) in 0..1
    recall: NDArray[np.float64]  # (n_bits + 1,) in 0..1, rising to 1


def precision_recall_curve(queries: LabelledCodes, gallery: LabelledCodes) -> PrecisionRecallCurve:
    """Measure precision and recall of lookups within each radius.

    A radius contains all of a tie or none of it, so every point is exact, and nothing is interpolated. At radius 2 the
    precision is ``RetrievalMetrics.precision_at_radius2``. Queries without a relevant item are left out.

    Raises:
        DrhnError: as ``retrieval_metrics``.
    """
    grouped = _Gallery(queries, gallery)
    precision, recall = np.zeros((2, queries.n_bits + 1))
    n_queries = 0
    for part, repeats in grouped.parts():
        _, items, relevant = grouped.counts(part)
        within, relevant_within = items.cumsum(axis=1), relevant.cumsum(axis=1)  # (q, n_bits + 1)
        n_relevant = relevant_within[:, -1:]
        counted = repeats * (n_relevant[:, 0] > 0)
        precision += counted @ (relevant_within / np.maximum(within, 1))
        recall += counted @ (relevant_within / np.maximum(n_relevant, 1))
        n_queries += int(counted.sum())
    _refuse_none(n_queries)
    return PrecisionRecallCurve(precision=precision / n_queries, recall=recall / n_queries)


def tie_aware_average_precision(relevant_per_distance: ArrayLike, items_per_distance: ArrayLike) -> NDArray[np.float64]:
    """Return the average precision of full rankings, as the expectation over all orders of items at equal distances.

    Let a tie hold n items, r of them relevant, after N items with R relevant. Its i-th place holds a relevant item with
    probability r / n, and then R + 1 + (i - 1) s relevant ones are expected up to there, s = (r - 1) / (n - 1). Their
    share of the N + i items there, summed over i, is ``r/n * (s n + (R + 1 - s (N + 1)) * (H(N + n) - H(N)))`` with the
    harmonic numbers H.

    Counts are (..., n_distances), nearest first; the result is (...) float64 in 0..1, NaN where nothing is relevant.

    Source: section 2.4 of McSherry and Najork, ECIR 2008, Computing information retrieval performance measures
    efficiently in the presence of tied scores.
    """
    relevant = np.asarray(relevant_per_distance, dtype=np.int64)
    items = np.asarray(items_per_distance, dtype=np.int64)
    if relevant.shape != items.shape or relevant.ndim == 0:
        raise DrhnError("counts differ in shape", expected=str(items.shape), found=str(relevant.shape))
    if (relevant < 0).any() or (relevant > items).any():
        raise DrhnError("counts of relevant items are out of range", expected="0..items at each distance")
    items_to = np.cumsum(items, axis=-1)
    items_before = items_to - items
    relevant_before = np.cumsum(relevant, axis=-1) - relevant
    most = int(items.sum(axis=-1).max(initial=0))
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, most + 1))])
    growth = harmonic[items_to] - harmonic[items_before]
    share = relevant / np.maximum(items, 1)
    share_of_others = np.maximum(relevant - 1, 0) / np.maximum(items - 1, 1)  # s; without others it weighs nothing
    total = share * (share_of_others * items + (relevant_before + 1 - share_of_others * (items_before + 1)) * growth)
    n_relevant = relevant.sum(axis=-1)
    precision = total.sum(axis=-1) / np.maximum(n_relevant, 1)
    return np.asarray(np.where(n_relevant > 0, np.minimum(precision, 1.0), np.nan))


def asymmetric_mean_average_precision(
    probabilities: NDArray[np.float64], query_labels: NDArray[np.integer], gallery: LabelledCodes
) -> float:
    """Return the mean average precision of full rankings by asymmetric distance, with ties as the expectation.

    It is the mean over the queries that have a relevant item. Queries are probabilities of a 1 in each bit, (q, n_bits)
    in 0..1, and labels, (q,).
    """
    codes, ids = unique_rows(gallery.codes)
    bits = unpack_bits(codes, probabilities.shape[1]).astype(np.float64)  # (u, n_bits)
    items = np.bincount(ids)
    relevant = {
        int(label): np.bincount(ids[gallery.labels == label], minlength=len(codes)) for label in np.unique(query_labels)
    }
    precisions = []
    step = max(1, _CHUNK_BYTES // (8 * len(codes)))
    for start in range(0, len(probabilities), step):
        # Distances without the part that is the same for all codes; in double precision, so that equal ones stay equal.
        scores = (1 - 2 * probabilities[start : start + step]) @ bits.T  # (q, u)
        for row, label in zip(scores, query_labels[start : start + step].tolist(), strict=True):
            order = np.argsort(row)
            firsts = np.flatnonzero(np.diff(row[order], prepend=-np.inf))  # of each tie
            counts = (np.add.reduceat(count[order], firsts) for count in (relevant[label], items))
            precisions.append(float(tie_aware_average_precision(*counts)))
    known = [precision for precision in precisions if not np.isnan(precision)]
    _refuse_none(len(known))
    return float(np.mean(known))


def _refuse_none(n_queries: int) -> None:
    if not n_queries:
        raise DrhnError("no query has a relevant item in the gallery", hint="give both the same classes")


class _Gallery:
    """A gallery and its queries; equal codes of a class are measured once: many items share a code."""

    def __init__(self, queries: LabelledCodes, gallery: LabelledCodes, seed: int = 0) -> None:
        _check(queries, queries.n_bits, "query")
        _check(gallery, queries.n_bits, "gallery")
        codes, code_ids = unique_rows(queries.codes)
        query_labels, label_ids = np.unique(queries.labels, return_inverse=True)
        pairs, self.query_repeats = np.unique(label_ids * len(codes) + code_ids, return_counts=True)
        distinct_codes, distinct_labels = codes[pairs % len(codes)], query_labels[pairs // len(codes)]
        self._queries = LabelledCodes(distinct_codes, distinct_labels, queries.n_bits)
        labels = gallery.labels.astype(np.int64)
        self._codes, ids = unique_rows(gallery.codes)  # (u, code_size); the code of each item, (n,)
        self._repeats = np.bincount(ids)  # (u,), items with each code
        self._ids_of_label = {int(label): ids[labels == label] for label in np.unique(labels)}
        order = np.random.default_rng(seed).permutation(len(ids))
        self._shuffled_ids, self._shuffled_labels = ids[order], labels[order]

    def parts(self) -> Iterator[tuple[LabelledCodes, NDArray[np.int64]]]:
        """Yield a few distinct queries at a time, whose distances take a few megabytes, and how often each occurs."""
        codes, labels, n_bits = self._queries.codes, self._queries.labels, self._queries.n_bits
        step = max(1, _CHUNK_BYTES // (2 * len(self._codes)))
        for start in range(0, len(codes), step):
            rows = slice(start, start + step)
            yield LabelledCodes(codes[rows], labels[rows], n_bits), self.query_repeats[rows]

    def score(self, queries: LabelledCodes, k: int, depth: int) -> NDArray[np.float64]:
        """Return the measures of each query, (q, 4), in the order of RetrievalMetrics, NaN if nothing is relevant."""
        distances, items, relevant = self.counts(queries)
        at_depth = [
            _average_precision(self._first_labels(to_codes, n_at, depth) == label)
            for to_codes, n_at, label in zip(distances, items, queries.labels, strict=True)
        ]
        taken = np.clip(k - (np.cumsum(items, axis=1) - items), 0, items)  # a tie at place k counts in proportion
        at_k = (relevant * taken / np.maximum(items, 1)).sum(axis=1) / taken.sum(axis=1)
        within, relevant_within = items[:, :3].sum(axis=1), relevant[:, :3].sum(axis=1)  # a radius of 2
        full = tie_aware_average_precision(relevant, items)
        return np.stack([full, at_depth, at_k, relevant_within / np.maximum(within, 1)], axis=1)

    def counts(self, queries: LabelledCodes) -> tuple[NDArray[np.uint16], NDArray[np.int64], NDArray[np.int64]]:
        """Return the distances to the codes, (q, u); items at each distance, (q, n_bits + 1); relevant ones of them."""
        distances = hamming_distances(queries.codes, self._codes)
        n, none = queries.n_bits + 1, np.empty(0, dtype=np.int64)
        ids = [self._ids_of_label.get(label, none) for label in queries.labels.tolist()]
        items = [np.bincount(row, weights=self._repeats, minlength=n) for row in distances]
        relevant = [np.bincount(row[near], minlength=n) for row, near in zip(distances, ids, strict=True)]
        return distances, np.array(items, np.int64), np.array(relevant, np.int64)

    def _first_labels(self, to_codes: NDArray[np.uint16], items: NDArray[np.int64], depth: int) -> NDArray[np.int64]:
        """Return the labels of the first ``depth`` items of a stable sort by distance of the shuffled gallery."""
        farthest = int(np.searchsorted(np.cumsum(items), min(depth, len(self._shuffled_ids))))
        near = np.flatnonzero((to_codes <= farthest)[self._shuffled_ids])  # all that can be among the first
        order = np.argsort(to_codes[self._shuffled_ids[near]], kind="stable")[:depth]
        return self._shuffled_labels[near[order]]


def _average_precision(is_relevant: NDArray[np.bool_]) -> float:
    """Return the mean precision at the places of the relevant items of a ranking; 0 without one."""
    places = np.flatnonzero(is_relevant) + 1
    return float((np.arange(1, len(places) + 1) / places).mean()) if len(places) else 0.0


def unique_rows(codes: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the distinct codes, (u, code_size), and which of them each code is, (n,)."""
    # One opaque value for each row: many times faster than axis=0, and the order does not matter.
    keys = np.ascontiguousarray(codes).view(np.dtype((np.void, codes.shape[1])))[:, 0]
    _, first, ids = np.unique(keys, return_index=True, return_inverse=True)
    return codes[first], ids


def _check(labelled: LabelledCodes, n_bits: int, name: str) -> None:
    codes, labels = labelled.codes, labelled.labels
    check_codes(codes, n_bits, f"{name} codes")
    if labels.shape != (len(codes),) or not np.issubdtype(labels.dtype, np.integer):
        expected, found = f"shape ({len(codes)},) of integers", f"shape {labels.shape} {labels.dtype}"
        raise DrhnError(f"{name} labels do not fit the codes", expected=expected, found=found)
    if not len(codes):
        raise DrhnError(f"the {name} set is empty", expected="one code or more")
