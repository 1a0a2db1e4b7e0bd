from dataclasses import replace

import numpy as np
import pytest

from drhn_cli.errors import ConfigError, WeightsError
from drhn_cli.network import quantize as quantize_module
from drhn_cli.network.integer import check_sums, integer_layers, load_head
from drhn_cli.network.model import Model
from drhn_cli.network.numpy_backend import load_integer_trunk, load_numpy
from drhn_cli.network.quantize import quantize, replace_head
from tests.network.test_integer import pictures
from tests.networks import lite_config, random_model, tiny_config

CONFIG = tiny_config()


def features_of(model: Model, views: np.ndarray) -> np.ndarray:
    return load_head(model, features=True)(load_integer_trunk(model)(views))


@pytest.mark.parametrize("config", [CONFIG, lite_config(0)])
def test_features_in_integers_are_those_in_floats_but_for_rounding(config) -> None:
    floats, views = random_model(config, gain=2.5), pictures(config.input_size)
    expected = load_numpy(floats, features=True)(views)
    found = features_of(quantize(floats, views), views)
    found, expected = (features - expected.mean(axis=0) for features in (found, expected))
    assert np.abs(expected).max() > 0.1
    cosines = (found * expected).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert np.median(cosines) > 0.9
    np.testing.assert_allclose(found.std(), expected.std(), rtol=0.05)


def test_mean_features_are_kept_by_correcting_biases(monkeypatch: pytest.MonkeyPatch) -> None:
    floats, views = random_model(lite_config(0), gain=2.5), pictures(32)
    expected = load_numpy(floats, features=True)(views).mean(axis=0)
    corrected = np.abs(features_of(quantize(floats, views), views).mean(axis=0) - expected).mean()
    monkeypatch.setattr(quantize_module, "_corrected", lambda step, _, pictures: advance(step, pictures))
    plain = np.abs(features_of(quantize(floats, views), views).mean(axis=0) - expected).mean()
    assert corrected < plain / 2


def advance(step, pictures):
    for picture in pictures:
        picture.advance(step, quantize_module.load_products(step))
    return step


def test_a_rare_value_does_not_widen_the_range() -> None:
    kept = quantize_module._Range(n_kept=3)
    for values in ([0.5, 9.0, -0.25], [2.0, 8.0], [1.0, 3.0, -7.0, -8.0, -0.5]):
        kept.add(np.array(values, np.float32))
    assert kept.bounds == (-0.5, 3.0)
    assert kept.farthest == 9.0


def test_a_dead_channel_keeps_the_sums_exact() -> None:
    config = lite_config(0)
    model = random_model(config)
    conv, norm = "blocks.1.depthwise_conv.weight", "blocks.1.depthwise_norm"
    weight = model.arrays[conv].copy()
    weight[3] *= 1e-4
    bias = model.arrays[f"{norm}.bias"].copy()
    bias[3] = 5
    model = quantize(replace(model, arrays={**model.arrays, conv: weight, f"{norm}.bias": bias}), pictures(32))
    (step,) = (step for step in integer_layers(model) if step.layer.norm == norm)
    assert abs(int(step.bias[3])) <= 2**22 + 2**12


def test_a_zero_filter_and_a_zero_norm_are_integers_too() -> None:
    model = random_model(CONFIG)
    conv, norm = "groups.1.0.conv.weight", "groups.2.0.norm.weight"
    arrays = {**model.arrays, conv: 0 * model.arrays[conv], norm: 0 * model.arrays[norm]}
    floats, views = replace(model, arrays=arrays), pictures(16)
    expected = load_numpy(floats, features=True)(views)
    np.testing.assert_allclose(features_of(quantize(floats, views), views), expected, atol=0.05 * expected.std())


def test_another_head_keeps_the_trunk() -> None:
    config = lite_config(0, hash_norm=False, unit_features=True)
    model = quantize(random_model(config), pictures(32))
    rng = np.random.default_rng(5)
    head = {
        **{"hash.weight": rng.normal(size=(8, 1280)), "hash.bias": rng.normal(size=8)},
        **{"classify.weight": rng.normal(size=(3, 8)), "classify.bias": rng.normal(size=3)},
    }
    names = ("a", "b", "c")
    other = replace_head(model, head, config=replace(config, bits=8, n_classes=3), class_names=names)
    sums = load_integer_trunk(model)(pictures(32))
    assert np.array_equal(load_integer_trunk(other)(pictures(32)), sums)
    values = load_head(model, features=True)(sums) @ head["hash.weight"].T + head["hash.bias"]
    np.testing.assert_allclose(load_head(other)(sums), 1 / (1 + np.exp(-values)), atol=1e-4)
    assert other.class_names == names


def test_sums_that_float32_does_not_hold_are_refused() -> None:
    model = quantize(random_model(CONFIG), pictures(16))
    bias = model.arrays["stem_conv.bias"].copy()
    bias[0] = 2**24
    with pytest.raises(WeightsError, match="stem_conv: sums are too large"):
        check_sums(CONFIG, {**model.arrays, "stem_conv.bias": bias})


def test_a_last_layer_of_too_many_pixels_is_refused() -> None:
    config = tiny_config(input_size=256, downsample_at=())
    with pytest.raises(ConfigError, match="too many pixels"):
        quantize(random_model(config), np.zeros((1, 256, 256, 3), np.uint8))
