"""Retrieval metrics: mean average precision and precision, with ties scored by their expectation.

A ranking by Hamming distance has few distances and many ties, and the order within a tie is arbitrary. Unless a name
says otherwise, a figure is the expectation over all orders within the ties.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drhn_cli.codes.pack import check_codes, unpack_bits
from drhn_cli.errors import ConfigError, DrhnError
from drhn_cli.search.hamming import hamming_distances

_CHUNK_BYTES = 1 << 23  # of distances at a time


@dataclass(frozen=True, eq=False)
class LabelledCodes:
    """Codes and their classes."""

    codes: NDArray[np.uint8]  # (n, code_size(n_bits)), padding bits zero, n >= 1
    labels: NDArray[np.integer]  # (n,)
    n_bits: int  # 1..4096


@dataclass(frozen=True, kw_only=True)
class RetrievalMetrics:
    """Measures of one set of queries against one gallery, all in 0..1, each the mean over ``n_queries``."""

    mean_average_precision: float  # over the full ranking, divided by the relevant items of the gallery
    # Over the first depth items, divided by the relevant ones among them (0 if there is none), with ties in the order
    # of a shuffled gallery.
    mean_average_precision_at_depth: float
    precision_at_k: float  # relevant fraction of the first k items (of all, in a smaller gallery)
    precision_at_radius2: float  # relevant fraction of the items within distance 2; 0 for a query that finds none
    n_queries: int
    n_queries_left_out: int  # those without a relevant item in the gallery, in no mean
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
        queries: what is looked up.
        gallery: what it is looked up in.
        k: depth of the precision, 1 or more.
        depth: of the truncated mean average precision, 1 or more.
        seed: of the gallery's order, which decides ties in the truncated mean average precision and nothing else.

    Raises:
        DrhnError: arrays of another shape or dtype, an empty one, or no query with a relevant item in the gallery.
        ConfigError: a number out of range.
    """
    for name, value in (("k", k), ("depth", depth)):
        if value < 1:
            raise ConfigError(f"{name} is out of range", expected="1 or more", found=str(value))
    distinct, grouped = _prepare(queries, gallery, seed)
    n_bits = queries.n_bits
    scores = np.concatenate([grouped.score(part, n_bits, k, depth) for part in distinct.parts(len(grouped.codes))])
    counted = distinct.repeats * ~np.isnan(scores[:, 0])  # (distinct queries,)
    n_queries = int(counted.sum())
    _refuse_none(n_queries)
    means = counted @ np.nan_to_num(scores) / n_queries  # (4,)
    return RetrievalMetrics(
        mean_average_precision=float(means[0]),
        mean_average_precision_at_depth=float(means[1]),
        precision_at_k=float(means[2]),
        precision_at_radius2=float(means[3]),
        n_queries=n_queries,
        n_queries_left_out=len(queries.codes) - n_queries,
        n_gallery=len(gallery.codes),
        k=k,
        depth=depth,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class PrecisionRecallCurve:
    """Precision and recall of all items within each radius from 0, means over the queries.

    The precision of a query that retrieves nothing is 0 (Liu et al., Supervised hashing with kernels, CVPR 2012).
    """

    precision: NDArray[np.float64]  # (n_bits + 1,) in 0..1
    recall: NDArray[np.float64]  # (n_bits + 1,) in 0..1, rising to 1


def precision_recall_curve(queries: LabelledCodes, gallery: LabelledCodes) -> PrecisionRecallCurve:
    """Measure precision and recall of lookups within each radius.

    A radius takes the whole of a tie or nothing of it, so every point is exact, and nothing is interpolated. At radius
    2 the precision is ``RetrievalMetrics.precision_at_radius2``. Queries without a relevant item are left out.

    Raises:
        DrhnError: as ``retrieval_metrics``.
    """
    n_bits = queries.n_bits
    distinct, grouped = _prepare(queries, gallery, 0)
    precision, recall = np.zeros((2, n_bits + 1))
    n_queries = 0
    for part in distinct.parts(len(grouped.codes)):
        items, relevant = grouped.counts(hamming_distances(part.codes, grouped.codes), part.labels, n_bits)
        within, relevant_within = items.cumsum(axis=1), relevant.cumsum(axis=1)  # (q, n_bits + 1)
        n_relevant = relevant_within[:, -1:]
        counted = part.repeats * (n_relevant[:, 0] > 0)
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
    most = int(items_to[..., -1].max(initial=0)) if items.size else 0
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, most + 1))])
    growth = harmonic[items_to] - harmonic[items_before]
    share = relevant / np.maximum(items, 1)
    share_of_others = np.maximum(relevant - 1, 0) / np.maximum(items - 1, 1)  # s; without others it weighs nothing
    total = share * (share_of_others * items + (relevant_before + 1 - share_of_others * (items_before + 1)) * growth)
    n_relevant = relevant.sum(axis=-1)
    precision = total.sum(axis=-1) / np.maximum(n_relevant, 1)
    return np.asarray(np.where(n_relevant > 0, np.minimum(precision, 1.0), np.nan))


