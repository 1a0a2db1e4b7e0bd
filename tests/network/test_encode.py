import numpy as np
import pytest
import torch

from drhn_cli.codes.pack import pack_bits, unpack_bits
from drhn_cli.config import Preprocessing
from drhn_cli.network.binarise import codes_of
from drhn_cli.network.encode import TorchEncoder, build_network, encode_pixels
from tests.networks import drawn, random_model, tiny_config

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pixels():
    return drawn(5).pixels


@pytest.fixture(scope="module")
def weights():
    return random_model(tiny_config(nested=(3, 9)), preprocessing=Preprocessing(size=16, mean=(0.3, 0.5, 0.7)))


def test_the_network_is_built_from_the_arrays(weights):
    network = build_network(weights, CPU)
    assert not network.training
    state = network.state_dict()
    for name, array in weights.arrays.items():
        assert np.array_equal(state[name].numpy(), array.astype(np.float32))


def test_activations_are_those_of_the_network_whatever_the_batch(weights, pixels):
    network = build_network(weights, CPU)
    scaled = (pixels / 255 - np.array(weights.preprocessing.mean)) / np.array(weights.preprocessing.std)
    with torch.inference_mode():
        expected = network(torch.from_numpy(scaled.transpose(0, 3, 1, 2)).float()).numpy()
    assert np.ptp(expected, axis=0).max() > 0.1
    for batch_size in (1, 7, 500):
        activations = TorchEncoder(weights, CPU, batch_size=batch_size).activations(pixels)
        assert activations.dtype == np.float32
        assert np.allclose(activations, expected, atol=1e-5)


def test_bfloat16_gives_nearly_the_same_activations(weights, pixels):
    network = build_network(weights, CPU)
    exact = encode_pixels(network, pixels, weights.preprocessing)
    rough = encode_pixels(network, pixels, weights.preprocessing, precision="bfloat16")
    assert rough.dtype == np.float32
    assert 0 < np.abs(exact - rough).mean() < 0.05


def test_no_pictures_make_no_codes(weights):
    encoder = TorchEncoder(weights, CPU)
    none = np.empty((0, 16, 16, 3), np.uint8)
    assert encoder.activations(none).shape == (0, 16)
    assert encoder.codes(none, 16).shape == (0, 2)


@pytest.mark.parametrize("threshold", [0.1, 0.25, 0.5, 0.875])
def test_a_bit_is_set_exactly_where_the_activation_is_above_the_threshold(threshold):
    near = np.float32(threshold)
    row = [0, near, np.nextafter(near, np.float32(1)), np.nextafter(near, np.float32(0)), 1, 0.05, 0.3, 0.99]
    activations = np.array([row, row[::-1]], np.float32)
    network = tiny_config(bits=8, threshold=threshold)
    bits = unpack_bits(codes_of(activations, network, 8), 8)
    assert np.array_equal(bits, activations > threshold)
    assert bits[0, [2, 4]].all()
    assert not bits[0, [0, 3]].any()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.6])
def test_codes_are_packed_activations_above_the_threshold(pixels, threshold):
    weights = random_model(tiny_config(threshold=threshold))
    encoder = TorchEncoder(weights, CPU)
    activations = encoder.activations(pixels)
    assert np.array_equal(encoder.codes(pixels, 16), pack_bits(activations > threshold))
    assert 0 < (activations > threshold).mean() < 1


def test_a_shorter_code_is_the_beginning_of_the_whole_code(weights, pixels):
    encoder = TorchEncoder(weights, CPU)
    bits = unpack_bits(encoder.codes(pixels, 16), 16)
    for n_bits in weights.config.code_lengths:
        assert np.array_equal(encoder.codes(pixels, n_bits), pack_bits(bits[:, :n_bits]))


def test_classes_are_predicted_from_the_bits_in_use(weights, pixels):
    encoder = TorchEncoder(weights, CPU)
    activations = encoder.activations(pixels)
    filters, bias = weights.arrays["classify.weight"], weights.arrays["classify.bias"]
    for n_bits in (3, 9, 16):
        scores = activations[:, :n_bits] @ filters[:, :n_bits].T + bias
        assert np.array_equal(encoder.predict(activations, n_bits), scores.argmax(axis=1))
