from itertools import pairwise

import numpy as np
import pytest

from drhn_cli.errors import ConfigError, DrhnError
from drhn_cli.network import closed_form
from drhn_cli.network.closed_form import Moments, fit_class_layer, fit_hash_layer, fit_label_layer, itq_rotation

LENGTHS = (4, 8, 16)


def features_of(n, d=24, seed=0, turn=0):
    """Return features of unit length in which some directions vary more than others, turned as another seed says."""
    rng = np.random.default_rng(seed)
    turned = np.linalg.qr(np.random.default_rng((2, turn)).standard_normal((d, d)))[0]
    features = (0.3 + rng.laplace(size=(n, d)) * np.linspace(1, 0.2, d)) @ turned
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


def codes_of(features, layer):
    weight, bias = layer
    return features @ weight.T + bias > 0


def subspace(layer, n_bits):
    """Return the projection on the directions that the first bits see."""
    basis = np.linalg.qr(layer[0][:n_bits].T.astype(np.float64))[0]
    return basis @ basis.T


def test_a_layer_is_float32_and_follows_from_the_features_and_the_seed():
    features = features_of(300)
    weight, bias = fit_hash_layer(features, LENGTHS, seed=3)
    assert (weight.shape, weight.dtype) == ((16, 24), np.float32)
    assert (bias.shape, bias.dtype) == ((16,), np.float32)
    again = fit_hash_layer(features.copy(), list(LENGTHS), seed=3)
    np.testing.assert_array_equal(weight, again[0])
    np.testing.assert_array_equal(bias, again[1])
    assert not np.array_equal(weight, fit_hash_layer(features, LENGTHS, seed=4)[0])


def test_the_mean_picture_is_on_the_threshold_and_values_have_a_deviation_of_a_half():
    features = features_of(300)
    weight, bias = fit_hash_layer(features, LENGTHS)
    values = features @ weight.T + bias
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(), 0.5, rtol=1e-4)


def test_each_length_turns_the_next_principal_directions_divided_by_the_root_of_their_deviations():
    features = features_of(2000)
    weight, _ = fit_hash_layer(features, LENGTHS)
    variances, directions = np.linalg.eigh(np.cov(features.T.astype(np.float64), bias=True))
    variances, directions = variances[::-1], directions[:, ::-1]
    whole = weight @ directions * variances**0.25  # (16, 24), a rotation in each block but for the scale
    scale = np.linalg.norm(whole[0])
    for start, stop in pairwise((0, *LENGTHS)):
        rotation = whole[start:stop, start:stop] / scale
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(stop - start), atol=1e-4)
        others = np.delete(whole[start:stop], slice(start, stop), axis=1)
        np.testing.assert_allclose(others, 0, atol=1e-3 * scale)


def test_the_beginning_of_a_nested_layer_is_the_layer_of_the_shorter_length():
    features = features_of(300)
    whole = codes_of(features, fit_hash_layer(features, LENGTHS))
    for n in (1, 2):
        part = codes_of(features, fit_hash_layer(features, LENGTHS[:n]))
        np.testing.assert_array_equal(part, whole[:, : LENGTHS[n - 1]], strict=True)


def test_itq_finds_a_rotation_that_is_nearer_to_the_signs():
    features = features_of(2000).astype(np.float64)
    projected = (features - features.mean(axis=0))[:, :8]

    def error(rotation):
        turned = projected @ rotation
        return np.square(turned - np.abs(turned).mean() * np.sign(turned)).sum()

    start = np.linalg.qr(np.random.default_rng(5).standard_normal((8, 8)))[0]
    rotation = itq_rotation(projected, np.random.default_rng(5))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(8), atol=1e-9)
    assert error(rotation) < error(start)
    assert error(rotation) < min(
        error(np.linalg.qr(np.random.default_rng(seed).standard_normal((8, 8)))[0]) for seed in range(6, 26)
    )