def asymmetric_mean_average_precision(
    probabilities: NDArray[np.float64],
    query_labels: NDArray[np.integer],
    gallery: LabelledCodes,
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
    precisions: list[float] = []
    step = max(1, _CHUNK_BYTES // (8 * len(codes)))
    for start in range(0, len(probabilities), step):
        # The distances, less what is the same for all codes. In double precision, so that equal ones stay equal.
        scores = (1 - 2 * probabilities[start : start + step]) @ bits.T  # (q, u)
        for row, label in zip(scores, query_labels[start : start + step].tolist(), strict=True):
            order = np.argsort(row)
            firsts = np.flatnonzero(np.diff(row[order], prepend=-np.inf))  # of each tie
            counts = (np.add.reduceat(count[order], firsts) for count in (relevant[label], items))
            precisions.append(float(tie_aware_average_precision(*counts)))
    known = [precision for precision in precisions if not np.isnan(precision)]
    _refuse_none(len(known))
    return float(np.mean(known))


def _prepare(queries: LabelledCodes, gallery: LabelledCodes, seed: int) -> tuple[_Distinct, _Gallery]:
    """Check both sets. Trained codes repeat: equal queries are scored once, and equal gallery codes measured once."""
    for name, codes in (("query", queries), ("gallery", gallery)):
        _check(codes, queries.n_bits, name)
    return _Distinct.of(queries.codes, queries.labels), _Gallery.of(gallery.codes, gallery.labels, seed)


def _refuse_none(n_queries: int) -> None:
    if not n_queries:
        raise DrhnError("no query has a relevant item in the gallery", hint="give both the same classes")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Distinct:
    """Distinct pairs of code and label."""

    codes: NDArray[np.uint8]  # (m, code_size)
    labels: NDArray[np.int64]  # (m,)
    repeats: NDArray[np.int64]  # (m,)

    @classmethod
    def of(cls, codes: NDArray[np.uint8], labels: NDArray[np.integer]) -> _Distinct:
        """Find the distinct pairs of (n, code_size) codes and (n,) labels."""
        distinct_codes, code_ids = unique_rows(codes)
        distinct_labels, label_ids = np.unique(labels, return_inverse=True)
        pairs, repeats = np.unique(label_ids * len(distinct_codes) + code_ids, return_counts=True)
        return cls(
            codes=distinct_codes[pairs % len(distinct_codes)],
            labels=distinct_labels[pairs // len(distinct_codes)].astype(np.int64),
            repeats=repeats,
        )

    def parts(self, n_gallery: int) -> Iterator[_Distinct]:
        """Yield a few at a time, so that their uint16 distances to the gallery stay within a few megabytes."""
        step = max(1, _CHUNK_BYTES // (2 * n_gallery))
        for start in range(0, len(self.labels), step):
            rows = slice(start, start + step)
            yield _Distinct(codes=self.codes[rows], labels=self.labels[rows], repeats=self.repeats[rows])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Gallery:
    """A gallery with equal codes put together."""

    codes: NDArray[np.uint8]  # (u, code_size), distinct
    repeats: NDArray[np.int64]  # (u,), items with each code
    shuffled_ids: NDArray[np.int64]  # (n,), the code of each item, in shuffled order
    shuffled_labels: NDArray[np.int64]  # (n,)
    ids_of_label: dict[int, NDArray[np.int64]]  # the code of each item of one class

    @classmethod
    def of(cls, codes: NDArray[np.uint8], labels: NDArray[np.integer], seed: int) -> _Gallery:
        distinct, ids = unique_rows(codes)
        order = np.random.default_rng(seed).permutation(len(codes))
        return cls(
            codes=distinct,
            repeats=np.bincount(ids, minlength=len(distinct)),
            shuffled_ids=ids[order],
            shuffled_labels=labels[order].astype(np.int64),
            ids_of_label={int(label): ids[labels == label] for label in np.unique(labels)},
        )

    def score(self, queries: _Distinct, n_bits: int, k: int, depth: int) -> NDArray[np.float64]:
        """Return the measures of each query, (q, 4), in the order of RetrievalMetrics, NaN if nothing is relevant."""
        distances = hamming_distances(queries.codes, self.codes)  # (q, u)
        items, relevant = self.counts(distances, queries.labels, n_bits)
        cut = np.empty(len(distances))
        for row, (to_codes, label) in enumerate(zip(distances, queries.labels.tolist(), strict=True)):
            cut[row] = _average_precision(self._first_labels(to_codes, items[row], depth) == label)
        full = tie_aware_average_precision(relevant, items)
        return np.stack([full, cut, _precision_at(relevant, items, k), _precision_within(relevant, items, 2)], axis=1)

    def counts(
        self, distances: NDArray[np.uint16], labels: NDArray[np.int64], n_bits: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return how many items there are at each distance, (q, n_bits + 1), and how many of the query's label."""
        none = np.empty(0, dtype=np.int64)
        items = np.empty((len(distances), n_bits + 1), dtype=np.int64)
        relevant = np.empty_like(items)
        for row, (to_codes, label) in enumerate(zip(distances, labels.tolist(), strict=True)):
            items[row] = np.bincount(to_codes, weights=self.repeats, minlength=n_bits + 1)
            relevant[row] = np.bincount(to_codes[self.ids_of_label.get(label, none)], minlength=n_bits + 1)
        return items, relevant

    def _first_labels(self, to_codes: NDArray[np.uint16], items: NDArray[np.int64], depth: int) -> NDArray[np.int64]:
        """Return the labels of the first ``depth`` items of a stable sort by distance of the shuffled gallery."""
        farthest = int(np.searchsorted(np.cumsum(items), min(depth, len(self.shuffled_ids))))
        near = np.flatnonzero((to_codes <= farthest)[self.shuffled_ids])  # all that can be among the first
        order = np.argsort(to_codes[self.shuffled_ids[near]], kind="stable")[:depth]
        return self.shuffled_labels[near[order]]


def _average_precision(is_relevant: NDArray[np.bool_]) -> float:
    """Return the mean precision at the places of the relevant items of a ranking; 0 without one."""
    places = np.flatnonzero(is_relevant) + 1
    return float((np.arange(1, len(places) + 1) / places).mean()) if len(places) else 0.0


def _precision_at(relevant: NDArray[np.int64], items: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Return the expected relevant fraction of the first k items, (q,), from counts for each distance, (q, d)."""
    items_before = np.cumsum(items, axis=1) - items
    taken = np.clip(k - items_before, 0, items)  # a tie that the k-th place cuts gives a fair share
    precision: NDArray[np.float64] = (relevant * taken / np.maximum(items, 1)).sum(axis=1) / taken.sum(axis=1)
    return precision


def _precision_within(relevant: NDArray[np.int64], items: NDArray[np.int64], radius: int) -> NDArray[np.float64]:
    """Return the relevant fraction of the items within ``radius``, (q,); 0 without any."""
    retrieved = items[:, : radius + 1].sum(axis=1)
    precision: NDArray[np.float64] = relevant[:, : radius + 1].sum(axis=1) / np.maximum(retrieved, 1)
    return precision


def unique_rows(codes: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the distinct codes, (u, code_size), and which of them each code is, (n,)."""
    # As one opaque value a row: many times faster than axis=0, and the order does not matter.
    keys = np.ascontiguousarray(codes).view(np.dtype((np.void, codes.shape[1])))[:, 0]
    _, first, ids = np.unique(keys, return_index=True, return_inverse=True)
    return codes[first], ids


def _check(labelled: LabelledCodes, n_bits: int, name: str) -> None:
    codes, labels = labelled.codes, labelled.labels
    check_codes(codes, n_bits, f"{name} codes")
    if labels.shape != (len(codes),) or not np.issubdtype(labels.dtype, np.integer):
        raise DrhnError(
            f"{name} labels do not fit the codes",
            expected=f"shape ({len(codes)},) of integers",
            found=f"shape {labels.shape} {labels.dtype}",
        )
    if not len(codes):
        raise DrhnError(f"the {name} set is empty", expected="one code or more")
