"""The settings of preprocessing, network and training."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Literal, get_args

from drhn_cli.settings import Settings, require

Fit = Literal["crop", "squash", "pad"]
Downsample = Literal["stride", "max"]
Precision = Literal["float32", "bfloat16"]
Activation = Literal["none", "relu", "relu6"]
Preset = Literal["paper", "fast", "tiny"]

N_GROUPS = 6
"""Residual groups in the network, fixed by the paper."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Settings):
    """How a picture becomes the network's input. Part of the fingerprint: another preprocessing makes other codes.

    Attributes:
        size: side of the square input, in pixels.
        fit: how a picture that is not square fits: ``crop`` a square of it, ``squash`` it, or ``pad`` it with grey.
        mean: per-channel mean of the training pixels, in 0..1, in RGB order.
        std: per-channel standard deviation of the training pixels, in 0..1, in RGB order.
        views: how many inputs the activations are the mean of. 1: the picture, where it is cropped the square at its
            centre. 2: the picture and its mirror image, where it is cropped the square before its centre and the mirror
            image of that behind it: both ends of a picture up to twice as long as wide.
        shrink_gap: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size as long as so many of its pixels still go into one
            of the input's, each way. 0: always at its full size. From 4 on, fewer than 1 % of the bits change
            (``tests.benchmarks.shrinking``).

    Raises:
        ConfigError: a value is out of its range.
    """

    size: int = 32
    fit: Fit = "crop"
    mean: tuple[float, float, float] = (0.4914, 0.4822, 0.4465)
    std: tuple[float, float, float] = (0.2470, 0.2435, 0.2616)
    views: int = 1
    shrink_gap: int = 4

    def check(self) -> None:
        """Refuse values that are out of their range."""
        require(isinstance(self.size, int) and 8 <= self.size <= 1024, "input size", "8..1024 pixels", self.size)
        require(self.fit in get_args(Fit), "fit", " or ".join(get_args(Fit)), self.fit)
        require(len(self.mean) == 3 and all(0 <= m <= 1 for m in self.mean), "mean", "three values in 0..1", self.mean)
        require(len(self.std) == 3 and all(0 < s <= 1 for s in self.std), "std", "three values above 0", self.std)
        require(isinstance(self.views, int) and self.views in (1, 2), "views", "1 or 2", self.views)
        is_gap = isinstance(self.shrink_gap, int) and 0 <= self.shrink_gap <= 64
        require(is_gap, "shrink_gap", "a whole number in 0..64", self.shrink_gap)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-ready values; one view is not named, as fingerprints were made without it."""
        values = super().to_dict()
        if self.views == 1:
            del values["views"]
        return values

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a picture's input: its views one below the other."""
        return self.views * self.size, self.size, 3

    @property
    def min_decoded_side(self) -> int | None:
        """To how many pixels the sides of a JPEG may shrink when it is decoded; None: they may not."""
        return self.shrink_gap * self.size or None


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution without bias, its batch normalization, its activation, and what is added to them.

    Attributes:
        conv: name of the convolution; its filters are the array ``{conv}.weight``.
        norm: name of the normalization, which has four arrays.
        in_channels: channels of the input.
        out_channels: channels of the output.
        in_side: side of the input, in pixels.
        kernel: side of the filters; ``kernel // 2`` zeros are padded on each side.
        stride: of the convolution.
        groups: of the convolution; ``in_channels`` where it is depthwise.
        max_pool: whether 2x2 max pooling follows the convolution.
        activation: after that.
        norm_first: normalization before the activation, as is usual. The paper has it after.
        opens_block: its input is what the layer that closes the block adds.
        closes_block: the input of the block is added, with zeros for channels that it lacks.
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
        downsample: how that block does it: its convolution's ``stride`` (He et al. 2015), or ``max``-pooling after it.
        input_size: side of the square input, in pixels.
        stem_stride: 1, or 2 to halve the resolution of large inputs at once.
        hash_norm: batch normalisation of the hash layer's sums before their sigmoid. The paper has none.
        nested: code lengths, each a prefix of the hash layer, that are trained to be good codes too. Empty: the whole
            code only.

    Raises:
        ConfigError: a value is out of its range.
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
        """The code lengths, in bits, that the network is trained for, shortest first."""
        return (*self.nested, self.bits)

    def layers(self) -> list[Layer]:
        """List the convolutions of the trunk in the order in which they are computed: all that follows the network.

        A block is one layer, ``y = shortcut(x) + BN(ReLU(Conv3x3(x)))``, with nothing after the addition. Where it
        halves the resolution the shortcut is a 2x2 average, where it widens new channels are zero: no parameters.

        Source: Jimenez-Lepe and Mendez-Vazquez; the parameter-free shortcut: He et al. 2015, section 3.3.
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

        for layer in self.layers():
            shapes[f"{layer.conv}.weight"] = layer.filter_shape
            add_norm(layer.norm, layer.out_channels)
        shapes["hash.weight"] = (self.bits, self.widths[-1])
        if self.hash_norm:
            add_norm("hash_norm", self.bits)
        else:
            shapes["hash.bias"] = (self.bits,)
        shapes["classify.weight"] = (self.n_classes, self.bits)
        shapes["classify.bias"] = (self.n_classes,)
        return shapes

    def multiply_adds(self) -> int:
        """Return how many multiply-adds of convolutions and linear layers encode and classify one view of a picture.

        Source: counted as in He et al. 2015, section 3.1 (no batch normalization, no additions).
        """
        convolutions = sum(
            prod(layer.filter_shape) * (-(-layer.in_side // layer.stride)) ** 2 for layer in self.layers()
        )
        return convolutions + self.widths[-1] * self.bits + self.bits * self.n_classes


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


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """How a network is trained.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step.
        seed: of the initial weights, the order of the images and their augmentation.
        conv_rate: peak learning rate of the convolutions (orthogonalised momentum).
        rate: peak learning rate of everything else (Nesterov momentum).
        momentum: of the convolutions' optimiser.
        weight_decay: decay of everything but the convolutions, relative to ``rate``.
        warm_up: share of the steps over which the rates rise from zero; they fall linearly to zero over the rest.
        average: share of the steps, the last ones, after each of which the weights count for their mean, which is what
            is trained; the rates stay at their peak then. 0: no mean, and the rates fall.
        sharpness: how far each layer's weights are moved uphill, relative to their norm, to take the gradient of a part
            of the batch there (sharpness-aware minimisation, which doubles the cost of a step); 0: it is taken where
            they are.
        label_smoothing: share of each label that is spread over all classes.
        translate: largest shift of an image, in pixels each way.
        cutout: side of the square that is blanked in each image, in pixels; 0 for none.
        crop: smallest share of an image's area that a random crop keeps, stretched back to full size; 1 for no crops.
        colour: largest relative change of brightness, contrast and saturation; 0 for none.
        flip: mirror every image in every other epoch.
        quantisation: weight of the term that pulls activations away from the threshold, towards 0 or 1.
        similarity: weight of the term that has shorter codes find pictures as alike as the whole code does.
        teaching: weight of the term that has the codes tell a teacher's features.
        precision: ``float32``, or ``bfloat16`` for mixed precision.

    Raises:
        ConfigError: a value is out of its range.
    """

    epochs: int = 30
    batch_size: int = 500
    seed: int = 0
    conv_rate: float = 0.12
    rate: float = 0.2
    momentum: float = 0.6
    weight_decay: float = 0.0005
    warm_up: float = 0.1
    average: float = 0.0
    sharpness: float = 0.0
    label_smoothing: float = 0.2
    translate: int = 4
    cutout: int = 8
    crop: float = 1.0
    colour: float = 0.0
    flip: bool = True
    quantisation: float = 0.3
    similarity: float = 0.0
    teaching: float = 0.0
    precision: Precision = "float32"

    def check(self) -> None:
        """Refuse values that are out of their range."""
        require(isinstance(self.epochs, int) and self.epochs >= 1, "epochs", "1 or more", self.epochs)
        require(isinstance(self.batch_size, int) and self.batch_size >= 2, "batch size", "2 or more", self.batch_size)
        require(isinstance(self.seed, int) and 0 <= self.seed < 2**32, "seed", "0..4294967295", self.seed)
        for name in ("conv_rate", "rate"):
            require(getattr(self, name) > 0, name, "above 0", getattr(self, name))
        for name in ("momentum", "warm_up", "average", "sharpness", "label_smoothing", "colour"):
            require(0 <= getattr(self, name) < 1, name, "0 or more, below 1", getattr(self, name))
        require(0 < self.crop <= 1, "crop", "above 0, at most 1", self.crop)
        for name in ("weight_decay", "quantisation", "similarity", "teaching"):
            require(getattr(self, name) >= 0, name, "0 or more", getattr(self, name))
        for name in ("translate", "cutout"):
            value = getattr(self, name)
            require(isinstance(value, int) and value >= 0, name, "whole pixels, 0 or more", value)
        require(self.precision in get_args(Precision), "precision", " or ".join(get_args(Precision)), self.precision)
