import numpy as np
import pytest

from drhn_cli.codes.pack import pack_bits
from drhn_cli.errors import ConfigError, DrhnError
from drhn_cli.evaluation import metrics
from drhn_cli.evaluation.metrics import (
    LabelledCodes,
    asymmetric_mean_average_precision,
    precision_recall_curve,
    retrieval_metrics,
    tie_aware_average_precision,
)

ZERO = np.zeros((1, 1), dtype=np.uint8)


def measure(query_codes, query_labels, gallery_codes, gallery_labels, *, n_bits, **options):
    sets = (query_codes, query_labels, n_bits), (gallery_codes, gallery_labels, n_bits)
    return retrieval_metrics(*(LabelledCodes(*one) for one in sets), **options)


def curve_of(query_codes, query_labels, gallery_codes, gallery_labels, *, n_bits):
    sets = (query_codes, query_labels, n_bits), (gallery_codes, gallery_labels, n_bits)
    return precision_recall_curve(*(LabelledCodes(*one) for one in sets))


def code(*values):
    return np.array(values, dtype=np.uint8)[:, None]


def labels(*values):
    return np.array(values)


@pytest.mark.parametrize(
    ("relevant", "items", "expected"),
    [
        ([1, 0], [1, 1], 1.0),
        ([0, 1], [1, 1], 1 / 2),
        ([1], [2], (1 + 1 / 2) / 2),
        ([1, 1], [1, 2], (1 + (1 + 2 / 3) / 2) / 2),  # the second is 2nd or 3rd with equal chance
        ([2, 0, 3], [2, 0, 3], 1.0),
        ([0, 0, 2], [3, 0, 2], (1 / 4 + 2 / 5) / 2),
    ],
)
def test_tie_aware_average_precision_by_hand(relevant, items, expected):
    assert tie_aware_average_precision(relevant, items) == pytest.approx(expected, abs=1e-15)


def test_tie_aware_average_precision_is_exact_for_a_perfect_ranking():
    assert tie_aware_average_precision([5000, 0], [5000, 45000]) == 1.0


def test_tie_aware_average_precision_works_on_any_leading_shape():
    relevant = np.array([[[1, 0], [0, 1]], [[0, 0], [1, 1]]])
    scores = tie_aware_average_precision(relevant, np.ones_like(relevant))
    assert scores.shape == (2, 2)
    np.testing.assert_allclose(scores, [[1, 0.5], [np.nan, 1]])


@pytest.mark.parametrize(("relevant", "items"), [([], []), ([0, 0], [0, 0]), ([0], [9])])
def test_tie_aware_average_precision_without_relevant_items_is_nan(relevant, items):
    assert np.isnan(tie_aware_average_precision(relevant, items))


@pytest.mark.parametrize(("relevant", "items"), [([1], [1, 2]), (1, 1), ([2], [1]), ([-1], [1])])
def test_tie_aware_average_precision_refuses_counts_that_cannot_be(relevant, items):
    with pytest.raises(DrhnError, match="counts"):
        tie_aware_average_precision(relevant, items)


def test_one_query_by_hand():
    gallery = code(0b0, 0b1, 0b11, 0b111, 0b1111)  # distances 0..4
    result = measure(ZERO, labels(1), gallery, labels(1, 0, 1, 0, 1), n_bits=8, k=2, depth=3)
    assert result.mean_average_precision == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert result.mean_average_precision_at_depth == pytest.approx((1 + 2 / 3) / 2)  # two of the three are that near
    assert result.precision_at_k == 1 / 2
    assert result.precision_at_radius2 == pytest.approx(2 / 3)
    assert (result.n_queries, result.n_queries_left_out, result.n_gallery) == (1, 0, 5)
    assert (result.k, result.depth) == (2, 3)


def test_precision_at_k_shares_a_tie():
    result = measure(ZERO, labels(1), code(1, 1, 1, 2), labels(1, 1, 0, 0), n_bits=8, k=2)
    assert result.precision_at_k == pytest.approx(1 / 2)  # all four are at distance 1


def test_precision_at_k_of_a_smaller_gallery():
    result = measure(ZERO, labels(1), code(1, 2), labels(1, 1), n_bits=8, k=10)
    assert result.precision_at_k == 1.0


def test_far_queries_retrieve_nothing_within_radius_2():
    result = measure(ZERO, labels(1), code(0xFF), labels(1), n_bits=8)
    assert result.precision_at_radius2 == 0.0
    assert result.mean_average_precision == 1.0


def test_depth_without_relevant_items_scores_zero():
    result = measure(ZERO, labels(1), code(0, 0xFF), labels(0, 1), n_bits=8, depth=1)
    assert result.mean_average_precision_at_depth == 0.0


