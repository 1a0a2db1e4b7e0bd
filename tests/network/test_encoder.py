import ctypes
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from drhn_cli.codes.pack import pack_bits, unpack_bits
from drhn_cli.errors import ConfigError
from drhn_cli.images.preprocess import Preprocessing
from drhn_cli.network import drhn, numpy_backend
from drhn_cli.network.drhn import build_network, load_torch, predict_classes, torch_backend
from drhn_cli.network.encoder import NUMPY_LIMIT, Encoder, bit_probabilities, codes_of, encode_views
from tests.networks import drawn, random_model, tiny_config

CPU = torch.device("cpu")
MODEL = random_model(tiny_config())
PIXELS = np.random.default_rng(0).integers(0, 256, (67, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pixels():
    return drawn(5).pixels


@pytest.fixture(scope="module")
def model():
    return random_model(tiny_config(nested=(3, 9)), preprocessing=Preprocessing(size=16, mean=(0.3, 0.5, 0.7)))


def test_the_network_is_built_from_the_arrays(model):
    network = build_network(model, CPU)
    assert not network.training
    state = network.state_dict()
    for name, array in model.arrays.items():
        assert np.array_equal(state[name].numpy(), array.astype(np.float32))


def test_activations_are_those_of_the_network_whatever_the_batch(model, pixels):
    network = build_network(model, CPU)
    scaled = (pixels / 255 - np.array(model.preprocessing.mean)) / np.array(model.preprocessing.std)
    with torch.inference_mode():
        expected = network(torch.from_numpy(scaled.transpose(0, 3, 1, 2)).float()).numpy()
    assert np.ptp(expected, axis=0).max() > 0.1
    for batch_size in (1, 7, 500):
        activations = encode_views(load_torch(model, CPU), pixels, batch_size)
        assert activations.dtype == np.float32
        assert np.allclose(activations, expected, atol=1e-5)


def test_bfloat16_gives_nearly_the_same_activations(model, pixels):
    network = build_network(model, CPU)
    exact = encode_views(torch_backend(network, model.preprocessing), pixels)
    rough = encode_views(torch_backend(network, model.preprocessing, bfloat16=True), pixels)
    assert rough.dtype == np.float32
    assert 0 < np.abs(exact - rough).mean() < 0.05


def test_tf32_is_off_where_pictures_are_encoded_and_nowhere_else(model, pixels, monkeypatch):
    def allowed():
        return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        Encoder(model, device="cpu", n_images=NUMPY_LIMIT + 1).activations(pixels)
        with drhn._without_tf32(torch.device("cuda")):
            assert allowed() == (False, "highest")
        assert allowed() == (True, "high")
    finally:
        torch.set_float32_matmul_precision(precision)


@pytest.mark.parametrize("n_images", [20, NUMPY_LIMIT + 1])
@pytest.mark.parametrize("n_threads", [None, 2])
def test_features_are_the_means_of_the_channels_in_every_batch(model, pixels, n_images, n_threads, monkeypatch):
    monkeypatch.setattr(numpy_backend, "use_one_thread", lambda: True)
    encoder = Encoder(model, device="cpu", n_images=n_images, n_threads=n_threads)
    network = build_network(model, CPU)
    scaled = (pixels / 255 - np.array(model.preprocessing.mean)) / np.array(model.preprocessing.std)
    with torch.inference_mode():
        expected = network.features(torch.from_numpy(scaled.transpose(0, 3, 1, 2)).float()).mean(dim=(2, 3)).numpy()
    features = encoder.features(pixels)
    assert features.dtype == np.float32
    assert features.shape == (20, 32)
    assert np.allclose(features, expected, atol=1e-4)
    assert np.array_equal(encoder.features(pixels[7:8]), features[7:8])
    assert encoder.features(pixels[:0]).shape == (0, 32)
    # The hash layer makes activations of them.
    sums = features @ model.arrays["hash.weight"].T
    parts = (model.arrays[f"hash_norm.{part}"] for part in ("weight", "bias", "running_mean", "running_var"))
    weight, bias, mean, var = parts
    activations = 1 / (1 + np.exp(-((sums - mean) / np.sqrt(var + 1e-5) * weight + bias)))
    assert np.allclose(encoder.activations(pixels), activations, atol=1e-4)


def test_features_of_two_views_are_their_mean(model, pixels):
    encoder = Encoder(model.with_views(2), device="cpu", n_images=5)
    one, other = pixels[:5], pixels[5:10]
    found = encoder.features(np.concatenate([one, other], axis=1))
    assert np.allclose(found, (encoder.features(one) + encoder.features(other)) / 2, atol=1e-5)


@pytest.mark.parametrize(("size", "step"), [(64, 32), (72, 8)])
def test_large_pictures_are_computed_in_small_batches(size, step):
    model = random_model(tiny_config(input_size=size))
    assert Encoder(model, device="cpu", n_images=NUMPY_LIMIT + 1).step == step
    assert Encoder(model, device="cpu", n_images=NUMPY_LIMIT + 1, n_threads=3).step == 96


@pytest.mark.parametrize("n_images", [1, 70, NUMPY_LIMIT + 1])
@pytest.mark.parametrize("n_threads", [None, 2])
def test_no_pictures_make_no_codes(model, n_images, n_threads, monkeypatch):
    monkeypatch.setattr(numpy_backend, "use_one_thread", lambda: True)
    encoder = Encoder(model, device="cpu", n_images=n_images, n_threads=n_threads)
    none = np.empty((0, 16, 16, 3), np.uint8)
    assert encoder.activations(none).shape == (0, 16)
    assert encoder.codes(none, 12).shape == (0, 2)


@pytest.mark.parametrize("threshold", [0.1, 0.25, 0.5, 0.875])
def test_a_bit_is_set_exactly_where_the_activation_is_above_the_threshold(threshold):
    near = np.float32(threshold)
    row = [0, near, np.nextafter(near, np.float32(1)), np.nextafter(near, np.float32(0)), 1, 0.05, 0.3, 0.99]
    activations = np.array([row, row[::-1]], np.float32)
    config = tiny_config(bits=8, threshold=threshold)
    bits = unpack_bits(codes_of(activations, config, 8), 8)
    assert np.array_equal(bits, activations > threshold)
    assert bits[0, [2, 4]].all()
    assert not bits[0, [0, 3]].any()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.6])
