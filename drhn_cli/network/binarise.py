"""From activations to packed codes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.pack import pack_bits
from drhn_cli.config import NetworkConfig


def codes_of(activations: NDArray[np.float32], network: NetworkConfig, n_bits: int) -> NDArray[np.uint8]:
    """Return packed codes: bit i is ``activation_i > t``.

    Args:
        activations: (n, bits) in 0..1.
        network: gives the threshold t.
        n_bits: length of the codes, at most ``bits``; a shorter code is the beginning of a longer one.

    Returns:
        (n, ceil(n_bits / 8)) uint8.
    """
    return pack_bits(activations[:, :n_bits] > network.threshold)


def bit_probabilities(activations: NDArray[np.float32], network: NetworkConfig, n_bits: int) -> NDArray[np.float64]:
    """Return how sure a bit is to be 1: the activation, stretched so that the threshold t is at 1/2.

    Args:
        activations: (n, bits) in 0..1.
        network: gives the threshold t.
        n_bits: length of the codes.

    Returns:
        (n, n_bits) in 0..1, above 1/2 exactly where ``codes_of`` sets a bit.
    """
    threshold = float(np.float32(network.threshold))  # as it is compared with the activations
    return np.interp(activations[:, :n_bits], [0.0, threshold, 1.0], [0.0, 0.5, 1.0])
