"""The shape of a network: its settings, and the layers that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Literal, get_args

from drhn_cli.settings import Settings, require

Activation = Literal["none", "relu", "relu6"]
Downsample = Literal["stride", "max"]
Preset = Literal["paper", "fast", "tiny"]

N_GROUPS = 6
"""Residual groups in the network, fixed by the paper."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution without bias, its batch normalization, its activation, and what is added to them.

    Attributes:
        conv: name of the convolution; its filters are the array ``{conv}.weight``.
        norm: name of the normalization, which has four arrays.
        in_side: side of the input, in pixels.
        kernel: side of the filters; ``kernel // 2`` zeros are padded on each side.
        groups: ``in_channels`` for a depthwise convolution.
        max_pool: 2x2 max pooling follows the convolution.
        norm_first: normalization comes before the activation. In the paper it comes after.
        opens_block: its input is what the layer that closes the block adds.
        closes_block: the input of the block is added, with zeros in the channels that it lacks.
        shortcut_pool: side of the squares over which that input is averaged first.
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
        """Shape of the filters, as torch has it."""
        return self.out_channels, self.in_channels // self.groups, self.kernel, self.kernel


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(Settings):
    """The shape of a Deep Residual Hashing Network.

    Attributes:
        n_classes: classes it is trained on.
        blocks: residual blocks in each of the six groups; the paper's n, 15 there.
        bits: units of the hash layer; the paper's h, 48 there.
        threshold: bit i of a code is ``activation_i > threshold``; the paper's t.
        widths: channels of each of the six groups.
        downsample_at: groups, counted from 1, whose first block halves the resolution.
        downsample: how: by the ``stride`` of the convolution (He et al. 2015), or by ``max`` pooling after it.
        input_size: side of the square input, in pixels.
        stem_stride: 1, or 2 to halve the resolution of large inputs at once.
        hash_norm: batch normalization before the sigmoid of the hash layer. The paper has none.
        nested: lengths of prefixes of the hash layer that are trained to be good codes, too.
    """

    n_classes: int
    blocks: int = 2
    bits: int = 48
    threshold: float = 0.5
    widths: tuple[int, ...] = (64, 64, 128, 128, 256, 256)
    downsample_at: tuple[int, ...] = (1, 3, 5)
    downsample: Downsample = "max"
    input_size: int = 32
    stem_stride: int = 1
    hash_norm: bool = True
    nested: tuple[int, ...] = ()

    def check(self) -> None:
        """Refuse values that are out of their range."""
        require(isinstance(self.n_classes, int) and self.n_classes >= 2, "classes", "2 or more", self.n_classes)
        require(isinstance(self.blocks, int) and 1 <= self.blocks <= 200, "blocks", "1..200", self.blocks)
        require(isinstance(self.bits, int) and 1 <= self.bits <= 4096, "bits", "1..4096", self.bits)
        require(0 < self.threshold < 1, "threshold", "above 0 and below 1", self.threshold)
        require(
            len(self.widths) == N_GROUPS and all(isinstance(w, int) and w >= 1 for w in self.widths),
            "widths",
            f"{N_GROUPS} channel counts of 1 or more",
            self.widths,
        )
        narrower = any(after < before for before, after in zip(self.widths, self.widths[1:], strict=False))
        require(not narrower, "widths", "no group narrower than the one before it", self.widths)
        groups = range(1, N_GROUPS + 1)
        require(set(self.downsample_at) <= set(groups), "downsample_at", f"groups 1..{N_GROUPS}", self.downsample_at)
        require(
            self.downsample in get_args(Downsample), "downsample", " or ".join(get_args(Downsample)), self.downsample
        )
        require(self.stem_stride in (1, 2), "stem_stride", "1 or 2", self.stem_stride)
        shrink = self.stem_stride * 2 ** len(set(self.downsample_at))
        require(
            isinstance(self.input_size, int) and self.input_size >= shrink and self.input_size % shrink == 0,
            "input size",
            f"a multiple of {shrink} pixels",
            self.input_size,
        )
        require(
            all(isinstance(b, int) and 1 <= b < self.bits for b in self.nested)
            and list(self.nested) == sorted(set(self.nested)),
            "nested",
            f"rising lengths below {self.bits} bits",
            self.nested,
        )

    @property
    def code_lengths(self) -> tuple[int, ...]:
        """The code lengths that the network is trained for, shortest first."""
        return (*self.nested, self.bits)

    def layers(self) -> list[Layer]:
        """List the convolutions of the trunk, in the order of computation; all that walks the network uses this.

        A block is one layer, ``y = shortcut(x) + BN(ReLU(Conv3x3(x)))``. The shortcut has no parameters (He et al.
        2015, section 3.3): a 2x2 average where the block halves the resolution, zeros for the channels that it adds.
        """
        channels = self.widths[0]
        stem = Layer(
            conv="stem_conv",
            norm="stem_norm",
            in_channels=3,
            out_channels=channels,
            in_side=self.input_size,
            stride=self.stem_stride,
        )
        layers = [stem]
        for group, width in enumerate(self.widths):
            for block in range(self.blocks):
                halves = block == 0 and group + 1 in self.downsample_at
                pools = halves and self.downsample == "max"
                layers.append(
                    Layer(
                        conv=f"groups.{group}.{block}.conv",
                        norm=f"groups.{group}.{block}.norm",
                        in_channels=channels,
                        out_channels=width,
                        in_side=layers[-1].out_side,
                        stride=2 if halves and not pools else 1,
                        max_pool=pools,
                        opens_block=True,
                        closes_block=True,
                        shortcut_pool=2 if halves else 1,
                    )
                )
                channels = width
        return layers

    def array_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every array of the network's state, in the order of the layers."""
        shapes: dict[str, tuple[int, ...]] = {}

        def add_norm(name: str, channels: int) -> None:
            for part in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{name}.{part}"] = (channels,)

        layers = self.layers()
        for layer in layers:
            shapes[f"{layer.conv}.weight"] = layer.filter_shape
            add_norm(layer.norm, layer.out_channels)
        shapes["hash.weight"] = (self.bits, layers[-1].out_channels)
        if self.hash_norm:
            add_norm("hash_norm", self.bits)
        else:
            shapes["hash.bias"] = (self.bits,)
        shapes["classify.weight"] = (self.n_classes, self.bits)
        shapes["classify.bias"] = (self.n_classes,)
        return shapes

    def multiply_adds(self) -> int:
        """Count the multiply-adds of all convolutions and linear layers for one view of a picture."""
        layers = self.layers()
        convolutions = sum(prod(layer.filter_shape) * (-(-layer.in_side // layer.stride)) ** 2 for layer in layers)
        return convolutions + layers[-1].out_channels * self.bits + self.bits * self.n_classes


PRESETS: dict[Preset, dict[str, Any]] = {
    "paper": {
        "blocks": 15,
        "bits": 48,
        "widths": (16, 16, 32, 32, 64, 64),
        "downsample_at": (3, 5),
        "downsample": "stride",
        "hash_norm": False,
    },
    "fast": {},
    "tiny": {"blocks": 1, "widths": (8, 8, 16, 16, 32, 32)},
}
"""Named networks: the settings that differ from ``NetworkConfig``'s defaults. ``tiny`` is for trying things out."""

DEFAULT_PRESET: Preset = "fast"
