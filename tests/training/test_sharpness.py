import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from drhn_cli.training import trainer as train
from drhn_cli.training.sharpness import descend_from_uphill, moved_uphill
from tests.networks import drawn
from tests.training.test_trainer import assert_same_arrays, interrupted_run, run


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
    with moved_uphill(network, 0.05):
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
    with moved_uphill(network, 0.05):
        network(torch.randn(8, 3, 6, 6))
    assert torch.equal(network.state_dict()["1.running_mean"], before["1.running_mean"])
    assert torch.equal(network.state_dict()["1.running_var"], before["1.running_var"])
    network(torch.randn(8, 3, 6, 6))
    assert not torch.equal(network.state_dict()["1.running_mean"], before["1.running_mean"])


def test_an_error_leaves_the_weights_where_they_were(network):
    before = state_of(network)
    with pytest.raises(KeyError), moved_uphill(network, 0.05):
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

    loss, scores = descend_from_uphill(network, 0.5, n_images, descend)
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
        with moved_uphill(network, 0.5):
            descend(slice(part.start, part.stop))
        expected += network.weight.grad * len(part) / n_images
    assert torch.allclose(gradient, expected, atol=1e-6)
    descend(slice(None))
    assert not torch.allclose(gradient, network.weight.grad, atol=1e-3)


def test_gradients_of_a_step_are_those_uphill(monkeypatch):
    images, places = drawn(12), []

    def loss(network, *rest, taken=train.training_loss, **settings):
        places.append(network.hash.weight.detach().numpy().copy())
        return taken(network, *rest, **settings)

    monkeypatch.setattr(train, "training_loss", loss)
    trained = run(images, sharpness=0.1, epochs=1).arrays
    flat, uphill = places[::2], places[1::2]
    assert len(flat) == len(uphill) == 3
    for one, other in zip(flat, uphill, strict=True):
        assert np.linalg.norm(other - one) == pytest.approx(0.1 * np.linalg.norm(one), rel=1e-3)
    assert not np.array_equal(trained["hash.weight"], run(images, epochs=1).arrays["hash.weight"])


def test_such_a_run_resumes_and_knows_what_it_has_not_seen(tmp_path):
    images, unseen, settings = drawn(24), drawn(15, seed=5), {"sharpness": 0.02, "average": 0.5, "epochs": 8}
    path = tmp_path / "checkpoint"
    whole = run(images, validation=unseen, **settings)
    assert whole.history[-1].validation_accuracy > 0.85  # chance is 0.25
    interrupted_run(images, path, done=5, validation=unseen, **settings)
    assert_same_arrays(run(images, validation=unseen, checkpoint_path=path, **settings).arrays, whole.arrays)
