import pytest
import torch
from torch.nn import functional

from drhn_cli.network.drhn import DRHN
from drhn_cli.training.distillation import DistillationHead, distillation_loss
from drhn_cli.training.losses import prefix_similarity_loss, quantization_loss, total_loss
from drhn_cli.training.stage import Stage
from tests.networks import tiny_config


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_quantisation_is_none_at_the_ends_and_whole_at_the_threshold(threshold):
    assert quantization_loss(torch.tensor([[0.0, 1.0, 1.0, 0.0]]), threshold).item() == pytest.approx(0, abs=1e-6)
    assert quantization_loss(torch.full((2, 3), threshold), threshold).item() == pytest.approx(1, abs=1e-6)
    halfway = torch.tensor([[threshold / 2, (1 + threshold) / 2]])
    assert quantization_loss(halfway, threshold).item() == pytest.approx(0.5, abs=1e-6)


def test_quantisation_pushes_away_from_the_threshold():
    activations = torch.tensor([[0.2, 0.4]], requires_grad=True)
    quantization_loss(activations, 0.3).backward()
    below, above = activations.grad[0].tolist()
    assert below > 0 > above  # descent lowers the one and raises the other


def smoothed_entropy(scores: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    smooth = torch.full_like(scores, smoothing / scores.shape[1]).scatter_add_(
        1, labels[:, None], torch.full((len(labels), 1), 1 - smoothing)
    )
    return -(smooth * functional.log_softmax(scores, dim=1)).sum(dim=1).mean()


def test_loss_of_one_code_length_is_the_softmax_plus_quantisation():
    torch.manual_seed(0)
    network = DRHN(tiny_config())
    activations, labels = torch.rand(6, 16), torch.arange(6) % 4
    expected = smoothed_entropy(network.classify(activations), labels, 0.1) + 0.7 * quantization_loss(activations, 0.5)
    loss, scores = total_loss(network, activations, labels, Stage(label_smoothing=0.1, quantization=0.7))
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert torch.equal(scores, network.scores(activations))


def test_nested_loss_is_the_mean_over_lengths_and_over_runs_of_the_shortest():
    torch.manual_seed(0)
    network = DRHN(tiny_config(nested=(6, 8)))
    activations, labels = torch.rand(6, 16), torch.arange(6) % 4

    def entropy_of(first: int, last: int) -> torch.Tensor:
        votes = 16 / (last - first) * network.classify.weight[:, first:last]
        return smoothed_entropy(activations[:, first:last] @ votes.T + network.classify.bias, labels, 0.2)

    lengths = (entropy_of(0, 6) + entropy_of(0, 8) + entropy_of(0, 16)) / 3
    runs = (entropy_of(6, 12) + entropy_of(10, 16)) / 2  # the last run ends where the code ends
    loss, scores = total_loss(network, activations, labels, Stage(label_smoothing=0.2, quantization=0))
    assert loss.item() == pytest.approx(((lengths + runs) / 2).item(), abs=1e-5)
    assert torch.equal(scores, network.scores(activations))


def test_similarity_is_lost_where_a_beginning_tells_other_pairs_apart_than_the_whole():
    codes = torch.tensor([[0.0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]])
    # As products of -1..1: wholes are 0 alike (first and second), 0 (second and third), -1; beginnings 1, -1, -1.
    assert prefix_similarity_loss(codes, (2,)).item() == pytest.approx(2 * (1 + 1) / 9)
    assert prefix_similarity_loss(codes.repeat(1, 2), (4,)).item() == 0
    assert prefix_similarity_loss(codes, (2, 3)).item() == pytest.approx(
        (prefix_similarity_loss(codes, (2,)) + prefix_similarity_loss(codes, (3,))).item() / 2
    )


def test_similarity_teaches_the_beginning_and_leaves_the_rest_alone():
    activations = torch.rand(6, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    prefix_similarity_loss(activations, (2, 3)).backward()
    assert (activations.grad[:, :3] != 0).all()
    assert not activations.grad[:, 3:].any()


def test_nested_loss_has_as_much_of_the_similarity_as_asked_for():
    torch.manual_seed(0)
    network = DRHN(tiny_config(nested=(6, 8)))
    activations, labels = torch.rand(6, 16), torch.arange(6) % 4
    with_it, without = (total_loss(network, activations, labels, Stage(prefix_similarity=s))[0] for s in (3.0, 0.0))
    assert (with_it - without).item() == pytest.approx(3 * prefix_similarity_loss(activations, (6, 8)).item(), abs=1e-5)


def test_distillation_is_none_where_the_bits_tell_the_features_and_twice_as_much_where_they_tell_the_opposite():
    head, pooled = DistillationHead(tiny_config(nested=(8,)), 8, "codes"), torch.empty(0)
    features = functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    activations = torch.cat([features, features], dim=1)  # not in 0..1, which makes no difference here
    with torch.no_grad():
        head.bias.zero_()
        head.weight.copy_(torch.eye(8).repeat(1, 2))
    assert distillation_loss(head.predict(pooled, activations), features).item() == pytest.approx(0, abs=1e-5)
    assert distillation_loss(head.predict(pooled, activations), -features).item() == pytest.approx(2, abs=1e-5)
    with torch.no_grad():
        head.weight[:, 8:] = -3 * torch.eye(8)  # the first 8 bits tell them still, all bits the opposite
    assert distillation_loss(head.predict(pooled, activations), features).item() == pytest.approx(1, abs=1e-5)


def test_distillation_from_pooled_features_leaves_the_codes_alone():
    head = DistillationHead(tiny_config(), 3, "pooled")
    pooled = torch.rand(5, tiny_config().n_features, requires_grad=True)
    activations = torch.rand(5, 16, requires_grad=True)
    features = functional.normalize(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    distillation_loss(head.predict(pooled, activations), features).backward()
    assert pooled.grad.any()
    assert activations.grad is None


def test_distillation_counts_as_much_as_told_in_the_loss():
    torch.manual_seed(0)
    network, head = DRHN(tiny_config(nested=(6,))), DistillationHead(tiny_config(nested=(6,)), 3, "codes")
    activations, labels = torch.rand(6, 16), torch.arange(6) % 4
    features = functional.normalize(torch.randn(6, 3), dim=1).half()
    without, _ = total_loss(network, activations, labels, Stage())
    predictions, stage = head.predict(torch.empty(0), activations), Stage(distill_weight=0.7, distill_from="t.npz")
    taught, _ = total_loss(network, activations, labels, stage, predictions=predictions, features=features)
    term = distillation_loss(predictions, features.float())
    assert taught.item() == pytest.approx((without + 0.7 * term).item(), abs=1e-5)
