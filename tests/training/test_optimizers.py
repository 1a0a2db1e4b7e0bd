import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from drhn_cli.network.drhn import DRHN
from drhn_cli.training import trainer
from drhn_cli.training.optimizers import (
    Muon,
    in_swa,
    lr_schedule,
    make_optimizers,
    newton_schulz,
    perturbed,
    sam_gradients,
    set_learning_rates,
)
from drhn_cli.training.stage import Stage
from tests.networks import drawn, tiny_config
from tests.training.test_trainer import assert_same_arrays, interrupted_run, run


def matrix_with(singular_values, columns):
    n = len(singular_values)
    left, _ = torch.linalg.qr(torch.randn(n, n))
    right, _ = torch.linalg.qr(torch.randn(columns, n))
    return left @ torch.diag(singular_values) @ right.T


@pytest.mark.parametrize("shape", [(8, 72), (32, 288), (64, 576), (300, 20)])
@pytest.mark.parametrize("steps", [3, 5])
def test_orthogonalised_filters_have_singular_values_near_one(shape, steps):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(newton_schulz(torch.randn(shape), steps))
    assert values.min() > 0.65
    assert values.max() < 1.22


@pytest.mark.parametrize(("steps", "least"), [(3, 0.02), (5, 0.0016)])
def test_orthogonalisation_reaches_the_singular_values_that_it_claims(steps, least):
    torch.manual_seed(0)
    values = torch.cat([torch.full((1,), least * 1.05), torch.logspace(-1, 0, 9)])
    values[1:] *= (1 - values[0] ** 2).sqrt() / values[1:].norm()  # Frobenius norm 1
    found = torch.linalg.svdvals(newton_schulz(matrix_with(values, 40), steps))
    assert found.min() > 0.675
    assert found.max() < 1.21


def test_orthogonalisation_takes_three_steps_unless_told():
    matrix = torch.randn(6, 30)
    assert torch.equal(newton_schulz(matrix), newton_schulz(matrix, 3))


def test_orthogonalisation_keeps_the_singular_vectors():
    torch.manual_seed(0)
    matrix = torch.randn(6, 30)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    rotated = left.T @ newton_schulz(matrix) @ right.T
    assert torch.allclose(rotated, torch.diag(rotated.diag()), atol=1e-4)
    assert torch.allclose(newton_schulz(matrix.T), newton_schulz(matrix).T, atol=1e-5)
    assert not newton_schulz(torch.zeros(3, 4)).any()


def test_a_muon_step_is_orthogonalised_nesterov_momentum_from_filters_of_fixed_norm():
    torch.manual_seed(0)
    filters = nn.Parameter(torch.randn(4, 2, 3, 3))
    optimizer = Muon([filters], lr=0.1, momentum=0.6)
    momentum = torch.zeros_like(filters)
    for _ in range(3):
        before, gradient = filters.detach().clone(), torch.randn_like(filters)
        filters.grad = gradient
        optimizer.step()
        momentum = 0.6 * momentum + gradient
        scaled = before * (2 / before.norm())  # sqrt(4 filters)
        update = newton_schulz((gradient + 0.6 * momentum).reshape(4, -1)).view_as(filters)
        assert torch.allclose(filters, scaled - 0.1 * update, atol=1e-5)


def test_muon_leaves_filters_without_a_gradient_and_refuses_closures():
    filters = nn.Parameter(torch.ones(1, 1, 3, 3))
    optimizer = Muon([filters], lr=0.1, momentum=0.6)
    optimizer.step()
    assert torch.equal(filters, torch.ones(1, 1, 3, 3))
    with pytest.raises(NotImplementedError):
        optimizer.step(lambda: 0.0)


def test_every_parameter_has_one_optimizer_and_only_matrices_decay():
    network = DRHN(tiny_config())
    config = Stage(muon_lr=0.3, lr=0.5, weight_decay=0.001)
    muon, rest = make_optimizers(network, config)
    by_muon = {id(p) for p in muon.param_groups[0]["params"]}
    assert by_muon == {id(p) for name, p in network.named_parameters() if name.startswith("groups") and "conv" in name}
    decayed, plain = ({id(p) for p in group["params"]} for group in rest.param_groups)
    assert decayed == {id(p) for p in (network.stem_conv.weight, network.hash.weight, network.classify.weight)}
    assert len(by_muon) + len(decayed) + len(plain) == len(list(network.parameters()))
    assert [group["weight_decay"] for group in rest.param_groups] == [0.001 / 0.5, 0.0]

    set_learning_rates([muon, rest], 0.5, config)
    assert muon.param_groups[0]["lr"] == 0.15
    assert [group["lr"] for group in rest.param_groups] == [0.25, 0.25]


