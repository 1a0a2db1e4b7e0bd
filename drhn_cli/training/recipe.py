"""The settings of a training run, and what it inherits from the weights that it starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from drhn_cli.errors import ConfigError
from drhn_cli.network.devices import Precision
from drhn_cli.network.model import Model
from drhn_cli.settings import Settings, require

_SHAPE = ("blocks", "widths", "downsample_at", "downsample", "stem_stride", "hash_norm")
"""Settings that decide which arrays a network has, and their shapes."""

_INHERITED = ("label_smoothing", "translate", "cutout", "crop", "colour", "flip", "quantisation", "similarity")
"""Training settings that depend on the kind of pictures, so fine-tuning inherits them."""

_RATES = {"conv_rate": 0.03, "rate": 0.05}
"""A quarter of the default learning rates, so that the first steps do not undo what has been learned."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """How a network is trained."""

    epochs: int = 30
    batch_size: int = 500
    seed: int = 0  # of the initial weights, the order of the images and their augmentation
    conv_rate: float = 0.12  # peak learning rate of Muon, for the convolutions
    rate: float = 0.2  # peak learning rate of SGD, for everything else
    momentum: float = 0.6  # of Muon
    weight_decay: float = 0.0005  # of everything but the convolutions, relative to rate
    warm_up: float = 0.1  # share of the steps over which the rates rise from zero; then they fall linearly to zero
    average: float = 0.0  # share of the steps, the last ones, that SWA averages, at peak rates; 0: no SWA
    sharpness: float = 0.0  # radius of SAM, relative to the norm of each layer's weights; 0: no SAM
    label_smoothing: float = 0.2
    translate: int = 4  # largest shift of an image, in pixels each way
    cutout: int = 8  # side of the square that is blanked, in pixels; 0 for none
    crop: float = 1.0  # smallest share of an image's area that a random crop keeps; 1 for no crops
    colour: float = 0.0  # strength of color jitter; 0 for none
    flip: bool = True  # mirror every image in every other epoch
    quantisation: float = 0.3  # weight of the quantization loss
    similarity: float = 0.0  # weight of the prefix similarity loss
    teaching: float = 0.0  # weight of the distillation loss
    precision: Precision = "float32"  # bfloat16: mixed precision

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


def network_settings_from(start: Model, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the network settings of the weights to start from, with some changes that their arrays allow.

    Where ``bits`` is changed and ``nested`` is not, the shorter code lengths below it are kept.
    """
    settings = {name: value for name, value in vars(start.config).items() if name != "n_classes"}
    for name in _SHAPE:
        if changes.get(name, settings[name]) != settings[name]:
            expected, found, hint = str(settings[name]), str(changes[name]), "leave it out, or leave out --from"
            raise ConfigError(f"{name} is that of the weights to start from", expected=expected, found=found, hint=hint)
    settings |= changes
    if "bits" in changes and "nested" not in changes:
        settings["nested"] = tuple(length for length in settings["nested"] if length < settings["bits"])
    return settings


def training_settings_from(start: Model, nested: Sequence[int]) -> dict[str, Any]:
    """Return settings of ``TrainConfig``: loss and augmentation of the weights to start from, and lower rates.

    The weight of the prefix similarity is left out where ``nested``, the shorter code lengths to train, is empty.
    """
    inherited = [name for name in _INHERITED if name in start.training and (nested or name != "similarity")]
    return _RATES | {name: start.training[name] for name in inherited}