@pytest.mark.parametrize("n_images", [20, NUMPY_LIMIT + 1])
def test_codes_are_packed_activations_above_the_threshold(pixels, threshold, n_images):
    model = random_model(tiny_config(threshold=threshold))
    encoder = Encoder(model, device="cpu", n_images=n_images)
    activations = encoder.activations(pixels)
    assert np.array_equal(encoder.codes(pixels, 16), pack_bits(activations > threshold))
    assert np.array_equal(encoder.bit_probabilities(pixels, 9), bit_probabilities(activations, model.config, 9))
    assert 0 < (activations > threshold).mean() < 1


def test_a_shorter_code_is_the_beginning_of_the_whole_code(model, pixels):
    encoder = Encoder(model, device="cpu", n_images=len(pixels))
    bits = unpack_bits(encoder.codes(pixels, 16), 16)
    for n_bits in model.config.code_lengths:
        assert np.array_equal(encoder.codes(pixels, n_bits), pack_bits(bits[:, :n_bits]))


def test_classes_are_predicted_from_the_bits_in_use(model, pixels):
    network = build_network(model, CPU)
    activations = encode_views(load_torch(model, CPU), pixels)
    filters, bias = model.arrays["classify.weight"], model.arrays["classify.bias"]
    for n_bits in (3, 9, 16):
        scores = activations[:, :n_bits] @ filters[:, :n_bits].T + bias
        assert np.array_equal(predict_classes(network, activations, n_bits), scores.argmax(axis=1))


def test_few_pictures_go_to_numpy_and_many_to_torch(monkeypatch):
    chosen = []
    monkeypatch.setattr(numpy_backend, "load_numpy", lambda _: chosen.append("numpy"))
    monkeypatch.setattr(drhn, "load_torch", lambda _, device: chosen.append(device))
    for device in ("auto", "cpu", "cpu:0"):
        Encoder(MODEL, device=device, n_images=NUMPY_LIMIT)
    Encoder(MODEL, device="cpu", n_images=NUMPY_LIMIT + 1)
    assert chosen == ["numpy", "numpy", torch.device("cpu:0"), CPU]
    with pytest.raises(ConfigError, match="unknown device"):
        Encoder(MODEL, device="abacus", n_images=1)


