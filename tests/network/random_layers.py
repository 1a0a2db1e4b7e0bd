"""Networks in integers with random numbers, as large as they may be."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from drhn_cli.network.config import Layer, NetworkConfig
from drhn_cli.network.integer import SUM_LIMIT, IntegerLayer, largest_sum, writes_stream


def random_layers(config: NetworkConfig, seed: int = 0, *, are_pairs_limited: bool = True) -> list[IntegerLayer]:
    """Return the layers of a network. Many sums are ties when they are rounded, many activations saturate."""
    rng = np.random.default_rng(seed)
    layers: list[IntegerLayer] = []
    pad, middle = rng.integers(0, 256, 3).astype(np.uint8), 127  # of the input
    for layer in config.layers():
        is_paper, is_wide = not layer.norm_first, writes_stream(layer)
        weight = random_weight(layer, rng, are_pairs_limited=are_pairs_limited)
        flat = weight.reshape(len(weight), -1).astype(np.int64)
        bias = rng.integers(-3000, 3000, len(flat)) - middle * flat.sum(axis=1)  # about as many sums below 0 as above
        spread = 70 * np.sqrt((flat**2).sum(axis=1).clip(1))
        target = 2.0 ** rng.integers(6, 9, len(flat)) * (30 if is_wide else 1)
        scale = 2.0 ** np.rint(np.log2(target / spread))  # a power of two, so that there are ties
        scale[1::2] *= rng.uniform(0.7, 1.4, len(scale[1::2]))
        layers.append(
            IntegerLayer(
                layer=layer,
                weight=weight,
                bias=bias.astype(np.int32),
                scale=(scale * rng.choice([-1, 1], len(scale)) if is_paper else scale).astype(np.float32),
                offset=rng.integers(-5000, 5000, len(flat)).astype(np.int32) if is_paper else None,
                pad=pad,
                next_scale=np.float32(rng.choice([1 / 64, 0.0123]) if is_wide else 1),
                zero_point=int(rng.integers(60, 200)) if is_wide else 0,
            )
        )
        middle = layers[-1].zero_point if is_wide else 60
        pad = np.full(layer.out_channels, layers[-1].zero_point, np.uint8)
    return layers


def random_weight(layer: Layer, rng: np.random.Generator, *, are_pairs_limited: bool) -> NDArray[np.int8]:
    """Return filters whose neighbours of one sign sum to 128 at most, and many to 128."""
    out, n_in, kernel, _ = layer.filter_shape
    weight = rng.integers(-127, 128, (out, kernel, kernel, n_in)).astype(np.int64)
    if are_pairs_limited:
        # Neighbours are input channels of a tap; of the picture, a row's nine numbers.
        rows = weight.reshape(out, kernel, -1) if layer.conv == "stem_conv" else weight
        for odd in range(1, rows.shape[-1], 2):
            rows[..., odd] = rows[..., odd].clip(-128 - rows[..., odd - 1], 128 - rows[..., odd - 1])
        for row in range(1, kernel if layer.groups > 1 else 0):
            weight[:, row] = weight[:, row].clip(-128 - weight[:, row - 1], 128 - weight[:, row - 1])
    excess = largest_sum(weight.astype(np.int8), np.zeros(out, np.int32)).max() / (0.9 * SUM_LIMIT)
    return (weight / max(1, excess)).astype(np.int8)  # towards zero, so pairs stay within their limit
