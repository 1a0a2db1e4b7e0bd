import ctypes
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from drhn_cli.codes.pack import pack_bits, unpack_bits
from drhn_cli.errors import ConfigError, WeightsError
from drhn_cli.images.preprocess import Preprocessing
from drhn_cli.network import devices, drhn, numpy_backend
from drhn_cli.network import encoder as encoder_module
from drhn_cli.network.drhn import build_network, load_torch, torch_backend
from drhn_cli.network.encoder import Encoder, bit_probabilities, codes_of, encode_views, predict_classes
from drhn_cli.network.integer import load_head
from drhn_cli.network.quantize import quantize
from tests.networks import drawn, random_model, tiny_config

CPU = torch.device("cpu")
MODEL = random_model(tiny_config())
PIXELS = np.random.default_rng(0).integers(0, 256, (67, 16, 16, 3), dtype=np.uint8)
INTEGERS = quantize(MODEL, PIXELS)


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
        load_torch(model, CPU)(pixels)
        with drhn._without_tf32(torch.device("cuda")):
            assert allowed() == (False, "highest")
        assert allowed() == (True, "high")
    finally:
        torch.set_float32_matmul_precision(precision)


@pytest.mark.parametrize("n_threads", [None, 2])
def test_features_are_the_means_of_the_channels_in_every_batch(model, pixels, n_threads, monkeypatch):
    monkeypatch.setattr(encoder_module, "use_one_thread", lambda: True)
    encoder = Encoder(model, device="cpu", n_threads=n_threads)
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
    encoder = Encoder(model.with_views(2), device="cpu")
    one, other = pixels[:5], pixels[5:10]
    found = encoder.features(np.concatenate([one, other], axis=1))
    assert np.allclose(found, (encoder.features(one) + encoder.features(other)) / 2, atol=1e-5)


@pytest.mark.parametrize("n_threads", [None, 2])
@pytest.mark.parametrize("kind", [MODEL, INTEGERS], ids=["floats", "integers"])
def test_no_pictures_make_no_codes(kind, n_threads, monkeypatch):
    monkeypatch.setattr(encoder_module, "use_one_thread", lambda: True)
    model = kind
    encoder = Encoder(model, device="cpu", n_threads=n_threads)
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
@pytest.mark.parametrize("is_integer", [False, True])
def test_codes_are_packed_activations_above_the_threshold(pixels, threshold, is_integer):
    model = random_model(tiny_config(threshold=threshold))
    model = quantize(model, pixels) if is_integer else model
    encoder = Encoder(model, device="cpu")
    activations = encoder.activations(pixels)
    assert np.array_equal(encoder.codes(pixels, 16), pack_bits(activations > threshold))
    assert np.array_equal(encoder.bit_probabilities(pixels, 9), bit_probabilities(activations, model.config, 9))
    assert 0 < (activations > threshold).mean() < 1


def test_a_shorter_code_is_the_beginning_of_the_whole_code(model, pixels):
    encoder = Encoder(model, device="cpu")
    bits = unpack_bits(encoder.codes(pixels, 16), 16)
    for n_bits in model.config.code_lengths:
        assert np.array_equal(encoder.codes(pixels, n_bits), pack_bits(bits[:, :n_bits]))


@pytest.mark.parametrize("classify_bits", [False, True])
def test_classes_are_predicted_from_the_bits_in_use(pixels, classify_bits):
    model = random_model(tiny_config(nested=(3, 9), classify_bits=classify_bits, threshold=0.4))
    network = build_network(model, CPU)
    activations = encode_views(load_torch(model, CPU), pixels)
    filters, bias = model.arrays["classify.weight"], model.arrays["classify.bias"]
    for n_bits in (3, 9, 16):
        inputs = np.where(activations > 0.4, 1, -1) if classify_bits else activations
        scores = inputs[:, :n_bits] @ filters[:, :n_bits].T * (16 / n_bits) + bias
        assert np.array_equal(predict_classes(model, activations, n_bits), scores.argmax(axis=1))
        assert np.array_equal(drhn.predict_classes(network, activations, n_bits), scores.argmax(axis=1))


def test_a_cpu_is_numpys_and_a_gpu_torchs(monkeypatch):
    chosen, gpus = [], ["cuda"]
    monkeypatch.setattr(encoder_module, "load_numpy", lambda *_, **__: chosen.append("numpy"))
    monkeypatch.setattr(drhn, "load_torch", lambda _, device, **__: chosen.append(device.type))
    monkeypatch.setattr(devices, "choose_device", lambda name: torch.device("meta" if name in gpus else "cpu"))
    for device in ("cpu", "cpu:0", "auto", "cuda"):
        Encoder(MODEL, device=device)
    assert chosen == ["numpy", "numpy", "numpy", "meta"]
    monkeypatch.setattr(devices, "may_have_gpu", lambda: True)
    Encoder(MODEL)
    gpus.append("auto")
    Encoder(MODEL)
    assert chosen[4:] == ["numpy", "meta"]
    with pytest.raises(ConfigError, match="unknown device"):
        Encoder(MODEL, device="abacus")


