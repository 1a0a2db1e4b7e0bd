import json
from dataclasses import FrozenInstanceError

import pytest

from drhn_cli.errors import ConfigError
from drhn_cli.images.preprocess import Preprocessing
from drhn_cli.network.config import Layer, NetworkConfig
from drhn_cli.training.recipe import load_recipe
from drhn_cli.training.stage import Stage
from tests.networks import lite_config

NAN = float("nan")


@pytest.mark.parametrize(
    "settings",
    [
        Preprocessing(size=64, fit="pad", mean=(0.1, 0.2, 0.3), std=(0.1, 0.2, 0.3)),
        NetworkConfig(n_classes=3, nested=(8, 16), downsample="stride", widths=(1, 2, 3, 4, 5, 6)),
        NetworkConfig(n_classes=3, trunk="efficientnet-lite1", input_size=33, unit_features=True),
        Stage(epochs=3, dtype="bfloat16", flip=False),
    ],
)
def test_settings_survive_json(settings):
    assert type(settings).from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_settings_are_frozen_and_keyword_only():
    with pytest.raises(FrozenInstanceError):
        Preprocessing().size = 64
    with pytest.raises(TypeError):
        NetworkConfig(10)


def test_the_paper_recipe_is_the_paper():
    paper = load_recipe("paper").network
    assert (paper.blocks, paper.bits, paper.threshold) == (15, 48, 0.5)
    assert paper.widths == (16, 16, 32, 32, 64, 64)
    assert not paper.hash_norm
    assert not paper.nested


def test_code_lengths_end_with_the_whole_code():
    assert NetworkConfig(n_classes=2, bits=48, nested=(12, 24)).code_lengths == (12, 24, 48)
    assert NetworkConfig(n_classes=2, bits=32).code_lengths == (32,)


@pytest.mark.parametrize(
    ("kind", "setting", "values"),
    [
        (Preprocessing, "size", (7, 1025, 32.0, "32")),
        (Preprocessing, "fit", ("stretch", "", None)),
        (Preprocessing, "mean", ((0.5, 0.5), (0.5, 0.5, 1.1), (-0.1, 0.5, 0.5), (NAN, 0.5, 0.5))),
        (Preprocessing, "shrink_gap", (-1, 65, 3.0, "3")),
        (Preprocessing, "rendering", (0, 3, 2.0, True, "2")),
        (Preprocessing, "std", ((0.5, 0.5), (0.0, 0.5, 0.5), (0.5, 0.5, NAN))),
        (NetworkConfig, "n_classes", (1, 0, -1, 2.0)),
        (NetworkConfig, "blocks", (0, 201, 1.5)),
        (NetworkConfig, "bits", (0, 4097, 48.0)),
        (NetworkConfig, "threshold", (0, 1, -0.5, NAN)),
        (NetworkConfig, "widths", ((16,) * 5, (16,) * 7, (16, 16, 32, 32, 64, 63), (0,) * 6, (8.0,) * 6)),
        (NetworkConfig, "downsample_at", ((0,), (7,))),
        (NetworkConfig, "downsample", ("mean", None)),
        (NetworkConfig, "input_size", (33, 0, 4, 32.0)),
        (NetworkConfig, "stem_stride", (0, 3)),
        (NetworkConfig, "trunk", ("efficientnet-lite3", "resnet", None)),
        (NetworkConfig, "unit_features", (1, "yes")),
        (NetworkConfig, "nested", ((48,), (0,), (16, 8), (8, 8), (7.5,))),
        (Stage, "epochs", (0, 1.5)),
        (Stage, "batch_size", (1, 2.5)),
        (Stage, "seed", (-1, 2**32, 0.5)),
        (Stage, "muon_lr", (0, -1, NAN)),
        (Stage, "lr", (0, -1, NAN)),
        (Stage, "momentum", (-0.1, 1, NAN)),
        (Stage, "warmup", (-0.1, 1)),
        (Stage, "swa", (-0.1, 1)),
        (Stage, "sam_rho", (-0.1, 1, NAN)),
        (Stage, "label_smoothing", (-0.1, 1)),
        (Stage, "weight_decay", (-0.1, NAN)),
        (Stage, "quantization", (-0.1,)),
        (Stage, "prefix_similarity", (-0.1,)),
        (Stage, "translate", (-1, 1.5)),
        (Stage, "cutout", (-1, 1.5)),
        (Stage, "random_resized_crop", (0.0, 1.1, -1.0, NAN)),
        (Stage, "color_jitter", (-0.1, 1.0, NAN)),
        (Stage, "dtype", ("float16", None)),
    ],
)
def test_a_value_out_of_its_range_is_refused_by_name(kind, setting, values):
    valid = {"n_classes": 10} if kind is NetworkConfig else {}
    for value in values:
        with pytest.raises(ConfigError, match=r"out of range \(expected .*, found ") as refused:
            kind(**{**valid, setting: value})
        assert repr(value) in str(refused.value)


