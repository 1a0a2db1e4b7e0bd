from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from drhn_cli.errors import ConfigError, DrhnError, SourceError
from drhn_cli.images.load import load_image
from drhn_cli.images.preprocess import Preprocessing
from drhn_cli.network.config import NetworkConfig
from drhn_cli.network.encoder import Encoder
from drhn_cli.network.model import load_model
from drhn_cli.network.pretrained import N_CLASSES, PretrainedTrunk
from drhn_cli.training import fit, recipe, train
from drhn_cli.training.distributed import World
from drhn_cli.training.recipe import load_recipe
from drhn_cli.training.train import TrainOptions, train_model
from tests.drawing import write_class_folders
from tests.hearing import Hearing
from tests.networks import random_model

NAME = "efficientnet-lite0"


@pytest.fixture(scope="module")
def trunk():
    """A trunk of random weights, and a class layer that is not trained either."""
    config = NetworkConfig(n_classes=N_CLASSES, trunk=NAME, input_size=32)
    arrays = random_model(config, gain=2.5).arrays
    rng = np.random.default_rng(0)
    return PretrainedTrunk(
        name=NAME,
        config=config,
        preprocessing=Preprocessing(size=32, fit="squash"),
        arrays={
            name: array.astype(np.float32) for name, array in arrays.items() if name.startswith(("stem", "b", "head"))
        },
        class_weight=rng.normal(0, 1, (N_CLASSES, config.n_features)).astype(np.float32),
        class_bias=np.zeros(N_CLASSES, np.float32),
        class_names=tuple(f"class {number}" for number in range(N_CLASSES)),
    )


@pytest.fixture
def options(trunk, tmp_path, monkeypatch):
    """What a run of the recipe with this trunk needs, at a reduced length."""
    for module in (fit, recipe):
        monkeypatch.setattr(module, "load_pretrained_trunk", lambda _: trunk)
    write_class_folders(tmp_path / "pictures", n=10, size=40)
    changes = [("from", NAME), ("network.bits", 16), ("network.nested", [8])]
    return TrainOptions(
        data=str(tmp_path / "pictures"),
        weights_path=tmp_path / "w.npz",
        recipe=load_recipe("photos2", changes),
        device="cpu",
        workers=1,
        command=("drhn", "train"),
    )


def test_layers_are_fitted_to_pictures_without_labels(options, tmp_path):
    (tmp_path / "pictures" / "circle" / "0000.png").write_bytes(b"no picture")
    told = Hearing()
    model, evaluations = train_model(options, told)
    assert (evaluations, told.notes) == ([], ["fitted to 39 pictures"])
    assert len(told.failures) == 1
    found = load_model(tmp_path / "w.npz")
    assert found.manifest() == model.manifest()
    assert (found.config.trunk, found.config.bits, found.config.nested) == (NAME, 16, (8,))
    assert (found.config.unit_features, found.config.classify_bits, len(found.class_names)) == (True, True, N_CLASSES)
    (run,) = found.training
    assert run["recipe"]["stage"] == [{"kind": "itq", "labels": False}]
    assert run["recipe"]["from"]["name"] == NAME
    assert run.items() >= {"n_images": 39, "command": ["drhn", "train"]}.items()


def test_codes_tell_pictures_apart_and_recall_the_classes_of_the_trunk(options, trunk, tmp_path):
    model, _ = train_model(options)
    paths = sorted((tmp_path / "pictures").rglob("*.png"))
    pixels = np.stack([load_image(str(path), model.preprocessing) for path in paths])
    bits = Encoder(model, device="cpu").activations(pixels) > 0.5
    assert len(np.unique(bits, axis=0)) > 20
    assert 0.2 < bits.mean() < 0.8
    start = replace(model, config=replace(model.config, unit_features=False))
    pooled = Encoder(start, device="cpu").features(pixels)
    logits = pooled @ trunk.class_weight.T
    recalled = (2.0 * bits - 1) @ model.arrays["classify.weight"].T + model.arrays["classify.bias"]
    centered = [values - values.mean(axis=0) for values in (logits, recalled)]
    assert np.corrcoef(*(values.ravel() for values in centered))[0, 1] > 0.3  # 16 bits


def test_a_seed_gives_the_same_layers_every_time(options, tmp_path):
    first, _ = train_model(options)
    (tmp_path / "w.npz").unlink()
    assert train_model(options)[0].arrays_sha256 == first.arrays_sha256


def test_more_pictures_than_needed_are_drawn(options, monkeypatch):
    monkeypatch.setattr(fit, "_MOST_PICTURES", 30)
    told = Hearing()
    train_model(options, told)
    assert told.notes == ["fitted to 30 pictures"]


def test_codes_are_fitted_to_own_pictures(options, tmp_path):
    general, _ = train_model(options)
    assert set(general.moments) == {"n", "mean", "deviation", "correlation"}
    write_class_folders(tmp_path / "own", n=4, size=40, seed=5)
    run = {**vars(options), "data": str(tmp_path / "own"), "weights_path": tmp_path / "own.npz"}
    changes = [("from", str(tmp_path / "w.npz")), ("network.bits", 12), ("stage.labels", False)]
    settings = load_recipe(changes=changes)
    assert (settings.name, settings.network.code_lengths) == ("own", (8, 12))
    own, _ = train_model(TrainOptions(**{**run, "recipe": settings}))
    assert own.class_names == general.class_names
    assert own.arrays["hash.weight"].shape == (12, 1280)
    assert not np.allclose(own.arrays["hash.weight"], general.arrays["hash.weight"][:12])
    for name in ("stem_conv.weight", "head_conv.bias", "zero_point", "known_answer"):
        assert np.array_equal(own.arrays[name], general.arrays[name])
    found = load_model(tmp_path / "own.npz")
    assert len(found.training) == 2
    assert all(np.array_equal(found.moments[name], general.moments[name]) for name in general.moments)