def test_queries_without_relevant_items_are_left_out_and_counted():
    gallery, gallery_labels = code(0, 1), labels(1, 1)
    alone = measure(ZERO, labels(1), gallery, gallery_labels, n_bits=8)
    both = measure(code(0, 0, 9), labels(1, 7, -7), gallery, gallery_labels, n_bits=8)
    assert (both.n_queries, both.n_queries_left_out) == (1, 2)
    assert both.mean_average_precision == alone.mean_average_precision
    assert both.precision_at_k == alone.precision_at_k


def test_no_query_with_relevant_items():
    with pytest.raises(DrhnError, match="no query has a relevant item"):
        measure(ZERO, labels(1), ZERO, labels(2), n_bits=8)


@pytest.mark.parametrize(
    "change",
    [
        {"query_codes": np.zeros((1, 2), np.uint8)},
        {"query_labels": labels(1, 2)},
        {"query_labels": labels(1.0)},
        {"gallery_codes": ZERO[:0], "gallery_labels": labels(1)[:0]},
        {"query_codes": ZERO[:0], "query_labels": labels(1)[:0]},
        {"gallery_labels": labels([1])},
    ],
)
def test_arrays_that_do_not_fit(change):
    arrays = {"query_codes": ZERO, "query_labels": labels(1), "gallery_codes": ZERO, "gallery_labels": labels(1)}
    with pytest.raises(DrhnError):
        measure(**{**arrays, **change}, n_bits=8)


@pytest.mark.parametrize("option", [{"k": 0}, {"depth": 0}])
def test_numbers_out_of_range(option):
    with pytest.raises(ConfigError, match="out of range"):
        measure(ZERO, labels(1), ZERO, labels(1), n_bits=8, **option)


def slow_reference(query_bits, query_labels, gallery_bits, gallery_labels, k, depth, seed):
    """The definitions, one item at a time."""
    shuffle = np.random.default_rng(seed).permutation(len(gallery_labels))
    full, cut, at_k, at_radius = [], [], [], []
    for bits, label in zip(query_bits, query_labels, strict=True):
        distances = (bits != gallery_bits).sum(axis=1)
        is_relevant = gallery_labels == label
        if not is_relevant.any():
            continue
        total = 0.0
        for item in np.flatnonzero(is_relevant):
            before, tied = distances < distances[item], distances == distances[item]
            n, r = tied.sum(), (tied & is_relevant).sum()
            for place in range(1, n + 1):
                others = (place - 1) * (r - 1) / max(n - 1, 1)
                total += ((before & is_relevant).sum() + 1 + others) / (before.sum() + place) / n
        full.append(total / is_relevant.sum())
        ranking = shuffle[np.argsort(distances[shuffle], kind="stable")][:depth]
        hits = is_relevant[ranking]
        cut.append(sum(hits[: i + 1].mean() for i in np.flatnonzero(hits)) / hits.sum() if hits.any() else 0.0)
        farthest = np.sort(distances)[k - 1]
        before, tied = distances < farthest, distances == farthest
        shared = (k - before.sum()) * (tied & is_relevant).sum() / tied.sum()
        at_k.append(((before & is_relevant).sum() + shared) / k)
        at_radius.append(is_relevant[distances <= 2].mean() if (distances <= 2).any() else 0.0)
    return [float(np.mean(column)) for column in (full, cut, at_k, at_radius)]


@pytest.mark.parametrize(("n_bits", "flips"), [(6, 0.2), (12, 0.1), (70, 0.02)])
def test_everything_agrees_with_the_slow_reference(n_bits, flips):
    rng = np.random.default_rng(n_bits)
    centres = rng.random((4, n_bits)) < 0.5
    query_labels, gallery_labels = rng.integers(0, 4, 20), rng.integers(0, 3, 150)
    query_bits = centres[query_labels] ^ (rng.random((20, n_bits)) < flips)
    gallery_bits = centres[gallery_labels] ^ (rng.random((150, n_bits)) < flips)
    result = measure(
        pack_bits(query_bits),
        query_labels,
        pack_bits(gallery_bits),
        gallery_labels,
        n_bits=n_bits,
        k=7,
        depth=30,
        seed=3,
    )
    expected = slow_reference(query_bits, query_labels, gallery_bits, gallery_labels, k=7, depth=30, seed=3)
    measured = [
        result.mean_average_precision,
        result.mean_average_precision_at_depth,
        result.precision_at_k,
        result.precision_at_radius2,
    ]
    assert measured == pytest.approx(expected, abs=1e-12)
    assert result.n_queries_left_out == (query_labels == 3).sum()


