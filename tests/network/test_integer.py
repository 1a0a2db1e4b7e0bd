from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from drhn_cli.network import drhn, numpy_backend
from drhn_cli.network import encoder as encoder_module
from drhn_cli.network.encoder import Encoder
from drhn_cli.network.integer import (
    Pooled,
    float_arrays,
    integer_layers,
    is_exact,
    known_view,
    largest_sum,
    load_head,
)
from drhn_cli.network.model import Model
from drhn_cli.network.quantize import quantize
from drhn_cli.network.weights_file import integer_shapes
from tests.benchmarks.same_codes import Comparison, paths_of
from tests.drawing import KINDS, draw_picture
from tests.network.integer_reference import pooled_sums
from tests.networks import lite_config, random_model, tiny_config

CPU = torch.device("cpu")
NETWORKS = {
    "max": tiny_config(),
    "one channel": tiny_config(widths=(1, 1, 3, 3, 7, 7)),
    "stride": tiny_config(downsample="stride", downsample_at=(3, 5), widths=(5, 5, 8, 8, 24, 24)),
    "stem of stride 2": tiny_config(stem_stride=2, input_size=32, hash_norm=False),
    "lite0": lite_config(0),
    "lite2": lite_config(2, input_size=47, hash_norm=False, unit_features=True),
}


def pictures(side: int, n: int = 3) -> NDArray[np.uint8]:
    """Return drawn pictures, noise, a black one and a white one."""
    drawn = [np.asarray(draw_picture(kind, seed, side)) for kind in KINDS for seed in range(n)]
    noise = np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    return np.concatenate([drawn, noise, np.zeros_like(noise[:1]), np.full_like(noise[:1], 255)])


@cache
def floats(name: str) -> Model:
    return random_model(NETWORKS[name], gain=2.5 if name.startswith("lite") else None)


@cache
def integers(name: str) -> Model:
    config = NETWORKS[name]
    return quantize(floats(name), pictures(config.input_size))


def one_at_a_time(pooled: Pooled, views: NDArray[np.uint8], n: int) -> NDArray[np.int32]:
    return np.concatenate([pooled(views[start : start + n]) for start in range(0, len(views), n)])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_every_backend_computes_the_same_sums_in_batches_of_any_size(name: str, backend: str) -> None:
    model = integers(name)
    views = pictures(model.config.input_size)
    expected = pooled_sums(model, views)
    assert (expected != expected[0]).any()
    load = {
        "numpy": lambda: numpy_backend.load_integer_trunk(model),
        "torch": lambda: drhn.load_integer_trunk(model, CPU),
    }
    pooled = load[backend]()
    for n in (1, 3, len(views)):
        found = one_at_a_time(pooled, views, n)
        assert found.dtype == np.int32
        assert np.array_equal(found, expected), n