def test_few_pictures_get_the_general_layer_and_many_their_own():
    general = Moments.of(features_of(4000, seed=1, turn=1))
    own = features_of(2000, seed=2, turn=2)
    of_general = fit_hash_layer(features_of(4000, seed=1, turn=1), LENGTHS)
    of_own = fit_hash_layer(own, LENGTHS)
    for n_bits in LENGTHS:
        few = fit_hash_layer(own[:2], LENGTHS, general=general, prior=1e6)
        np.testing.assert_allclose(subspace(few, n_bits), subspace(of_general, n_bits), atol=1e-3)
        many = fit_hash_layer(own, LENGTHS, general=general, prior=1e-6)
        np.testing.assert_allclose(subspace(many, n_bits), subspace(of_own, n_bits), atol=1e-3)
    between = subspace(fit_hash_layer(own, LENGTHS, general=general, prior=2000 / 8), 8)
    assert np.linalg.norm(between - subspace(of_general, 8)) > 0.1
    assert np.linalg.norm(between - subspace(of_own, 8)) > 0.1


def test_fewer_pictures_than_bits_are_enough_with_general_ones():
    general = Moments.of(features_of(2000, turn=1))
    weight, bias = fit_hash_layer(features_of(5), LENGTHS, general=general)
    assert np.isfinite(weight).all()
    assert np.isfinite(bias).all()


def test_a_long_set_is_rotated_by_some_of_its_pictures(monkeypatch):
    monkeypatch.setattr(closed_form, "_ROTATION_ROWS", 512)
    features = features_of(1500)
    layer = fit_hash_layer(features, LENGTHS)
    np.testing.assert_allclose((features @ layer[0].T + layer[1]).mean(axis=0), 0, atol=1e-5)  # the mean is of all


def test_moments_are_those_of_numpy_however_many_chunks(monkeypatch):
    monkeypatch.setattr(closed_form, "_CHUNK_ROWS", 7)
    features = features_of(50, d=6)
    moments = Moments.of(features)
    assert moments.n == 50
    np.testing.assert_allclose(moments.mean, features.mean(axis=0, dtype=np.float64))
    np.testing.assert_allclose(moments.covariance, np.cov(features.T.astype(np.float64), bias=True), rtol=1e-9)


def test_moments_are_mixed_with_the_weight_of_so_many_pictures():
    one, other = Moments.of(features_of(50)), Moments.of(features_of(60, turn=1))
    mixed = one.mixed(other, prior=150, mean_prior=50)
    np.testing.assert_allclose(mixed.mean, (one.mean + other.mean) / 2)
    np.testing.assert_allclose(mixed.covariance, 0.25 * one.covariance + 0.75 * other.covariance)
    everything = Moments.of(np.concatenate([features_of(50), features_of(60, turn=1)]))
    np.testing.assert_allclose(one.mixed(other, prior=60, mean_prior=60).mean, everything.mean)


def test_moments_survive_float16():
    features = features_of(100)
    features[:, 3] = 0.5  # no variance, so no correlation
    moments = Moments.of(features)
    arrays = moments.to_arrays()
    assert arrays["correlation"].dtype == np.float16
    assert arrays["correlation"].shape == (24 * 23 // 2,)
    again = Moments.from_arrays(arrays)
    assert again.n == 100
    np.testing.assert_allclose(again.mean, moments.mean, rtol=1e-6)
    deviations = np.sqrt(moments.covariance.diagonal())
    np.testing.assert_allclose(again.covariance, moments.covariance, atol=5e-4 * deviations.max() ** 2)
    np.testing.assert_array_equal(again.covariance, again.covariance.T)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean", np.zeros(23)),
        ("mean", np.full(24, np.nan)),
        ("mean", np.array(["x"] * 24)),
        ("n", np.array(1)),
        ("n", np.array(np.inf)),
        ("n", np.array([100])),
        ("deviation", np.full(24, -1.0)),
        ("deviation", np.full(24, np.inf)),
        ("correlation", np.full(276, 1.5)),
        ("correlation", np.full(276, np.nan)),
        ("correlation", np.zeros(275)),
        ("correlation", None),
    ],
)
def test_damaged_moments_are_refused(name, value):
    arrays = Moments.of(features_of(100)).to_arrays() | {name: value}
    if value is None:
        del arrays[name]
    with pytest.raises(DrhnError, match="moments"):
        Moments.from_arrays(arrays)