def test_the_order_of_the_gallery_does_not_help():
    gallery, gallery_labels = code(*[0] * 50, *[0] * 50), labels(*[1] * 50, *[0] * 50)
    first = measure(ZERO, labels(1), gallery, gallery_labels, n_bits=8, depth=10)
    last = measure(ZERO, labels(1), gallery, gallery_labels[::-1], n_bits=8, depth=10)
    assert first.mean_average_precision == last.mean_average_precision
    assert first.mean_average_precision_at_depth < 1


def test_a_radius_curve_by_hand():
    gallery = code(0b0, 0b1, 0b11, 0b111, 0b1111)  # distances 0..4
    curve = curve_of(ZERO, labels(1), gallery, labels(1, 0, 1, 0, 1), n_bits=8)
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3, 2 / 4, *[3 / 5] * 5])
    np.testing.assert_allclose(curve.recall, [1 / 3, 1 / 3, 2 / 3, 2 / 3, *[1] * 5])


def test_a_radius_curve_is_the_mean_over_queries_and_a_failed_lookup_has_precision_0():
    queries, gallery = code(0b0, 0b11111111, 0b0), code(0b0, 0b1, 0b1)
    curve = curve_of(queries, labels(1, 0, 7), gallery, labels(1, 0, 0), n_bits=8)
    np.testing.assert_allclose(curve.precision, [1 / 2, *[1 / 6] * 6, (1 / 3 + 1) / 2, (1 / 3 + 2 / 3) / 2])
    np.testing.assert_allclose(curve.recall, [*[1 / 2] * 7, 1, 1])


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 23])
def test_a_radius_curve_equals_a_naive_one_and_meets_the_precision_within_radius_2(monkeypatch, chunk_bytes):
    monkeypatch.setattr("drhn_cli.evaluation.metrics._CHUNK_BYTES", chunk_bytes)
    rng = np.random.default_rng(0)
    query_bits, gallery_bits = rng.random((30, 12)) > 0.6, rng.random((80, 12)) > 0.6
    query_labels, gallery_labels = rng.integers(0, 4, 30), rng.integers(0, 3, 80)  # nothing is relevant to class 3
    sets = pack_bits(query_bits), query_labels, pack_bits(gallery_bits), gallery_labels
    curve = curve_of(*sets, n_bits=12)
    counted = query_labels < 3
    distances = (query_bits[counted, None] != gallery_bits[None]).sum(axis=2)
    is_relevant = query_labels[counted, None] == gallery_labels[None]
    for radius in range(13):
        found = distances <= radius
        hits = (found & is_relevant).sum(axis=1)
        assert curve.precision[radius] == pytest.approx(np.mean(hits / np.maximum(found.sum(axis=1), 1)))
        assert curve.recall[radius] == pytest.approx(np.mean(hits / is_relevant.sum(axis=1)))
    assert curve.precision[2] == pytest.approx(measure(*sets, n_bits=12).precision_at_radius2)


def test_a_radius_curve_of_unknown_classes_is_refused():
    with pytest.raises(DrhnError, match="no query has a relevant item"):
        curve_of(ZERO, labels(1), ZERO, labels(0), n_bits=8)


def test_asymmetric_map_by_hand():
    gallery = np.array([[0b01], [0b10], [0b11], [0b11]], np.uint8)
    labels = np.array([1, 0, 1, 0])
    # Scores of the codes: 01 -> 0.5, 10 -> 1.5, 11 -> 0.7 twice.
    probabilities = np.array([[0.9, 0.4]])
    assert asymmetric_mean_average_precision(
        probabilities[:, :2], np.array([1]), LabelledCodes(gallery, labels, 2)
    ) == pytest.approx((1 + (1 + 2 / 3) / 2) / 2)
    with pytest.raises(DrhnError, match="no query has a relevant item"):
        asymmetric_mean_average_precision(probabilities, np.array([7]), LabelledCodes(gallery, labels, 2))


def test_asymmetric_map_of_certain_queries_is_that_of_hamming_distance(monkeypatch):
    rng = np.random.default_rng(0)
    query_bits, gallery_bits = rng.random((9, 11)) < 0.5, rng.random((200, 11)) < 0.5
    query_labels, gallery_labels = rng.integers(0, 4, 9), rng.integers(0, 3, 200)  # class 3 is not in the gallery
    gallery = LabelledCodes(pack_bits(gallery_bits), gallery_labels, 11)
    queries = LabelledCodes(pack_bits(query_bits), query_labels, 11)
    expected = retrieval_metrics(queries, gallery).mean_average_precision
    probabilities = query_bits.astype(float)
    assert asymmetric_mean_average_precision(probabilities, query_labels, gallery) == pytest.approx(expected)
    monkeypatch.setattr(metrics, "_CHUNK_BYTES", 1)
    assert asymmetric_mean_average_precision(probabilities, query_labels, gallery) == pytest.approx(expected)
