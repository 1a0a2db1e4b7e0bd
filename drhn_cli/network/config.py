"""The shape of a network: its settings, and the layers that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, Literal, get_args

from drhn_cli.settings import Settings, require, setting

Activation = Literal["none", "relu", "relu6"]
Downsample = Literal["stride", "max"]

N_GROUPS = 6
"""Residual groups in the network, fixed by the paper."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution without bias, its batch normalization, its activation, and a shortcut if it closes a block.

    Attributes:
        conv: name of the convolution; its filters are the array ``{conv}.weight``.
        norm: name of the normalization, which has four arrays.
        in_side: side of the input, in pixels.
        kernel: side of the filters; the input is padded with ``kernel // 2`` zeros on each side.
        groups: ``in_channels`` for a depthwise convolution.
        max_pool: 2x2 max pooling follows the convolution.
        norm_first: normalization comes before the activation. In the paper it comes after.
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
    max_pool: bool = False
    activation: Activation = "relu"
    norm_first: bool = False
    opens_block: bool = False
    closes_block: bool = False
    shortcut_pool: int = 1

    @property
    def out_side(self) -> int:
        """Side of the output, in pixels."""
        return -(-self.in_side // self.stride) // (2 if self.max_pool else 1)

    @property
    def filter_shape(self) -> tuple[int, int, int, int]:
        """Shape of the filters, as in torch."""
        return self.out_channels, self.in_channels // self.groups, self.kernel, self.kernel


def _are_channels(widths: tuple[Any, ...]) -> bool:
    return len(widths) == N_GROUPS and all(isinstance(w, int) and w >= 1 for w in widths)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(Settings):
    """The shape of a Deep Residual Hashing Network. ``n_classes`` is the number of classes it is trained on."""

    n_classes: int
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

    def check(self) -> None:
        """Refuse settings that do not fit each other."""
        require(isinstance(self.n_classes, int) and self.n_classes >= 2, "classes", "2 or more", self.n_classes)
        rises = list(self.widths) == sorted(self.widths)
        require(rises, "widths", "no group narrower than the one before it", self.widths)
        shrink = self.stem_stride * 2 ** len(set(self.downsample_at))
        fits = self.input_size >= shrink and self.input_size % shrink == 0
        require(fits, "input size", f"a multiple of {shrink} pixels", self.input_size)
        nested = list(self.nested)
        rises = all(isinstance(n, int) and 1 <= n < self.bits for n in nested) and nested == sorted(set(nested))
        require(rises, "nested", f"rising lengths below {self.bits} bits", self.nested)

    @property
    def code_lengths(self) -> tuple[int, ...]:
        """The code lengths that the network is trained for, shortest first."""
        return (*self.nested, self.bits)

    def layers(self) -> list[Layer]:
        """List the convolutions of the trunk, in the order of computation; every backend follows this list.

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
        layers = self.layers()
        for layer in layers:
            shapes |= {f"{layer.conv}.weight": layer.filter_shape, **_norm_shapes(layer.norm, layer.out_channels)}
        shapes["hash.weight"] = (self.bits, layers[-1].out_channels)
        shapes |= _norm_shapes("hash_norm", self.bits) if self.hash_norm else {"hash.bias": (self.bits,)}
        return {**shapes, "classify.weight": (self.n_classes, self.bits), "classify.bias": (self.n_classes,)}

    def multiply_adds(self) -> int:
        """Count the multiply-adds of all convolutions and linear layers for one view of a picture."""
        layers = self.layers()
        convolutions = sum(prod(layer.filter_shape) * (-(-layer.in_side // layer.stride)) ** 2 for layer in layers)
        return convolutions + layers[-1].out_channels * self.bits + self.bits * self.n_classes


def _norm_shapes(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