@pytest.mark.parametrize("n_images", [1, 2, 40, NUMPY_LIMIT + 1])
def test_an_activation_depends_on_its_picture_alone(n_images):
    # Wide and large enough that a product of another height sums in another order.
    config = tiny_config(widths=(32, 32, 64, 64, 128, 128), input_size=32, bits=48)
    model = random_model(config, preprocessing=Preprocessing(size=32, views=2))
    pixels = np.random.default_rng(0).integers(0, 256, (min(n_images, 40), *model.preprocessing.shape), np.uint8)
    encoder = Encoder(model, device="cpu", n_images=n_images)
    whole = encoder.activations(pixels)
    order = np.random.default_rng(0).permutation(len(pixels))
    for size in (1, 3, 33):
        parts = [encoder.activations(pixels[order[i : i + size]]) for i in range(0, len(pixels), size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole[order])


@pytest.mark.parametrize("n_images", [70, NUMPY_LIMIT + 1], ids=["numpy", "torch"])
@pytest.mark.parametrize("n", [0, 1, 32, 67])
def test_threads_change_nothing(n, n_images, monkeypatch):
    monkeypatch.setattr(numpy_backend, "use_one_thread", lambda: True)
    alone = Encoder(MODEL, device="cpu", n_images=n_images)
    shared = Encoder(MODEL, device="cpu", n_images=n_images, n_threads=3)
    assert (alone.step, shared.step) == (4 if n_images == 70 else 32, 96)
    np.testing.assert_array_equal(shared.activations(PIXELS[:n]), alone.activations(PIXELS[:n]))
    np.testing.assert_array_equal(shared.codes(PIXELS[:n], 16), alone.codes(PIXELS[:n], 16))


@pytest.fixture
def first_values(monkeypatch):
    """Torch's backend returns the first value of a picture, and notes how many it was given, and in which thread."""
    calls = []

    def first_value(views):
        calls.append((len(views), threading.current_thread().name.rpartition("_")[0], torch.get_num_threads()))
        return views[:, 0, 0, :1] / np.float32(255)

    monkeypatch.setattr(drhn, "load_torch", lambda *_: first_value)
    return calls


def test_pictures_are_shared_out_in_order_to_threads_that_are_prepared(first_values):
    encoder = Encoder(MODEL, device="cpu", n_images=NUMPY_LIMIT + 1, n_threads=2)
    np.testing.assert_array_equal(encoder.activations(PIXELS), PIXELS[:, 0, 0, :1] / np.float32(255))
    assert first_values == [(32, "drhn-encode", 1)] * 3


def test_an_error_in_a_thread_reaches_the_caller(monkeypatch):
    monkeypatch.setattr(drhn, "load_torch", lambda *_: lambda views: views[:, 16])
    encoder = Encoder(MODEL, device="cpu", n_images=NUMPY_LIMIT + 1, n_threads=2)
    with pytest.raises(IndexError):
        encoder.activations(PIXELS)


def test_a_device_of_its_own_gets_whole_batches(first_values, monkeypatch):
    monkeypatch.setattr("drhn_cli.network.devices.choose_device", lambda _: torch.device("meta"))
    encoder = Encoder(MODEL, device="cuda", n_images=1000, batch_size=300, n_threads=2)
    assert encoder.step == 300
    encoder.activations(PIXELS)
    assert [(n, thread) for n, thread, _ in first_values] == [(300, "")]


def test_openblas_is_told_by_the_name_that_it_has(monkeypatch):
    told = []
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(openblas_set_num_threads=told.append))
    assert numpy_backend.use_one_thread()
    assert told == [1]


def test_another_blas_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    assert not numpy_backend.use_one_thread()

    def refuse(_):
        raise OSError

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert not numpy_backend.use_one_thread()
