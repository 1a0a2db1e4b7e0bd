from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from drhn_cli.errors import CheckpointError, ConfigError, DrhnError
from drhn_cli.evaluation import evaluate
from drhn_cli.images.preprocess import Preprocessing
from drhn_cli.network.drhn import build_network, predict_classes, torch_backend
from drhn_cli.network.encoder import encode_views
from drhn_cli.training import trainer as trainer_module
from drhn_cli.training.distributed import World
from drhn_cli.training.stage import Stage
from drhn_cli.training.trainer import EpochReport, Trainer, epoch_generator
from tests.hearing import Hearing
from tests.networks import drawn, random_model, recipe_of, tiny_config

EPOCHS = 4
NETWORK = tiny_config(nested=(8,))


@pytest.fixture(scope="module")
def images():
    return drawn(12)


def make_trainer(images, *, network=NETWORK, **others):
    names = ("validation", "checkpoint_path", "progress", "world")
    arguments = {name: others.pop(name) for name in names if name in others}
    seed = others.pop("seed", 0)
    stage = Stage(**{"epochs": EPOCHS, "batch_size": 16, "translate": 1, "cutout": 2, **others})
    return Trainer(
        images,
        recipe_of(network, stage, seed=seed, n_images=len(images.labels)),
        device=torch.device("cpu"),
        **arguments,
    )


def run(images, *, on_start=lambda _: None, on_epoch=lambda _: None, **settings):
    trainer = make_trainer(images, **settings)
    trainer.resume()
    on_start(tuple(trainer.history))
    for _ in trainer.epochs():
        on_epoch(tuple(trainer.history))
    return SimpleNamespace(
        arrays=trainer.model().arrays,
        history=trainer.history,
        seconds=trainer.seconds,
        cpu_seconds=trainer.cpu_seconds,
    )


@pytest.fixture(scope="module")
def whole_run(images):
    return run(images)


def assert_same_arrays(found, expected):
    assert list(found) == list(expected)
    assert all(np.array_equal(found[name], array) for name, array in expected.items())


def test_arrays_are_those_of_the_weights_file(whole_run):
    assert {name: array.shape for name, array in whole_run.arrays.items()} == NETWORK.array_shapes()
    halves = {name for name, array in whole_run.arrays.items() if array.dtype == np.float16}
    assert halves == {name for name in whole_run.arrays if name.endswith("conv.weight")} | {"stem_conv.weight"}


def test_a_seed_gives_the_same_network_every_time(images, whole_run):
    torch.manual_seed(12345)  # of no consequence
    assert_same_arrays(run(images).arrays, whole_run.arrays)


def test_another_seed_gives_another_network(images, whole_run):
    other = run(images, seed=1).arrays
    assert not np.array_equal(other["hash.weight"], whole_run.arrays["hash.weight"])


def interrupted_run(images, path, *, done, **settings):
    """A run that Ctrl-C stops after so many epochs."""

    def stop(reports):
        if len(reports) == done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(images, checkpoint_path=path, on_epoch=stop, **settings)


@pytest.mark.parametrize("done", range(1, EPOCHS + 1))
def test_a_run_stopped_after_any_epoch_ends_with_the_same_network(images, whole_run, tmp_path, done):
    path = tmp_path / "checkpoint"
    interrupted_run(images, path, done=done)
    starts, epochs = [], []
    resumed = run(
        images,
        checkpoint_path=path,
        on_start=lambda done: starts.append(len(done)),
        on_epoch=lambda r: epochs.append([e.epoch for e in r]),
    )
    assert starts == [done]
    assert epochs == [list(range(1, last + 1)) for last in range(done + 1, EPOCHS + 1)]
    assert_same_arrays(resumed.arrays, whole_run.arrays)
    assert [r.loss for r in resumed.history] == [r.loss for r in whole_run.history]
    assert [r.epoch for r in resumed.history] == list(range(1, EPOCHS + 1))


def test_a_run_stopped_within_an_epoch_loses_only_that_epoch(images, whole_run, tmp_path):
    path, starts = tmp_path / "checkpoint", []

    def stop(_):
        if len(told.steps) == 2 * 3 + 2:
            raise KeyboardInterrupt

    told = Hearing(advance={"training": stop})
    with pytest.raises(KeyboardInterrupt):
        run(images, checkpoint_path=path, progress=told)
    assert told.phases == [("training", 3)] * 3
    assert told.steps_of("training") == [1, 2, 3, 1, 2, 3, 1, 2]
    resumed = run(images, checkpoint_path=path, on_start=lambda done: starts.append(len(done)))
    assert starts == [2]
    assert_same_arrays(resumed.arrays, whole_run.arrays)
    assert resumed.seconds >= resumed.history[-1].seconds > resumed.history[1].seconds


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"seed": 1}, "other settings"),
        ({"epochs": EPOCHS + 1}, "other settings"),
        ({"network": tiny_config(nested=(4,))}, "another network"),
        ({"images": drawn(12, seed=1)}, "other pictures"),
    ],
    ids=["seed", "epochs", "network", "images"],
)
def test_a_checkpoint_of_another_run_is_refused(images, tmp_path, change, difference):
    path = tmp_path / "checkpoint"
    run(images, checkpoint_path=path)
    with pytest.raises(CheckpointError, match=f"a run with {difference}"):
        run(**{"images": images, "checkpoint_path": path, **change})