def test_the_class_layer_learns_the_names_of_folders(options, tmp_path):
    train_model(options)
    write_class_folders(tmp_path / "own" / "train", n=8, size=40, seed=5)
    settings = load_recipe(changes=[("from", str(tmp_path / "w.npz"))])
    run = {**vars(options), "data": str(tmp_path / "own"), "weights_path": tmp_path / "own.npz", "recipe": settings}
    told = Hearing()
    model, _ = train_model(TrainOptions(**run), told)
    names = ("checker", "circle", "square", "stripes")
    assert told.notes == ["4 classes, named after their folders; --no-labels ignores them", "fitted to 32 pictures"]
    assert (model.class_names, model.config.n_classes) == (names, 4)
    paths = sorted((tmp_path / "own").rglob("*.png"))
    pixels = np.stack([load_image(str(path), model.preprocessing) for path in paths])
    signs = np.where(Encoder(model, device="cpu").activations(pixels) > 0.5, 1, -1)
    predicted = (signs @ model.arrays["classify.weight"].T + model.arrays["classify.bias"]).argmax(axis=1)
    assert np.mean([names[row] == path.parent.name for row, path in zip(predicted, paths, strict=True)]) > 0.6
    without = load_recipe(changes=[("from", str(tmp_path / "w.npz")), ("stage.labels", False)])
    (tmp_path / "own.npz").unlink()
    same, _ = train_model(TrainOptions(**{**run, "recipe": without}))
    assert np.array_equal(same.arrays["hash.weight"], model.arrays["hash.weight"])
    assert same.class_names != names


def test_folders_that_cannot_be_classes_are_refused_with_the_way_out(options, tmp_path):
    settings = load_recipe(changes=[("from", NAME), ("network.bits", 16)])
    (tmp_path / "pictures" / "empty").mkdir()
    with pytest.raises(SourceError, match=r"put pictures into it, or --no-labels takes pictures at any depth"):
        train_model(TrainOptions(**{**vars(options), "recipe": settings}))
    told = Hearing()
    for path in (tmp_path / "pictures").glob("*/*.png"):
        path.rename(tmp_path / "pictures" / f"{path.parent.name}-{path.name}")
    for folder in (tmp_path / "pictures").glob("*/"):
        folder.rmdir()
    train_model(TrainOptions(**{**vars(options), "recipe": settings}), told)
    assert told.notes == ["no class folders, so there are no labels to learn", "fitted to 40 pictures"]


def test_gradient_descent_needs_labels():
    with pytest.raises(ConfigError, match="gradient descent needs labels; fit codes to a pretrained trunk"):
        load_recipe("fast", [("stage.labels", False)])


def test_a_trunk_alone_gets_layers_by_the_same_recipe(options):
    recipe_of_trunk = load_recipe(changes=[("from", NAME), ("network.bits", 16)])
    assert recipe_of_trunk.name == "own"
    model, _ = train_model(TrainOptions(**{**vars(options), "recipe": recipe_of_trunk}))
    assert model.arrays["hash.bias"].any()


def test_what_cannot_be_fitted_is_refused(options, tmp_path, monkeypatch):
    (tmp_path / "none").mkdir()
    (tmp_path / "few").mkdir()
    write_class_folders(tmp_path / "few", n=2, size=40)
    for folder, kind, message in (
        ("none", SourceError, "none: no pictures to fit codes to; name a folder of pictures"),
        ("few", DrhnError, "too few pictures .expected more than 16"),
    ):
        with pytest.raises(kind, match=message):
            train_model(TrainOptions(**{**vars(options), "data": str(tmp_path / folder)}))
    with pytest.raises(
        ConfigError, match=r"codes in closed form need a pretrained trunk .found residual.; give it, and no"
    ):
        train_model(TrainOptions(**{**vars(options), "recipe": load_recipe("fast", [("stage.kind", "itq")])}))
    for change in (
        ("network.threshold", 0.7),
        ("network.hash_norm", True),
        ("network.unit_features", False),
        ("validation", 0.1),
    ):
        with pytest.raises(ConfigError, match="a setting of codes in closed form is out of range"):
            load_recipe("photos2", [("from", NAME), change])
    with pytest.raises(ConfigError, match=r"need a pretrained trunk .found efficientnet-lite1"):
        load_recipe("photos2", [("from", NAME), ("network.trunk", "efficientnet-lite1")])
    monkeypatch.setattr(train, "World", SimpleNamespace(from_environment=lambda: World(size=2)))
    with pytest.raises(ConfigError, match="fitted by one process; run it without torchrun"):
        train_model(options)
    with pytest.raises(ConfigError, match=r"a stage in closed form is the only one .found 4 stages"):
        load_recipe("paper", [("stage.2.kind", "itq")])
    with pytest.raises(ConfigError, match=r"gradient descent trains residual networks .found efficientnet-lite0."):
        load_recipe("fast", [("from", NAME)])
