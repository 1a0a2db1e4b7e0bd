"""The shape of a network: its settings, and the layers that follow from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import product
from math import ceil, prod
from typing import Any, Literal, NamedTuple, get_args

from drhn_cli.settings import Settings, require, setting

Activation = Literal["none", "relu", "relu6"]
Downsample = Literal["stride", "max"]
Trunk = Literal["residual", "efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"]

N_GROUPS = 6
"""Residual groups in the network, fixed by the paper."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution without bias, its batch normalization, its activation, and a shortcut if it closes a block.

    Attributes:
        conv: name of the convolution; its filters are the array ``{conv}.weight``.
        norm: name of the normalization, which has four arrays.
        in_side: side of the input, in pixels.
        kernel: side of the filters.
        groups: ``in_channels`` for a depthwise convolution.
        same_padding: the input is padded as TensorFlow's SAME does it: no more zeros than the output needs, an odd one
            on the right and at the bottom. Else it is padded with ``kernel // 2`` zeros on each side.
        max_pool: 2x2 max pooling follows the convolution.
        norm_first: normalization comes before the activation. In the paper it comes after.
        epsilon: what normalization adds to the variance.
        opens_block: the input of this layer is the shortcut of the block.
        closes_block: the shortcut is added to the output, with zeros for the channels that it lacks.
        shortcut_pool: the shortcut is averaged over squares of this side first; 1: it is not.
    """

    conv: str
    norm: str
    in_channels: int
    out_channels: int
    in_side: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    same_padding: bool = False
    max_pool: bool = False
    activation: Activation = "relu"
    norm_first: bool = False
    epsilon: float = 1e-5
    opens_block: bool = False
    closes_block: bool = False
    shortcut_pool: int = 1

    @property
    def conv_side(self) -> int:
        """Side of what the convolution returns, in pixels."""
        return -(-self.in_side // self.stride)

    @property
    def out_side(self) -> int:
        """Side of the output, in pixels."""
        return self.conv_side // (2 if self.max_pool else 1)

    @property
    def padding(self) -> tuple[int, int]:
        """Rows of zeros above and below the input, and as many columns to its left and right."""
        if not self.same_padding:
            return self.kernel // 2, self.kernel // 2
        n_rows = max(0, (self.conv_side - 1) * self.stride + self.kernel - self.in_side)
        return n_rows // 2, n_rows - n_rows // 2

    @property
    def filter_shape(self) -> tuple[int, int, int, int]:
        """Shape of the filters, as in torch."""
        return self.out_channels, self.in_channels // self.groups, self.kernel, self.kernel


class _LiteStage(NamedTuple):
    """Inverted bottlenecks of one width; the first one has the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_LITE_STAGES = (
    _LiteStage(1, 3, 1, 1, 16),
    _LiteStage(2, 3, 2, 6, 24),
    _LiteStage(2, 5, 2, 6, 40),
    _LiteStage(3, 3, 2, 6, 80),
    _LiteStage(3, 5, 1, 6, 112),
    _LiteStage(4, 5, 2, 6, 192),
    _LiteStage(1, 3, 1, 6, 320),
)
_LITE_STEM, _LITE_HEAD = 32, 1280
_LITE_SCALES = {"efficientnet-lite0": (1.0, 1.0), "efficientnet-lite1": (1.0, 1.1), "efficientnet-lite2": (1.1, 1.2)}
"""Multipliers of width and depth, from ``efficientnet_lite_builder.py`` of https://github.com/tensorflow/tpu."""

_SMALLEST_LITE = 32
"""Side in pixels that the five strides of EfficientNet-Lite halve to one."""

_OF_RESIDUAL = ("blocks", "widths", "downsample_at", "downsample", "stem_stride")
"""Settings that shape the residual trunk alone."""

_ADDED_LATER = ("trunk", "unit_features", "classify_bits")
"""Settings that ``to_dict`` leaves out if they have their defaults: fingerprints were made without them."""