def test_the_rate_rises_to_its_peak_and_falls_to_nearly_nothing():
    rates = [lr_schedule(step, 100, Stage(warmup=0.1)) for step in range(100)]
    assert rates[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert rates[10:] == pytest.approx([(100 - step) / 90 for step in range(10, 100)])


def test_the_rate_stays_at_its_peak_where_weights_are_averaged():
    rates = [lr_schedule(step, 100, Stage(warmup=0.1, swa=0.5)) for step in range(100)]
    assert rates[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert rates[10:] == [1] * 90


@pytest.mark.parametrize(
    ("average", "n_steps", "n_averaged"), [(0.4, 12, 4), (0.5, 12, 6), (0.75, 600, 450), (0.001, 12, 1), (0.5, 1, 1)]
)
def test_the_last_share_of_the_steps_is_averaged_and_at_least_the_last(average, n_steps, n_averaged):
    averaged = [in_swa(step, n_steps, Stage(swa=average)) for step in range(n_steps)]
    assert averaged == [False] * (n_steps - n_averaged) + [True] * n_averaged


@pytest.mark.parametrize(("n_steps", "warm_up"), [(1, 0.0), (1, 0.9), (2, 0.1), (7, 0.99), (1000, 0.0)])
def test_the_rate_is_always_a_share(n_steps, warm_up):
    rates = [lr_schedule(step, n_steps, Stage(warmup=warm_up)) for step in range(n_steps)]
    assert all(0 < rate <= 1 for rate in rates)
    assert max(rates) > 0.5


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 4 * 4, 2))
    functional.cross_entropy(network(torch.randn(8, 3, 6, 6)), torch.arange(8) % 2).backward()
    return network


def state_of(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_each_layer_moves_by_its_share_up_its_gradient_and_back(network):
    before = state_of(network)
    with perturbed(network, 0.05):
        inside = state_of(network)
    for name in ("0.weight", "3.weight"):
        moved = inside[name] - before[name]
        assert moved.norm().item() == pytest.approx(0.05 * before[name].norm().item(), rel=1e-3)
        gradient = network.get_parameter(name).grad
        assert functional.cosine_similarity(moved.flatten(), gradient.flatten(), dim=0).item() == pytest.approx(1)
    for name in ("1.weight", "1.bias", "3.bias"):
        assert torch.equal(inside[name], before[name])
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_statistics_stay_those_of_the_weights_where_they_were(network):
    before = state_of(network)
    with perturbed(network, 0.05):
        network(torch.randn(8, 3, 6, 6))
    assert torch.equal(network.state_dict()["1.running_mean"], before["1.running_mean"])
    assert torch.equal(network.state_dict()["1.running_var"], before["1.running_var"])
    network(torch.randn(8, 3, 6, 6))
    assert not torch.equal(network.state_dict()["1.running_mean"], before["1.running_mean"])


def test_an_error_leaves_the_weights_where_they_were(network):
    before = state_of(network)
    with pytest.raises(KeyError), perturbed(network, 0.05):
        raise KeyError
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
    assert network[1].momentum == 0.1


@pytest.mark.parametrize(("n_images", "sizes"), [(1, [1]), (187, [187]), (251, [125, 126]), (500, [125] * 4)])
def test_each_part_of_a_batch_goes_uphill_by_itself(n_images, sizes):
    torch.manual_seed(0)
    network, parts = nn.Linear(5, 3), []
    images, labels = torch.randn(n_images, 5), torch.randint(0, 3, (n_images,))
    before = state_of(network)

    def descend(part):
        parts.append(range(n_images)[part])
        network.zero_grad()
        scores = network(images[part])
        loss = functional.cross_entropy(scores, labels[part])
        loss.backward()
        return loss.detach(), scores.detach()

    loss, scores = sam_gradients(network, Stage(sam_rho=0.5), n_images, descend)
    gradient = network.weight.grad.clone()
    assert torch.equal(network.weight, before["weight"])
    assert torch.allclose(scores, network(images))
    assert loss.item() == pytest.approx(functional.cross_entropy(network(images), labels).item(), rel=1e-5)
    flat, uphill = parts[::2], parts[1::2]
    assert flat == uphill
    assert [len(part) for part in flat] == sizes
    assert [image for part in flat for image in part] == list(range(n_images))

    expected = torch.zeros_like(gradient)
    for part in flat:
        descend(slice(part.start, part.stop))
        with perturbed(network, 0.5):
            descend(slice(part.start, part.stop))
        expected += network.weight.grad * len(part) / n_images
    assert torch.allclose(gradient, expected, atol=1e-6)
    descend(slice(None))
    assert not torch.allclose(gradient, network.weight.grad, atol=1e-3)


def test_gradients_of_a_step_are_those_uphill(monkeypatch):
    images, places = drawn(12), []

    def loss(network, *rest, taken=trainer.total_loss, **settings):
        places.append(network.hash.weight.detach().numpy().copy())
        return taken(network, *rest, **settings)

    monkeypatch.setattr(trainer, "total_loss", loss)
    trained = run(images, sam_rho=0.1, epochs=1).arrays
    flat, uphill = places[::2], places[1::2]
    assert len(flat) == len(uphill) == 3
    for one, other in zip(flat, uphill, strict=True):
        assert np.linalg.norm(other - one) == pytest.approx(0.1 * np.linalg.norm(one), rel=1e-3)
    assert not np.array_equal(trained["hash.weight"], run(images, epochs=1).arrays["hash.weight"])


def test_such_a_run_resumes_and_knows_what_it_has_not_seen(tmp_path):
    images, unseen, settings = drawn(24), drawn(15, seed=5), {"sam_rho": 0.02, "swa": 0.5, "epochs": 8}
    path = tmp_path / "checkpoint"
    whole = run(images, validation=unseen, **settings)
    assert whole.history[-1].validation_accuracy > 0.85  # chance is 0.25
    interrupted_run(images, path, done=5, validation=unseen, **settings)
    assert_same_arrays(run(images, validation=unseen, checkpoint_path=path, **settings).arrays, whole.arrays)