def test_a_checkpoint_of_another_number_of_processes_is_refused(images, tmp_path):
    path = tmp_path / "checkpoint"
    run(images, checkpoint_path=path)
    two = make_trainer(images, checkpoint_path=path, world=World(size=2))
    with pytest.raises(CheckpointError, match=r"another number of processes .expected 2, found 1."):
        two.resume()


def test_the_mean_of_the_last_weights_is_what_an_averaged_run_comes_to(images):
    seen, rates = [], []

    def look(*_):
        seen.append({name: value.detach().numpy().copy() for name, value in trainer.network.named_parameters()})
        rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer = make_trainer(images, swa=0.4, progress=Hearing(advance={"training": look}), muon_lr=0.25)
    assert len(list(trainer.epochs())) == EPOCHS
    arrays = trainer.model().arrays
    assert len(seen) == len(rates) == 12
    assert rates[-1] == rates[1] == 0.25
    last = seen[8:]  # 0.6 of 12 is 7.2
    for name in ("hash.weight", "classify.weight", "stem_norm.weight"):
        assert arrays[name] == pytest.approx(np.mean([one[name] for one in last], axis=0), abs=1e-6)
        assert not np.allclose(arrays[name], last[-1][name], atol=1e-6)


def test_validation_is_of_the_averaged_weights_as_soon_as_there_are_some(images, monkeypatch):
    measured = []

    def spy(network, *rest, **settings):
        measured.append({name: value.detach().numpy().copy() for name, value in network.state_dict().items()})
        return torch_backend(network, *rest, **settings)

    monkeypatch.setattr(trainer_module, "torch_backend", spy)
    trainer = make_trainer(images, swa=0.5, validation=drawn(2, seed=5))
    current = [trainer.network.hash.weight.detach().numpy().copy() for _ in trainer.epochs()]
    is_current = [np.array_equal(one["hash.weight"], own) for one, own in zip(measured, current, strict=True)]
    assert is_current == [True, True, False, False]  # the mean begins in the third epoch of four
    arrays = trainer.model().arrays
    for name in ("hash.weight", "stem_norm.running_mean", "groups.1.0.norm.running_var"):
        np.testing.assert_array_equal(measured[-1][name], arrays[name])
    assert_same_arrays(arrays, run(images, swa=0.5).arrays)


def test_an_averaged_run_resumes_too(images, tmp_path):
    path = tmp_path / "checkpoint"
    whole = run(images, swa=0.6)
    interrupted_run(images, path, done=3, swa=0.6)
    assert_same_arrays(run(images, swa=0.6, checkpoint_path=path).arrays, whole.arrays)


def test_an_averaged_network_knows_what_it_has_not_seen():
    images, unseen = drawn(24), drawn(15, seed=5)
    trained = run(images, epochs=8, swa=0.5)
    network = build_network(replace(random_model(NETWORK), arrays=trained.arrays), torch.device("cpu"))
    activations = encode_views(torch_backend(network, Preprocessing(size=16)), unseen.pixels)
    assert (predict_classes(network, activations, 16) == unseen.labels).mean() > 0.85  # chance is 0.25


def test_a_run_with_validation_resumes_too(images, tmp_path):
    path = tmp_path / "checkpoint"
    first = run(images, validation=drawn(2, seed=5), checkpoint_path=path)
    again = run(images, validation=drawn(2, seed=5), checkpoint_path=path)
    assert again.history == first.history
    assert_same_arrays(again.arrays, first.arrays)


def test_a_tiny_network_learns_what_it_has_not_seen():
    trained = run(drawn(24), validation=drawn(15, seed=5), epochs=8)
    last = trained.history[-1]
    assert last.validation_accuracy > 0.85  # chance is 0.25
    assert last.validation_mean_average_precision > 0.85
    assert last.training_accuracy > 0.8
    assert last.loss < trained.history[0].loss


