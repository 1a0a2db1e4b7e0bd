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
"""Settings of a network without which its arrays do not fit."""

_INHERITED = ("label_smoothing", "translate", "cutout", "crop", "colour", "flip", "quantisation", "similarity")
"""Settings of a training that suit a kind of pictures, and so the next training on such pictures."""

_RATES = {"conv_rate": 0.03, "rate": 0.05}
"""A quarter of the default learning rates, so that the first steps do not undo what has been learned."""


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


def network_settings_from(start: Model, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the network settings of the weights to start from, with some changes.

    Args:
        start: the weights.
        changes: settings of ``NetworkConfig`` by name. Where ``bits`` is one of them and ``nested`` is not, the shorter
            lengths below it are kept.

    Raises:
        ConfigError: the weights' arrays would not fit a network so changed.
    """
    settings = vars(start.config).copy()
    del settings["n_classes"]
    for name in _SHAPE:
        if changes.get(name, settings[name]) != settings[name]:
            raise ConfigError(
                f"{name} is that of the weights to start from",
                expected=str(settings[name]),
                found=str(changes[name]),
                hint="leave it out, or leave out --from",
            )
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