@pytest.mark.parametrize("name", ["max", "lite0"])
def test_torch_computes_the_same_sums_with_any_number_of_threads(name: str) -> None:
    model = integers(name)
    views = pictures(model.config.input_size)
    expected = pooled_sums(model, views)
    before = torch.get_num_threads()
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            assert np.array_equal(drhn.load_integer_trunk(model, CPU)(views), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("name", "n"), [("max", 340), ("lite0", 20)])
def test_a_picture_has_one_code_whatever_the_path_the_batch_and_the_threads(
    name: str, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_module, "use_one_thread", lambda: True)
    model = integers(name)
    pixels = pictures(model.config.input_size, n)  # 1,702 and 102
    expected = Encoder(model, device="cpu").activations(pixels)  # equal activations are equal codes
    assert len(np.unique(expected, axis=0)) > len(pixels) / 2
    found = [Encoder(model, device="cpu", n_threads=n_threads).activations(pixels) for n_threads in (1, 3)]
    encoder = Encoder(model, device="cpu", n_threads=2)
    for size in (1, 37):
        parts = [encoder.activations(pixels[start : start + size]) for start in range(0, 2 * size, size)]
        found.append(np.concatenate([*parts, expected[2 * size :]]))
    monkeypatch.setattr(encoder_module, "load_native", lambda _: None)
    found += [Encoder(model, device="cpu", n_threads=n_threads).activations(pixels) for n_threads in (None, 2)]
    monkeypatch.setattr(encoder_module, "choose_gpu", lambda _: CPU)  # torch
    found += [Encoder(model, device="cuda", batch_size=size).activations(pixels) for size in (61, 500)]
    for activations in found:
        assert np.array_equal(activations, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_path_on_this_machine_computes_the_same_sums(name: str) -> None:
    model = integers(name)
    views = pictures(model.config.input_size, 8)
    paths = paths_of(model)
    comparison = Comparison({"expected": lambda views: pooled_sums(model, views), **paths})
    comparison.add(views)
    assert comparison.n_pictures == len(views)
    assert set(paths) >= {"numpy", "torch"}
    assert comparison.different == dict.fromkeys(("expected", *paths), 0)


def test_a_path_that_computes_otherwise_is_counted() -> None:
    comparison = Comparison(
        {"right": lambda views: views[:, 0, 0], "wrong": lambda views: views[:, 0, 0] + (len(views) == 3)}
    )
    comparison.add(np.zeros((10, 4, 4, 3), np.uint8))  # in parts of 1, 2, 3 and 4
    assert comparison.different == {"right": 0, "wrong": 3}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_gpu_computes_the_same_sums(name: str) -> None:
    model = integers(name)
    views = pictures(model.config.input_size)
    pooled = drhn.load_integer_trunk(model, torch.device("cuda"))
    for n in (1, 7, len(views)):
        assert np.array_equal(one_at_a_time(pooled, views, n), pooled_sums(model, views))


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_keep_to_what_is_exact_in_every_kernel(name: str) -> None:
    model = integers(name)
    assert {key: (array.shape, array.dtype) for key, array in model.arrays.items()} == {
        key: (shape, np.dtype(kind)) for key, (shape, kind) in integer_shapes(model.config).items()
    }
    for step in integer_layers(model):
        weight = step.weight.astype(int)
        assert largest_sum(step.weight, step.bias).max() <= 2**24
        assert np.abs(weight).max() <= 127
        assert np.abs(step.scale).max() <= 64
        if step.layer.groups > 1:
            pairs = [(weight[:, 1:], weight[:, :-1])]
        else:
            even = weight.shape[3] // 2 * 2
            pairs = [(weight[..., :even:2], weight[..., 1:even:2])]
        if weight.shape[3] == 3:
            row = weight.reshape(*weight.shape[:2], 9)
            pairs.append((row[..., 0:8:2], row[..., 1:8:2]))
        assert max(np.abs(first + second).max(initial=0) for first, second in pairs) <= 128


def test_filters_of_one_sign_stay_below_the_largest_sum() -> None:
    config = tiny_config(widths=(8, 8, 16, 16, 400, 400))
    model = random_model(config)
    conv = "groups.5.0.conv.weight"
    model = replace(model, arrays={**model.arrays, conv: np.full_like(model.arrays[conv], 0.01)})
    model = quantize(model, pictures(16))
    (step,) = (step for step in integer_layers(model) if step.layer.conv == "groups.5.0.conv")
    assert 2**24 * 0.6 < largest_sum(step.weight, step.bias).max() <= 2**24
    assert np.abs(step.weight).max() < 64


def test_the_known_answer_tells_a_backend_that_computes_otherwise() -> None:
    model = integers("max")
    pooled = numpy_backend.load_integer_trunk(model)
    assert is_exact(pooled, model)
    assert np.array_equal(pooled_sums(model, known_view(16))[0], model.arrays["known_answer"])

    def saturating(views: NDArray[np.uint8]) -> NDArray[np.int32]:
        return pooled(views) + (np.arange(model.config.n_features) == 3)

    assert not is_exact(saturating, model)


@pytest.mark.parametrize("name", ["max", "stem of stride 2", "lite2"])
def test_the_hash_layer_is_that_of_the_floats(name: str) -> None:
    config = NETWORKS[name]
    model, arrays = integers(name), floats(name).arrays
    sums = pooled_sums(model, pictures(config.input_size))
    features = load_head(model, features=True)(sums)
    values = features @ arrays["hash.weight"].T
    if config.hash_norm:
        weight, bias, mean, var = (
            arrays[f"hash_norm.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        values = (values - mean) / np.sqrt(var + 1e-5) * weight + bias
    else:
        values += arrays["hash.bias"]
    activations = load_head(model)(sums)
    assert activations.dtype == np.float32
    np.testing.assert_allclose(activations, 1 / (1 + np.exp(-values)), atol=2e-3)
    lengths = np.linalg.norm(features, axis=1)
    assert np.allclose(lengths, 1, atol=1e-6) == config.unit_features


def test_activations_are_the_same_for_pictures_alone_and_together() -> None:
    model = integers("max")
    sums = pooled_sums(model, pictures(16))
    head = load_head(model)
    together = head(sums)
    assert np.array_equal(together, np.concatenate([head(sums[i : i + 1]) for i in range(len(sums))]))
    assert together.min() >= 0
    assert together.max() <= 1


def test_float_arrays_are_those_that_were_rounded() -> None:
    for name in ("max", "stem of stride 2"):
        arrays, trained = float_arrays(integers(name)), floats(name).arrays
        assert list(arrays) == list(trained)
        for key, array in trained.items():
            assert arrays[key].dtype == np.float32
            step = np.abs(array).max() / 127 if array.ndim == 4 else 1e-3 * np.abs(array).max()
            np.testing.assert_allclose(arrays[key], array, atol=1.01 * step, err_msg=key)
