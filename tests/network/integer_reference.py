"""The network in integers once more, in int64 and plain loops over taps: what every backend must compute to the bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drhn_cli.network.integer import IntegerLayer, integer_layers
from drhn_cli.network.model import Model

Ints = NDArray[np.int64]


def pooled_sums(model: Model, views: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return the pooled sums, (n, s, s, 3) uint8 -> (n, n_features) int32."""
    return sums_of_layers(integer_layers(model), views)


def sums_of_layers(layers: Sequence[IntegerLayer], views: NDArray[np.uint8]) -> NDArray[np.int32]:
    x, stream, shortcut = views.astype(np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
    for step in layers:
        layer = step.layer
        shortcut = stream if layer.opens_block else shortcut
        sums = _sums(step, x)
        if layer.max_pool:
            sums = _tiles(sums).max(axis=(2, 4))
        if layer.activation == "relu":
            sums = np.maximum(sums, 0)
        y = _multiply(sums, step.scale)
        if layer.activation == "relu6":
            x = last = np.clip(y, 0, 255)
            continue
        if step.offset is not None:
            y += step.offset
        if layer.closes_block:
            if layer.shortcut_pool == 2:
                shortcut = _multiply(_tiles(shortcut).sum(axis=(2, 4)), np.float32(0.25))
            y[..., : shortcut.shape[3]] += shortcut
        stream = last = np.clip(y, -32768, 32767)
        x = np.clip(_multiply(stream, step.next_scale) + step.zero_point, 0, 255)
    sums = last.sum(axis=(1, 2))
    assert np.abs(sums).max() < 2**31
    return sums.astype(np.int32)


def _sums(step: IntegerLayer, x: Ints) -> Ints:
    layer, weight = step.layer, step.weight.astype(np.int64)
    before, after = layer.padding
    n, side, _, channels = x.shape
    padded = np.empty((n, before + side + after, before + side + after, channels), np.int64)
    padded[...] = step.pad
    padded[:, before : before + side, before : before + side] = x
    end = (layer.conv_side - 1) * layer.stride + 1
    sums = np.broadcast_to(step.bias.astype(np.int64), (n, layer.conv_side, layer.conv_side, layer.out_channels))
    for row in range(layer.kernel):
        for column in range(layer.kernel):
            tap = padded[:, row : row + end : layer.stride, column : column + end : layer.stride]
            taps = weight[:, row, column]  # (out, in / groups)
            sums = sums + (tap * taps[:, 0] if layer.groups > 1 else tap @ taps.T)
    assert np.abs(sums).max() <= 2**24
    return sums


def _multiply(x: Ints, scale: NDArray[np.float32] | np.float32) -> Ints:
    product = x.astype(np.float32) * scale
    assert product.dtype == np.float32
    return np.rint(product).astype(np.int64)


def _tiles(x: Ints) -> Ints:
    n, side, _, channels = x.shape
    return x.reshape(n, side // 2, 2, side // 2, 2, channels)