def test_features_that_cannot_be_fitted_are_refused():
    features = features_of(100)
    broken = features.copy()
    broken[3, 4] = np.nan
    with pytest.raises(DrhnError, match="not finite"):
        fit_hash_layer(broken, LENGTHS)
    with pytest.raises(DrhnError, match="features do not fit"):
        fit_hash_layer(features[0], LENGTHS)
    with pytest.raises(DrhnError, match=r"too few pictures \(expected more than 16, the bits of a code, found 16\)"):
        fit_hash_layer(features[:16], LENGTHS)
    with pytest.raises(DrhnError, match="features do not fit"):
        fit_hash_layer(features[:1], LENGTHS, general=Moments.of(features))
    with pytest.raises(DrhnError, match="expected 24 values, found 23"):
        fit_hash_layer(features[:, :23], LENGTHS, general=Moments.of(features))
    flat = np.hstack([features[:, :9], np.zeros((100, 15), np.float32)])
    with pytest.raises(DrhnError, match=r"too much alike \(expected 16 directions in which they differ, found 9\)"):
        fit_hash_layer(flat, LENGTHS)


@pytest.mark.parametrize("lengths", [(), (0, 4), (8, 4), (4, 4), (4, 25)])
def test_lengths_that_do_not_fit_are_refused(lengths):
    with pytest.raises(ConfigError, match="code lengths do not fit"):
        fit_hash_layer(features_of(100), lengths)


def test_the_class_layer_is_the_ridge_regression_of_the_targets_on_signs(monkeypatch):
    monkeypatch.setattr(closed_form, "_CHUNK_ROWS", 7)
    rng = np.random.default_rng(0)
    bits = rng.random((60, 12)) < 0.4
    targets = rng.normal(2, 3, (60, 5)).astype(np.float32)
    weight, bias = fit_class_layer(bits, targets, ridge=2.5)
    signs = np.where(bits, 1.0, -1.0)
    # A ridge is as many more rows whose targets are 0; the column of the bias has nothing there.
    system = np.block([[signs, np.ones((60, 1))], [np.sqrt(2.5) * np.eye(12), np.zeros((12, 1))]])
    expected = np.linalg.lstsq(system, np.vstack([targets, np.zeros((12, 5))]), rcond=None)[0]
    assert weight.dtype == bias.dtype == np.float32
    np.testing.assert_allclose(weight, expected[:-1].T, atol=1e-5)
    np.testing.assert_allclose(bias, expected[-1], atol=1e-5)


def test_classes_are_recalled_from_bits():
    rng = np.random.default_rng(0)
    centers = rng.random((4, 32)) < 0.5
    labels = rng.integers(0, 4, 200)
    bits = centers[labels] ^ (rng.random((200, 32)) < 0.1)
    weight, bias = fit_class_layer(bits[:100], np.eye(4)[labels[:100]])
    recalled = (np.where(bits[100:], 1, -1) @ weight.T + bias).argmax(axis=1)
    assert (recalled == labels[100:]).mean() > 0.95


def test_bits_that_never_change_do_no_harm():
    weight, bias = fit_class_layer(np.ones((10, 4), bool), np.eye(2)[np.arange(10) % 2])
    np.testing.assert_allclose(weight, 0, atol=1e-7)
    np.testing.assert_allclose(bias, 0.5)


def test_codes_and_targets_that_do_not_fit_are_refused():
    bits, targets = np.ones((10, 4), bool), np.zeros((10, 2))
    for wrong in ((bits[:9], targets), (bits[0], targets), (bits, targets[:, 0]), (bits[:0], targets[:0])):
        with pytest.raises(DrhnError, match="codes and targets do not fit"):
            fit_class_layer(*wrong)
    for ridge in (0, -1, np.nan, np.inf):
        with pytest.raises(ConfigError, match="ridge"):
            fit_class_layer(bits, targets, ridge)
    targets[3, 1] = np.inf
    with pytest.raises(DrhnError, match="not finite"):
        fit_class_layer(bits, targets)


def test_a_class_layer_of_labels_is_right_and_as_sure_as_it_may_be():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 240)
    prototypes = rng.random((3, 64)) > 0.5
    clear, noisy = (prototypes[labels] ^ (rng.random((240, 64)) < flipped) for flipped in (0.1, 0.45))
    sure = {}
    for name, bits in (("clear", clear), ("noisy", noisy)):
        weight, bias = fit_label_layer(bits[:120], labels[:120], 3)
        logits = (2.0 * bits[120:] - 1) @ weight.T + bias
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        accuracy = (logits.argmax(axis=1) == labels[120:]).mean()
        sure[name] = accuracy, probabilities.max(axis=1).mean()
    assert sure["clear"][0] == 1
    assert sure["clear"][1] > 0.95
    assert 0.34 < sure["noisy"][0] < 0.95
    assert sure["noisy"][1] == pytest.approx(sure["noisy"][0], abs=0.12)
