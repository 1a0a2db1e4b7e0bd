"""Settings as frozen dataclasses, checked when they are made and stored as JSON inside the files they shape."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, Self, get_args

from drhn_cli.errors import ConfigError

Fit = Literal["crop", "squash", "pad"]
Downsample = Literal["stride", "max"]
Precision = Literal["float32", "bfloat16"]

SHRINK_GAP = 4
"""Of weights that are trained now: from here on, fewer than 1 % of the bits change (``tests.benchmarks.shrinking``)."""

N_GROUPS = 6
"""Residual groups in the network, fixed by the paper."""


class _Stored:
    """What all settings share: they go into JSON and come back, checked on the way."""

    _LATER: ClassVar[frozenset[str]] = frozenset()
    """Settings that came later: fingerprints stay what they were, and unfinished runs go on."""

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-ready values; those that came later only where they are not their defaults."""
        values = asdict(self)  # type: ignore[call-overload]
        for setting in fields(self):  # type: ignore[arg-type]
            if setting.name in self._LATER and values[setting.name] == setting.default:
                del values[setting.name]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild settings from ``to_dict``'s values.

        Raises:
            ConfigError: a name is missing or unknown, or a value is out of its range.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"{cls.__name__} is not complete", expected="named settings", found=repr(values))
        names = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - names)
        if unknown:
            raise ConfigError(
                f"unknown setting {unknown[0]!r} in {cls.__name__}", hint="update drhn: a newer version wrote this"
            )
        try:
            return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
        except TypeError as error:
            raise ConfigError(f"{cls.__name__} is not complete", found=str(error)) from error


def _require(condition: bool, setting: str, expected: str, found: object) -> None:
    if not condition:
        raise ConfigError(f"{setting} is out of range", expected=expected, found=repr(found))


@dataclass(frozen=True, kw_only=True)
class Preprocessing(_Stored):
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
            of the input's, each way. 0: always at its full size. None, as before there was this setting: 3, and what is
            cut out of the smaller picture ends at its whole pixels.

    Raises:
        ConfigError: a value is out of its range.
    """

    _LATER: ClassVar[frozenset[str]] = frozenset({"views", "shrink_gap"})

    size: int = 32
    fit: Fit = "crop"
    mean: tuple[float, float, float] = (0.4914, 0.4822, 0.4465)
    std: tuple[float, float, float] = (0.2470, 0.2435, 0.2616)
    views: int = 1
    shrink_gap: int | None = None

    def __post_init__(self) -> None:
        _require(isinstance(self.size, int) and 8 <= self.size <= 1024, "input size", "8..1024 pixels", self.size)
        _require(self.fit in get_args(Fit), "fit", " or ".join(get_args(Fit)), self.fit)
        _require(len(self.mean) == 3 and all(0 <= m <= 1 for m in self.mean), "mean", "three values in 0..1", self.mean)
        _require(len(self.std) == 3 and all(0 < s <= 1 for s in self.std), "std", "three values above 0", self.std)
        _require(isinstance(self.views, int) and self.views in (1, 2), "views", "1 or 2", self.views)
        is_gap = self.shrink_gap is None or (isinstance(self.shrink_gap, int) and 0 <= self.shrink_gap <= 64)
        _require(is_gap, "shrink_gap", "a whole number in 0..64", self.shrink_gap)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a picture's input: its views one below the other."""
        return self.views * self.size, self.size, 3

    @property
    def min_decoded_side(self) -> int | None:
        """To how many pixels the sides of a JPEG may shrink when it is decoded; None: they may not."""
        return (3 if self.shrink_gap is None else self.shrink_gap) * self.size or None


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(_Stored):
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

    def __post_init__(self) -> None:
        _require(isinstance(self.n_classes, int) and self.n_classes >= 2, "classes", "2 or more", self.n_classes)
        _require(isinstance(self.blocks, int) and 1 <= self.blocks <= 200, "blocks", "1..200", self.blocks)
        _require(isinstance(self.bits, int) and 1 <= self.bits <= 4096, "bits", "1..4096", self.bits)
        _require(0 < self.threshold < 1, "threshold", "above 0 and below 1", self.threshold)
        _require(
            len(self.widths) == N_GROUPS and all(isinstance(w, int) and w >= 1 for w in self.widths),
            "widths",
            f"{N_GROUPS} channel counts of 1 or more",
            self.widths,
        )
        narrower = any(after < before for before, after in zip(self.widths, self.widths[1:], strict=False))
        _require(not narrower, "widths", "no group narrower than the one before it", self.widths)
        groups = range(1, N_GROUPS + 1)
        _require(set(self.downsample_at) <= set(groups), "downsample_at", f"groups 1..{N_GROUPS}", self.downsample_at)
        _require(
            self.downsample in get_args(Downsample), "downsample", " or ".join(get_args(Downsample)), self.downsample
        )
        _require(self.stem_stride in (1, 2), "stem_stride", "1 or 2", self.stem_stride)
        shrink = self.stem_stride * 2 ** len(set(self.downsample_at))
        _require(
            isinstance(self.input_size, int) and self.input_size >= shrink and self.input_size % shrink == 0,
            "input size",
            f"a multiple of {shrink} pixels",
            self.input_size,
        )
        _require(
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


PRESETS: dict[str, dict[str, Any]] = {
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

DEFAULT_PRESET = "fast"


@dataclass(frozen=True, kw_only=True)
class TrainConfig(_Stored):
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

    _LATER: ClassVar[frozenset[str]] = frozenset({"average", "sharpness", "similarity", "teaching"})

    epochs: int = 30
    batch_size: int = 500
    seed: int = 0
    conv_rate: float = 0.12
    rate: float = 0.2
    momentum: float = 0.6
    weight_decay: float = 0.0005
    warm_up: float = float(os.environ.get("DRHN_WARM_UP", "0.1"))
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

    def __post_init__(self) -> None:
        _require(isinstance(self.epochs, int) and self.epochs >= 1, "epochs", "1 or more", self.epochs)
        _require(isinstance(self.batch_size, int) and self.batch_size >= 2, "batch size", "2 or more", self.batch_size)
        _require(isinstance(self.seed, int) and 0 <= self.seed < 2**32, "seed", "0..4294967295", self.seed)
        for name in ("conv_rate", "rate"):
            _require(getattr(self, name) > 0, name, "above 0", getattr(self, name))
        for name in ("momentum", "warm_up", "average", "sharpness", "label_smoothing", "colour"):
            _require(0 <= getattr(self, name) < 1, name, "0 or more, below 1", getattr(self, name))
        _require(0 < self.crop <= 1, "crop", "above 0, at most 1", self.crop)
        for name in ("weight_decay", "quantisation", "similarity", "teaching"):
            _require(getattr(self, name) >= 0, name, "0 or more", getattr(self, name))
        for name in ("translate", "cutout"):
            value = getattr(self, name)
            _require(isinstance(value, int) and value >= 0, name, "whole pixels, 0 or more", value)
        _require(self.precision in get_args(Precision), "precision", " or ".join(get_args(Precision)), self.precision)
