import pytest
import torch
from torch import nn

from drhn_cli.network.drhn import DRHN
from drhn_cli.training.config import TrainConfig
from drhn_cli.training.optimizers import Muon, is_averaged, make_optimisers, orthogonalise, rate_at, set_rates
from tests.networks import tiny_config


def matrix_with(singular_values, columns):
    n = len(singular_values)
    left, _ = torch.linalg.qr(torch.randn(n, n))
    right, _ = torch.linalg.qr(torch.randn(columns, n))
    return left @ torch.diag(singular_values) @ right.T


@pytest.mark.parametrize("shape", [(8, 72), (32, 288), (64, 576), (300, 20)])
@pytest.mark.parametrize("steps", [3, 5])
def test_orthogonalised_filters_have_singular_values_near_one(shape, steps):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape), steps))
    assert values.min() > 0.65
    assert values.max() < 1.22


@pytest.mark.parametrize(("steps", "least"), [(3, 0.02), (5, 0.0016)])
def test_orthogonalisation_reaches_the_singular_values_that_it_claims(steps, least):
    torch.manual_seed(0)
    values = torch.cat([torch.full((1,), least * 1.05), torch.logspace(-1, 0, 9)])
    values[1:] *= (1 - values[0] ** 2).sqrt() / values[1:].norm()  # Frobenius norm 1
    found = torch.linalg.svdvals(orthogonalise(matrix_with(values, 40), steps))
    assert found.min() > 0.675
    assert found.max() < 1.21


def test_orthogonalisation_takes_three_steps_unless_told():
    matrix = torch.randn(6, 30)
    assert torch.equal(orthogonalise(matrix), orthogonalise(matrix, 3))


def test_orthogonalisation_keeps_the_singular_vectors():
    torch.manual_seed(0)
    matrix = torch.randn(6, 30)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    rotated = left.T @ orthogonalise(matrix) @ right.T
    assert torch.allclose(rotated, torch.diag(rotated.diag()), atol=1e-4)
    assert torch.allclose(orthogonalise(matrix.T), orthogonalise(matrix).T, atol=1e-5)
    assert not orthogonalise(torch.zeros(3, 4)).any()


def test_a_muon_step_is_orthogonalised_nesterov_momentum_from_filters_of_fixed_norm():
    torch.manual_seed(0)
    filters = nn.Parameter(torch.randn(4, 2, 3, 3))
    optimiser = Muon([filters], rate=0.1, momentum=0.6)
    momentum = torch.zeros_like(filters)
    for _ in range(3):
        before, gradient = filters.detach().clone(), torch.randn_like(filters)
        filters.grad = gradient
        optimiser.step()
        momentum = 0.6 * momentum + gradient
        scaled = before * (2 / before.norm())  # sqrt(4 filters)
        update = orthogonalise((gradient + 0.6 * momentum).reshape(4, -1)).view_as(filters)
        assert torch.allclose(filters, scaled - 0.1 * update, atol=1e-5)


def test_muon_leaves_filters_without_a_gradient_and_refuses_closures():
    filters = nn.Parameter(torch.ones(1, 1, 3, 3))
    optimiser = Muon([filters], rate=0.1, momentum=0.6)
    optimiser.step()
    assert torch.equal(filters, torch.ones(1, 1, 3, 3))
    with pytest.raises(NotImplementedError):
        optimiser.step(lambda: 0.0)


def test_every_parameter_has_one_optimiser_and_only_matrices_decay():
    network = DRHN(tiny_config())
    config = TrainConfig(conv_rate=0.3, rate=0.5, weight_decay=0.001)
    muon, rest = make_optimisers(network, config)
    by_muon = {id(p) for p in muon.param_groups[0]["params"]}
    assert by_muon == {id(p) for name, p in network.named_parameters() if name.startswith("groups") and "conv" in name}
    decayed, plain = ({id(p) for p in group["params"]} for group in rest.param_groups)
    assert decayed == {id(p) for p in (network.stem_conv.weight, network.hash.weight, network.classify.weight)}
    assert len(by_muon) + len(decayed) + len(plain) == len(list(network.parameters()))
    assert [group["weight_decay"] for group in rest.param_groups] == [0.001 / 0.5, 0.0]

    set_rates([muon, rest], 0.5, config)
    assert muon.param_groups[0]["lr"] == 0.15
    assert [group["lr"] for group in rest.param_groups] == [0.25, 0.25]


def test_the_rate_rises_to_its_peak_and_falls_to_nearly_nothing():
    rates = [rate_at(step, 100, TrainConfig(warm_up=0.1)) for step in range(100)]
    assert rates[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert rates[10:] == pytest.approx([(100 - step) / 90 for step in range(10, 100)])


def test_the_rate_stays_at_its_peak_where_weights_are_averaged():
    rates = [rate_at(step, 100, TrainConfig(warm_up=0.1, average=0.5)) for step in range(100)]
    assert rates[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert rates[10:] == [1] * 90


@pytest.mark.parametrize(
    ("average", "n_steps", "n_averaged"), [(0.4, 12, 4), (0.5, 12, 6), (0.75, 600, 450), (0.001, 12, 1), (0.5, 1, 1)]
)
def test_the_last_share_of_the_steps_is_averaged_and_at_least_the_last(average, n_steps, n_averaged):
    averaged = [is_averaged(step, n_steps, TrainConfig(average=average)) for step in range(n_steps)]
    assert averaged == [False] * (n_steps - n_averaged) + [True] * n_averaged


@pytest.mark.parametrize(("n_steps", "warm_up"), [(1, 0.0), (1, 0.9), (2, 0.1), (7, 0.99), (1000, 0.0)])
def test_the_rate_is_always_a_share(n_steps, warm_up):
    rates = [rate_at(step, n_steps, TrainConfig(warm_up=warm_up)) for step in range(n_steps)]
    assert all(0 < rate <= 1 for rate in rates)
    assert max(rates) > 0.5