def test_an_unknown_setting_is_told_as_of_a_newer_version():
    with pytest.raises(ConfigError, match=r"unknown setting 'attention' in NetworkConfig; update drhn"):
        NetworkConfig.from_dict({"n_classes": 10, "attention": True})


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown setting 'treshold' in NetworkConfig; did you mean 'threshold'\?"):
        NetworkConfig.from_dict({"n_classes": 10, "treshold": 0.5})


@pytest.mark.parametrize("values", [{}, {"n_classes": 10, "threshold": "high"}, {"n_classes": 10, "nested": [[1]]}, []])
def test_settings_that_are_missing_or_of_another_type_are_refused(values):
    with pytest.raises(ConfigError):
        NetworkConfig.from_dict(values)


def test_one_view_is_not_named_as_fingerprints_were_made_without_it():
    assert "views" not in Preprocessing().to_dict()
    assert Preprocessing(views=2).to_dict()["views"] == 2


def test_the_first_rules_of_rendering_are_not_named_as_fingerprints_were_made_without_them():
    assert "rendering" not in Preprocessing().to_dict()
    newer = Preprocessing(rendering=2)
    assert newer.to_dict()["rendering"] == 2
    assert Preprocessing.from_dict(newer.to_dict()) == newer


def test_settings_that_came_later_are_their_defaults_where_a_file_lacks_them():
    older = {name: value for name, value in Preprocessing(views=2).to_dict().items() if name != "shrink_gap"}
    assert Preprocessing.from_dict(older) == Preprocessing(views=2, shrink_gap=4)
    assert Stage.from_dict({"epochs": 3}) == Stage(epochs=3)


def test_settings_that_came_later_are_not_named_as_fingerprints_were_made_without_them():
    later = {"trunk", "unit_features", "classify_bits"}
    assert not later & NetworkConfig(n_classes=2).to_dict().keys()
    assert lite_config(unit_features=True, classify_bits=True).to_dict().keys() >= later


def test_settings_of_the_residual_trunk_are_refused_with_another():
    values = {"blocks": 3, "widths": (8,) * 6, "downsample_at": (), "downsample": "stride", "stem_stride": 2}
    assert not values.keys() & lite_config().to_dict().keys()
    for name, value in values.items():
        with pytest.raises(ConfigError, match=rf"{name} is out of range .*efficientnet-lite0 does not have it"):
            lite_config(**{name: value})
    with pytest.raises(ConfigError, match=r"input size is out of range \(expected 32 or more"):
        lite_config(input_size=31)


@pytest.mark.parametrize(("kind", "millions"), [(0, 384), (1, 501), (2, 575)])
def test_efficientnet_lite_has_the_multiply_adds_of_its_authors(kind, millions):
    assert round(lite_config(kind, input_size=224).multiply_adds() / 1e6) == millions


def test_efficientnet_lite_is_made_of_inverted_bottlenecks():
    layers = lite_config(2, input_size=224).layers()
    channels = [32, 16, *[24] * 3, *[48] * 3, *[88] * 4, *[120] * 4, *[208] * 5, 352, 1280]
    # Stem, projections and head: what lies between is six times as wide.
    narrow = [layer for layer in layers if "expand" not in layer.conv and "depthwise" not in layer.conv]
    assert [layer.out_channels for layer in narrow] == channels
    assert len(layers) == 2 + 2 + 3 * 20  # the first block has no expansion
    depthwise = [layer for layer in layers if layer.groups > 1]
    assert all(layer.groups == layer.in_channels == layer.out_channels for layer in depthwise)
    assert [layer.kernel for layer in depthwise] == [3] * 4 + [5] * 3 + [3] * 4 + [5] * 9 + [3]
    assert [layer.out_side for layer in depthwise] == [112] + [56] * 3 + [28] * 3 + [14] * 8 + [7] * 6
    first_of_stages = {0, 1, 4, 7, 11, 15, 20}
    adding = {int(layer.conv.split(".")[1]) for layer in layers if layer.closes_block}
    assert adding == set(range(21)) - first_of_stages


@pytest.mark.parametrize("side", [32, 33, 64, 65, 224])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_same_padding_is_that_of_tensorflow(side, stride, kernel):
    sizes = {"in_channels": 1, "out_channels": 1, "in_side": side, "kernel": kernel, "stride": stride}
    layer = Layer(conv="", norm="", same_padding=True, **sizes)
    before, after = layer.padding
    # https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2
    assert before + after == max(kernel - (stride if side % stride == 0 else side % stride), 0)
    assert after - before in (0, 1)
    assert (side + before + after - kernel) // stride + 1 == layer.out_side
