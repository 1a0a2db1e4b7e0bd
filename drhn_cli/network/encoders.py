"""Choose what runs the network."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from drhn_cli.network.weights import Weights

NUMPY_LIMIT = 500
"""Up to so many pictures numpy is done before torch has been imported and has caught up."""


class Encoder(Protocol):
    """A trained network, ready to hash."""

    weights: Weights

    def activations(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the hash layer's activations: (n, s, s, 3) uint8 -> (n, bits) float32 in 0..1."""
        ...

    def codes(self, pixels: NDArray[np.uint8], n_bits: int) -> NDArray[np.uint8]:
        """Return the packed codes of pictures: (n, s, s, 3) uint8 -> (n, ceil(n_bits / 8)) uint8."""
        ...


def load_encoder(weights: Weights, *, device: str, n_images: int, batch_size: int = 500) -> Encoder:
    """Return the quickest encoder for a number of pictures.

    Args:
        weights: the trained network.
        device: auto, cuda, mps or cpu. The first and the last are free to use numpy.
        n_images: how many pictures are to be hashed.
        batch_size: images at a time on a device of torch's.

    Raises:
        ConfigError: the device is unknown or not there.
    """
    # Imported here, so that each way loads only what it needs.
    if device in ("auto", "cpu") and n_images <= NUMPY_LIMIT:
        from drhn_cli.network.encode_numpy import NumpyEncoder

        return NumpyEncoder(weights)
    from drhn_cli.network.device import choose_device
    from drhn_cli.network.encode import TorchEncoder

    return TorchEncoder(weights, choose_device(device), batch_size=batch_size)