def test_validation_changes_nothing_but_the_reports(images, whole_run):
    validated = run(images, validation=drawn(3, seed=5))
    assert_same_arrays(validated.arrays, whole_run.arrays)
    assert all(isinstance(report.validation_accuracy, float) for report in validated.history)
    assert all(report.validation_accuracy is None for report in whole_run.history)


def test_validation_is_looked_up_in_a_part_of_the_training_images(images, monkeypatch):
    monkeypatch.setattr(trainer_module, "GALLERY_LIMIT", 10)
    sizes = []

    def spy(backend, pixels):
        sizes.append(len(pixels))
        return encode_views(backend, pixels)

    monkeypatch.setattr(evaluate, "encode_views", spy)
    run(images, validation=drawn(3, seed=5), epochs=1)
    assert sizes == [12, 10]


def test_bfloat16_trains_on_the_cpu(images, whole_run):
    trained = run(images, dtype="bfloat16", validation=drawn(3, seed=5), epochs=6)
    assert all(np.isfinite(array).all() for array in trained.arrays.values())
    assert trained.history[-1].loss < trained.history[0].loss
    assert not np.array_equal(trained.arrays["hash.weight"], whole_run.arrays["hash.weight"])


@pytest.mark.parametrize("network", [NETWORK, tiny_config(hash_norm=False, downsample="stride", blocks=2)])
def test_every_array_is_trained(images, network):
    before = run(images, network=network, epochs=1).arrays
    after = run(images, network=network, epochs=2).arrays
    assert all(not np.array_equal(before[name], after[name]) for name in after)


def test_a_loss_that_is_no_number_is_an_error_and_leaves_no_checkpoint(images, tmp_path):
    path = tmp_path / "checkpoint"
    with pytest.raises(DrhnError, match=r"no longer a number in epoch 1; lower stage.lr and stage.muon_lr"):
        run(images, checkpoint_path=path, lr=1e38)
    assert not path.exists()


def test_every_epoch_takes_each_image_once_in_an_order_of_its_own(images, monkeypatch):
    seen = []
    augment = trainer_module.augment

    def spy(batch, indices, epoch, *args):
        seen.append((epoch, indices.tolist()))
        return augment(batch, indices, epoch, *args)

    monkeypatch.setattr(trainer_module, "augment", spy)
    run(images, epochs=2)
    first, second = ([i for epoch, indices in seen if epoch == wanted for i in indices] for wanted in (0, 1))
    assert sorted(first) == sorted(second) == list(range(48))
    assert first != second


def test_fewer_images_than_a_batch_are_one_batch():
    told = Hearing()
    run(drawn(2), batch_size=500, epochs=2, progress=told)
    assert told.phases == [("training", 1)] * 2
    assert told.steps_of("training") == [1, 1]


def test_what_cannot_be_trained_is_refused(images):
    one = replace(images, pixels=images.pixels[:1], labels=images.labels[:1])
    with pytest.raises(DrhnError, match=r"too few training images .expected 2 or more, found 1"):
        run(one)
    with pytest.raises(ConfigError, match=r"translate is out of range .expected below 16 pixels, found 16"):
        run(images, translate=16)
    with pytest.raises(ConfigError, match=r"cutout is out of range .expected below 16 pixels, found 16"):
        run(images, cutout=16)


def test_the_checkpoint_is_written_before_the_epoch_is_told(images, tmp_path):
    trainer = make_trainer(images, epochs=2, checkpoint_path=tmp_path / "checkpoint")
    saved = []
    for _ in trainer.epochs():
        again = make_trainer(images, epochs=2, checkpoint_path=tmp_path / "checkpoint")
        again.resume()
        saved.append((len(again.history), len(trainer.history)))
    assert saved == [(1, 1), (2, 2)]


def test_reports_are_of_every_epoch(whole_run):
    assert [report.epoch for report in whole_run.history] == list(range(1, EPOCHS + 1))
    assert all(isinstance(report, EpochReport) and 0 <= report.training_accuracy <= 1 for report in whole_run.history)
    seconds = [report.seconds for report in whole_run.history]
    assert seconds == sorted(seconds)
    assert whole_run.seconds >= seconds[-1] > 0
    assert whole_run.cpu_seconds > 0


def test_every_seed_and_epoch_draws_another_order():
    drawn = [(seed, epoch) for seed in (0, 1, 4096, 2**31, 2**32 - 1) for epoch in (0, 1, 4096)]
    orders = {tuple(torch.randperm(50, generator=epoch_generator(*pair)).tolist()) for pair in drawn}
    assert len(orders) == len(drawn)
    assert torch.equal(
        torch.randperm(50, generator=epoch_generator(7, 3)), torch.randperm(50, generator=epoch_generator(7, 3))
    )
