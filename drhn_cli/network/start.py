"""Training that starts from the weights of another one: what it takes over, and the arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from drhn_cli.errors import ConfigError
from drhn_cli.network.model import DRHN
from drhn_cli.network.weights import Weights

_SHAPE = ("widths", "downsample_at", "downsample", "stem_stride", "hash_norm")
"""Settings of a network without which its arrays are of no use."""

_AUGMENTATION = ("label_smoothing", "translate", "cutout", "crop", "colour", "flip", "quantisation", "similarity")
"""Settings of a training that fit its kind of pictures, and so the next one on such pictures."""

_RATES = {"conv_rate": 0.03, "rate": 0.05}
"""A quarter of what suits a training from scratch, so that what has been learnt is not lost at first."""


def network_settings_from(start: Weights, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the network to train: those of the weights it starts from, but for some changes.

    Args:
        start: the weights.
        changes: settings of ``NetworkConfig`` by name. Where ``bits`` is one of them and ``nested`` is not, the shorter
            lengths below it are kept.

    Raises:
        ConfigError: a change would leave the arrays of the weights without use.
    """
    settings = vars(start.network).copy()
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


def training_settings_from(start: Weights, nested: Sequence[int]) -> dict[str, Any]:
    """Return settings of ``TrainConfig``: the loss and the augmentation of the weights, and lower rates.

    Args:
        start: the weights.
        nested: shorter code lengths to train along; the similarity term is for them alone.
    """
    taken = [name for name in _AUGMENTATION if name in start.training and (nested or name != "similarity")]
    return _RATES | {name: start.training[name] for name in taken}


def begin_with(network: DRHN, start: Weights, class_names: tuple[str, ...]) -> None:
    """Put the arrays of other weights into a network as far as they fit.

    Of a hash layer of more units the first are taken, as a shorter code is the beginning of a longer one, and of the
    last layer what scores such a code. A hash layer of fewer units, and the last layer of other classes or of fewer
    units, stay as they were drawn.

    Args:
        network: of the same shape but for its last two layers.
        start: the other weights.
        class_names: what the network is to tell apart.
    """
    own = network.state_dict()
    bits = network.config.bits
    for name, array in start.arrays.items():
        if start.network.bits > bits:
            if name.startswith("hash"):
                array = array[:bits]
            elif name == "classify.weight":
                array = array[:, :bits] * (start.network.bits / bits)  # the votes of fewer bits: see DRHN.scores
        is_other = name.startswith("classify") and start.class_names != class_names
        if not is_other and own[name].shape == array.shape:
            own[name] = torch.from_numpy(array.astype(np.float32))
    network.load_state_dict(own)
