import numpy as np
import pytest
import torch
from torch.nn import functional

from drhn_cli.config import NetworkConfig, TrainConfig
from drhn_cli.network.codewords import fix_codewords, spread_codewords
from drhn_cli.network.model import DRHN
from tests.networks import tiny_config


def distances(words):
    return (words[:, None] != words[None]).sum(axis=2)[np.triu_indices(len(words), 1)]


def test_codewords_of_ten_classes_are_far_apart_at_every_length():
    config = NetworkConfig(n_classes=10, bits=64, nested=(12, 16, 24, 48))
    words = spread_codewords(config, seed=0)
    assert words.shape == (10, 64)
    assert set(words.ravel().tolist()) == {-1, 1}
    assert not words.sum(axis=0).any()  # each bit is one for half of the classes
    for length in config.code_lengths:
        assert not words[:, :length].sum(axis=1).any()  # each class has as many ones as zeros
        between = distances(words[:, :length])
        assert between.min() >= 0.9 * length / 2
        assert between.max() <= 1.35 * length / 2


@pytest.mark.parametrize(("n_classes", "bits", "nested"), [(2, 7, ()), (3, 13, (5,)), (7, 13, (5, 9))])
def test_numbers_that_do_not_divide_are_balanced_as_nearly_as_they_can_be(n_classes, bits, nested):
    words = spread_codewords(NetworkConfig(n_classes=n_classes, bits=bits, nested=nested), seed=1)
    assert abs(words.sum(axis=0)).max() <= n_classes % 2
    assert abs(words[:, : (nested or (bits,))[0]].sum(axis=1)).max() <= 1
    assert distances(words).min() > 0


def test_codewords_follow_from_the_seed():
    config = NetworkConfig(n_classes=10, bits=16)
    once, again, other = (spread_codewords(config, seed) for seed in (0, 0, 1))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


def test_scores_order_classes_as_hamming_distance_does():
    config = tiny_config(bits=16, nested=(8,))
    network = DRHN(config)
    fix_codewords(network, TrainConfig(label_smoothing=0.2))
    words = torch.from_numpy(spread_codewords(config, TrainConfig().seed)).float()
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (50, 16))).float()
    for length in config.code_lengths:
        distance = ((2 * codes[:, None, :length] - 1) != words[None, :, :length]).sum(dim=2)
        vote = network.classify.weight.abs().max() * 16 / length
        assert torch.allclose(network.scores(codes, length), vote * (length / 2 - distance), atol=1e-4)


def test_the_weight_of_a_bit_is_what_the_smoothed_labels_ask_for():
    network = DRHN(tiny_config(bits=16))
    fix_codewords(network, TrainConfig(label_smoothing=0.2))
    weight = network.classify.weight
    scores = torch.tensor([[8 * weight.abs().max(), 0.0, 0.0, 0.0]])  # half of 16 bits from the others
    assert functional.softmax(scores, dim=1)[0, 0].item() == pytest.approx(0.8 + 0.2 / 4, abs=1e-5)
    assert not weight.requires_grad
    assert not network.classify.bias.any()
