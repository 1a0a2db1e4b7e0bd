"""From pixels to activations with torch."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from drhn_cli.config import Precision, Preprocessing
from drhn_cli.network.drhn import DRHN
from drhn_cli.network.encoder import Encoder, mean_of_views, split_views
from drhn_cli.network.model import Model
from drhn_cli.training.augment import normalise


def build_network(model: Model, device: torch.device) -> DRHN:
    """Return the trained network, in evaluation mode."""
    network = DRHN(model.config)
    # The counters of batch normalisation are of no use after training and are not stored.
    network.load_state_dict(
        {name: torch.from_numpy(array.astype(np.float32)) for name, array in model.arrays.items()}, strict=False
    )
    return network.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@torch.inference_mode()
def encode_pixels(
    network: DRHN,
    pixels: NDArray[np.uint8],
    preprocessing: Preprocessing,
    *,
    batch_size: int = 500,
    precision: Precision = "float32",
) -> NDArray[np.float32]:
    """Return the hash layer's activations.

    Args:
        network: in evaluation mode.
        pixels: (n, views * s, s, 3).
        preprocessing: the mean and standard deviation the network was trained with, and the views.
        batch_size: views at a time.
        precision: float32, or bfloat16 where approximate activations will do.

    Returns:
        (n, bits) float32 in 0..1.
    """
    device = next(network.parameters()).device
    parts = [torch.empty(0, network.config.bits)]
    views = split_views(pixels)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        for start in range(0, len(views), batch_size):
            chunk = torch.from_numpy(views[start : start + batch_size]).to(device)
            inputs = normalise(chunk.permute(0, 3, 1, 2), preprocessing)  # (n, 3, s, s)
            parts.append(network(inputs).cpu())
    return mean_of_views(torch.cat(parts).numpy(), preprocessing.views)


@torch.inference_mode()
def predict_classes(network: DRHN, activations: NDArray[np.float32], n_bits: int) -> NDArray[np.int64]:
    """Return the most likely class of each image.

    Args:
        network: gives the scores.
        activations: (n, bits) in 0..1.
        n_bits: use only the first ones, one of the lengths the network was trained for.

    Returns:
        (n,) indices of classes.
    """
    device = next(network.parameters()).device
    scores = network.scores(torch.from_numpy(activations).to(device), n_bits)
    return cast("NDArray[np.int64]", scores.argmax(dim=1).cpu().numpy())


class TorchEncoder(Encoder):
    """A trained network on a device.

    Args:
        model: the trained network.
        device: where it runs.
        batch_size: images at a time.

    Attributes:
        model: the trained network as arrays.
        step: images at a time.
    """

    def __init__(self, model: Model, device: torch.device, *, batch_size: int = 500) -> None:
        # Half the mantissa would move bits from one machine to the next.
        torch.backends.cudnn.allow_tf32 = False
        self.model = model
        self._network = build_network(model, device)
        self.step = batch_size

    def activations(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the hash layer's activations: (n, views * s, s, 3) uint8 -> (n, bits) float32 in 0..1."""
        return encode_pixels(self._network, pixels, self.model.preprocessing, batch_size=self.step)

    def predict(self, activations: NDArray[np.float32], n_bits: int) -> NDArray[np.int64]:
        """Return the most likely class of each image from the first ``n_bits`` of its activations, (n, bits)."""
        return predict_classes(self._network, activations, n_bits)
