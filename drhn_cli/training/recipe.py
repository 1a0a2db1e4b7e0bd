"""What a training run takes over from the weights that it starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drhn_cli.errors import ConfigError
from drhn_cli.network.model import Model

_SHAPE = ("blocks", "widths", "downsample_at", "downsample", "stem_stride", "hash_norm")
"""Settings of a network without which its arrays do not fit."""

_INHERITED = ("label_smoothing", "translate", "cutout", "crop", "colour", "flip", "quantisation", "similarity")
"""Settings of a training that suit a kind of pictures, and so the next training on such pictures."""

_RATES = {"conv_rate": 0.03, "rate": 0.05}
"""A quarter of the default learning rates, so that the first steps do not undo what has been learned."""


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