def test_a_gpu_has_the_codes_of_the_cpu(monkeypatch):
    expected = Encoder(INTEGERS, device="cpu").codes(PIXELS, 16)
    monkeypatch.setattr(encoder_module, "choose_gpu", lambda _: CPU)  # torch computes the same on all devices
    assert np.array_equal(Encoder(INTEGERS, device="cuda", batch_size=9).codes(PIXELS, 16), expected)


def test_a_gpu_that_computes_otherwise_is_refused_or_left_alone(monkeypatch):
    exact = drhn.load_integer_trunk

    def inexact(model, device):
        pooled = exact(model, device)
        return lambda views: pooled(views) + 1

    monkeypatch.setattr(drhn, "load_integer_trunk", inexact)
    monkeypatch.setattr(encoder_module, "choose_gpu", lambda _: CPU)
    with pytest.raises(WeightsError, match=r"random is computed with other results here .*--device cuda"):
        Encoder(INTEGERS, device="cuda")
    expected = load_head(INTEGERS)(exact(INTEGERS, CPU)(PIXELS))
    assert np.array_equal(Encoder(INTEGERS, device="auto", batch_size=7).activations(PIXELS), expected)


def test_a_cpu_that_computes_otherwise_is_refused(monkeypatch):
    exact = encoder_module.load_integer_trunk

    def inexact(model):
        pooled = exact(model)
        return lambda views: pooled(views) + 1

    monkeypatch.setattr(encoder_module, "load_native", lambda _: None)
    monkeypatch.setattr(encoder_module, "load_integer_trunk", inexact)
    with pytest.raises(WeightsError, match=r"random is computed with other results here .*--device auto"):
        Encoder(INTEGERS)


def test_a_kernel_that_computes_otherwise_is_left_to_numpy(monkeypatch):
    expected = Encoder(INTEGERS, device="cpu").activations(PIXELS)
    used = []

    def inexact(model):
        def pooled(views):
            used.append(len(views))
            return encoder_module.load_integer_trunk(model)(views) + 1

        return pooled

    monkeypatch.setattr(encoder_module, "load_native", inexact)
    assert np.array_equal(Encoder(INTEGERS, device="cpu").activations(PIXELS), expected)
    assert used == [1]  # the known answer


@pytest.mark.parametrize("n_threads", [None, 1, 3])
@pytest.mark.parametrize("is_integer", [False, True])
def test_an_activation_depends_on_its_picture_alone(is_integer, n_threads, monkeypatch):
    monkeypatch.setattr(encoder_module, "use_one_thread", lambda: True)
    # Wide and large enough that a product of another height sums in another order.
    config = tiny_config(widths=(32, 32, 64, 64, 128, 128), input_size=32, bits=48)
    model = random_model(config, preprocessing=Preprocessing(size=32, views=2))
    pixels = np.random.default_rng(0).integers(0, 256, (40, *model.preprocessing.shape), np.uint8)
    model = quantize(model, pixels) if is_integer else model
    encoder = Encoder(model, device="cpu", n_threads=n_threads)
    whole = encoder.activations(pixels)
    order = np.random.default_rng(0).permutation(len(pixels))
    for size in (1, 3, 33):
        parts = [encoder.activations(pixels[order[i : i + size]]) for i in range(0, len(pixels), size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole[order])


@pytest.fixture
def first_values(monkeypatch):
    """A backend returns the first value of a picture, and notes how many it was given, and in which thread."""
    calls = []

    def first_value(views):
        calls.append((len(views), threading.current_thread().name.rpartition("_")[0]))
        return views[:, 0, 0, :1] / np.float32(255)

    monkeypatch.setattr(encoder_module, "load_numpy", lambda *_, **__: first_value)
    monkeypatch.setattr(drhn, "load_torch", lambda *_, **__: first_value)
    return calls


def test_pictures_are_shared_out_in_order_to_threads_that_are_prepared(first_values, monkeypatch):
    prepared = []
    monkeypatch.setattr(encoder_module, "use_one_thread", lambda: prepared.append(threading.get_ident()))
    encoder = Encoder(MODEL, device="cpu", n_threads=2)
    assert encoder.step == 64
    np.testing.assert_array_equal(encoder.activations(PIXELS), PIXELS[:, 0, 0, :1] / np.float32(255))
    assert first_values == [(1, "drhn-encode")] * len(PIXELS)
    assert 1 <= len(set(prepared)) <= 2


def test_an_error_in_a_thread_reaches_the_caller(monkeypatch):
    monkeypatch.setattr(encoder_module, "use_one_thread", lambda: True)
    monkeypatch.setattr(encoder_module, "load_numpy", lambda *_, **__: lambda views: views[:, 16])
    with pytest.raises(IndexError):
        Encoder(MODEL, device="cpu", n_threads=2).activations(PIXELS)


def test_a_device_of_its_own_gets_whole_batches(first_values, monkeypatch):
    monkeypatch.setattr(devices, "choose_device", lambda _: torch.device("meta"))
    encoder = Encoder(MODEL, device="cuda", batch_size=50, n_threads=2)
    assert encoder.step == 50
    encoder.activations(PIXELS)
    assert first_values == [(50, ""), (17, "")]


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
