import pytest
import torch
from torch.nn import functional

from drhn_cli.config import TrainConfig
from drhn_cli.network.losses import quantisation_term, training_loss
from drhn_cli.network.model import DRHN
from tests.networks import tiny_config


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_quantisation_is_none_at_the_ends_and_whole_at_the_threshold(threshold):
    assert quantisation_term(torch.tensor([[0.0, 1.0, 1.0, 0.0]]), threshold).item() == pytest.approx(0, abs=1e-6)
    assert quantisation_term(torch.full((2, 3), threshold), threshold).item() == pytest.approx(1, abs=1e-6)
    halfway = torch.tensor([[threshold / 2, (1 + threshold) / 2]])
    assert quantisation_term(halfway, threshold).item() == pytest.approx(0.5, abs=1e-6)


def test_quantisation_pushes_away_from_the_threshold():
    activations = torch.tensor([[0.2, 0.4]], requires_grad=True)
    quantisation_term(activations, 0.3).backward()
    below, above = activations.grad[0].tolist()
    assert below > 0 > above  # descent lowers the one and raises the other


def test_loss_is_the_mean_of_the_softmax_at_every_length_plus_quantisation():
    torch.manual_seed(0)
    network = DRHN(tiny_config(nested=(4, 8)))
    activations, labels = torch.rand(6, 16), torch.arange(6) % 4
    config = TrainConfig(label_smoothing=0.1, quantisation=0.7)
    weight, bias = network.classify.weight, network.classify.bias
    entropies = []
    for n_bits in (4, 8, 16):
        log_shares = functional.log_softmax(activations[:, :n_bits] @ weight[:, :n_bits].T + bias, dim=1)
        smooth = torch.full((6, 4), 0.1 / 4).scatter_add_(1, labels[:, None], torch.full((6, 1), 0.9))
        entropies.append(-(smooth * log_shares).sum(dim=1).mean())
    expected = sum(entropies) / 3 + 0.7 * quantisation_term(activations, 0.5)
    loss, scores = training_loss(network, activations, labels, config)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert torch.equal(scores, network.scores(activations))