def _are_channels(widths: tuple[Any, ...]) -> bool:
    return len(widths) == N_GROUPS and all(isinstance(w, int) and w >= 1 for w in widths)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(Settings):
    """The shape of a Deep Residual Hashing Network. ``n_classes`` is the number of classes it is trained on.

    The settings ``blocks``, ``widths``, ``downsample_at``, ``downsample`` and ``stem_stride`` shape the residual trunk;
    with another trunk they must have their defaults.
    """

    n_classes: int
    trunk: Trunk = setting(
        "residual",
        "the paper's residual groups, or an EfficientNet-Lite for pretrained weights",
        " or ".join(get_args(Trunk)),
        lambda name: name in get_args(Trunk),
    )
    blocks: int = setting(
        2, "residual blocks in each of the six groups; the paper's n, 15 there", "1..200", lambda n: 1 <= n <= 200
    )
    bits: int = setting(48, "units of the hash layer; the paper's h, 48 there", "1..4096", lambda n: 1 <= n <= 4096)
    threshold: float = setting(
        0.5, "bit i of a code is activation i > threshold; the paper's t", "above 0 and below 1", lambda t: 0 < t < 1
    )
    widths: tuple[int, ...] = setting(
        (64, 64, 128, 128, 256, 256), "channels of each group", f"{N_GROUPS} channel counts of 1 or more", _are_channels
    )
    downsample_at: tuple[int, ...] = setting(
        (1, 3, 5),
        "groups, counted from 1, whose first block halves the resolution",
        f"groups 1..{N_GROUPS}",
        lambda groups: set(groups) <= set(range(1, N_GROUPS + 1)),
    )
    downsample: Downsample = setting(
        "max",
        "by the stride of the convolution (He et al. 2015), or by max pooling after it",
        " or ".join(get_args(Downsample)),
        lambda way: way in get_args(Downsample),
    )
    input_size: int = setting(32, "side of the square input, in pixels")
    stem_stride: int = setting(1, "2 halves the resolution of large inputs at once", "1 or 2", lambda n: n in (1, 2))
    hash_norm: bool = setting(True, "batch normalization before the sigmoid of the hash layer; the paper has none")
    nested: tuple[int, ...] = setting(
        (), "lengths of shorter codes, prefixes of the whole one, that the network is trained for as well"
    )
    unit_features: bool = setting(False, "divide the pooled features by their Euclidean length before the hash layer")
    classify_bits: bool = setting(False, "the class layer reads bits as -1 and 1 instead of activations")

    def check(self) -> None:
        """Refuse settings that do not fit each other."""
        require(isinstance(self.n_classes, int) and self.n_classes >= 2, "classes", "2 or more", self.n_classes)
        rises = list(self.widths) == sorted(self.widths)
        require(rises, "widths", "no group narrower than the one before it", self.widths)
        if self.trunk == "residual":
            shrink = self.stem_stride * 2 ** len(set(self.downsample_at))
            fits = self.input_size >= shrink and self.input_size % shrink == 0
            require(fits, "input size", f"a multiple of {shrink} pixels", self.input_size)
        else:
            require(self.input_size >= _SMALLEST_LITE, "input size", f"{_SMALLEST_LITE} or more", self.input_size)
            for one in fields(self):
                value, default = getattr(self, one.name), one.default
                if one.name in _OF_RESIDUAL:
                    require(value == default, one.name, f"{default}, as {self.trunk} does not have it", value)
        nested = list(self.nested)
        rises = all(isinstance(n, int) and 1 <= n < self.bits for n in nested) and nested == sorted(set(nested))
        require(rises, "nested", f"rising lengths below {self.bits} bits", self.nested)

    @property
    def code_lengths(self) -> tuple[int, ...]:
        """The code lengths that the network is trained for, shortest first."""
        return (*self.nested, self.bits)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-ready values, without those that do not apply to the trunk."""
        values = super().to_dict()
        for one in fields(self):
            is_default = one.name in _ADDED_LATER and values[one.name] == one.default
            if is_default or (one.name in _OF_RESIDUAL and self.trunk != "residual"):
                del values[one.name]
        return values

    @property
    def n_features(self) -> int:
        """Number of pooled features, the input of the hash layer."""
        return self.layers()[-1].out_channels

    def layers(self) -> list[Layer]:
        """List the convolutions of the trunk, in the order of computation; every backend follows this list."""
        return self._residual_layers() if self.trunk == "residual" else _lite_layers(self.trunk, self.input_size)

    def _residual_layers(self) -> list[Layer]:
        """List the layers of the paper's trunk.

        A block is one layer, ``y = shortcut(x) + BN(ReLU(Conv3x3(x)))``. The shortcut has no parameters (He et al.
        2015, section 3.3): a 2x2 average where the block halves the resolution, zeros for the channels that it adds.
        """
        width, side = self.widths[0], self.input_size
        stem = Layer(
            conv="stem_conv", norm="stem_norm", in_channels=3, out_channels=width, in_side=side, stride=self.stem_stride
        )
        layers = [stem]
        for group, block in product(range(N_GROUPS), range(self.blocks)):
            halves = block == 0 and group + 1 in self.downsample_at
            pools = halves and self.downsample == "max"
            layers.append(
                Layer(
                    conv=f"groups.{group}.{block}.conv",
                    norm=f"groups.{group}.{block}.norm",
                    in_channels=layers[-1].out_channels,
                    out_channels=self.widths[group],
                    in_side=layers[-1].out_side,
                    stride=2 if halves and not pools else 1,
                    max_pool=pools,
                    opens_block=True,
                    closes_block=True,
                    shortcut_pool=2 if halves else 1,
                )
            )
        return layers

    def array_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every array of the network's state, in the order of the layers."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in self.layers():
            shapes |= {f"{layer.conv}.weight": layer.filter_shape, **_norm_shapes(layer.norm, layer.out_channels)}
        shapes["hash.weight"] = (self.bits, self.n_features)
        shapes |= _norm_shapes("hash_norm", self.bits) if self.hash_norm else {"hash.bias": (self.bits,)}
        return {**shapes, "classify.weight": (self.n_classes, self.bits), "classify.bias": (self.n_classes,)}

    def multiply_adds(self) -> int:
        """Count the multiply-adds of all convolutions and linear layers for one view of a picture."""
        convolutions = sum(prod(layer.filter_shape) * layer.conv_side**2 for layer in self.layers())
        return convolutions + self.n_features * self.bits + self.bits * self.n_classes


def _norm_shapes(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}


def _lite_layers(trunk: str, input_size: int) -> list[Layer]:
    """List the layers of an EfficientNet-Lite (Tan and Le 2019, https://arxiv.org/abs/1905.11946).

    Width and depth are scaled except in stem and head, and the depth of the first and the last stage is not either.
    """
    width, depth = _LITE_SCALES[trunk]
    layers = [_lite_layer("stem", in_channels=3, out_channels=_LITE_STEM, in_side=input_size, stride=2)]
    n_blocks = 0
    for stage in _LITE_STAGES:
        is_outermost = stage in (_LITE_STAGES[0], _LITE_STAGES[-1])
        scaled = stage._replace(channels=_scale_channels(stage.channels, width))
        for block in range(stage.blocks if is_outermost else ceil(depth * stage.blocks)):
            stride = stage.stride if block == 0 else 1
            layers += _inverted_bottleneck(f"blocks.{n_blocks}.", layers[-1], scaled._replace(stride=stride))
            n_blocks += 1
    last = layers[-1]
    head = _lite_layer("head", in_channels=last.out_channels, out_channels=_LITE_HEAD, in_side=last.out_side, kernel=1)
    return [*layers, head]


def _lite_layer(name: str, **settings: Any) -> Layer:
    conv, norm = f"{name}_conv", f"{name}_norm"
    usual = {"activation": "relu6", "norm_first": True, "same_padding": True, "epsilon": 1e-3}
    return Layer(conv=conv, norm=norm, **{**usual, **settings})


def _scale_channels(channels: int, width: float) -> int:
    """Scale a number of channels and round it to a multiple of 8, at most a tenth down."""
    rounded = int(channels * width + 4) // 8 * 8
    return rounded + 8 if rounded < 0.9 * channels * width else rounded


def _inverted_bottleneck(prefix: str, before: Layer, stage: _LiteStage) -> Iterator[Layer]:
    """Yield expansion, depthwise convolution and projection (Sandler et al. 2018, https://arxiv.org/abs/1801.04381).

    The block's input is added where it has the shape of the output.
    """
    channels, side = before.out_channels, before.out_side
    wide = channels * stage.expansion
    adds = stage.stride == 1 and channels == stage.channels
    if stage.expansion > 1:
        yield _lite_layer(
            f"{prefix}expand", in_channels=channels, out_channels=wide, in_side=side, kernel=1, opens_block=adds
        )
    depthwise = _lite_layer(
        f"{prefix}depthwise",
        in_channels=wide,
        out_channels=wide,
        in_side=side,
        kernel=stage.kernel,
        stride=stage.stride,
        groups=wide,
        opens_block=adds and stage.expansion == 1,
    )
    yield depthwise
    yield _lite_layer(
        f"{prefix}project",
        in_channels=wide,
        out_channels=stage.channels,
        in_side=depthwise.out_side,
        kernel=1,
        activation="none",
        closes_block=adds,
    )
