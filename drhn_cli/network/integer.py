"""The network as it is deployed: in small integers, so that every machine and every backend computes the same bits.

Weights have 8 bits with a scale for each output channel, activations 8 bits without a sign, the sum that a residual
block adds to has 16 (the stream). All sums are integers below 2^24: float32 holds them exactly in whatever order they
are added. Each is multiplied by one float32 and rounded half to even, which IEEE 754 defines to the last bit.
Jacob et al., CVPR 2018, https://arxiv.org/abs/1712.05877, Quantization and training of neural networks for efficient
integer-arithmetic-only inference.

A backend computes the pooled sums, ``(n, s, s, 3) uint8 -> (n, n_features) int32``. The hash layer follows here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drhn_cli.errors import WeightsError
from drhn_cli.network.config import Layer, NetworkConfig
from drhn_cli.network.model import Model

Pooled = Callable[[NDArray[np.uint8]], NDArray[np.int32]]
"""A trunk: (n, s, s, 3) uint8 views -> (n, n_features) int32 sums of the last layer's output over its pixels."""

SUM_LIMIT = 2**24
"""Float32 holds every integer up to this one."""

STREAM_LIMIT = 32767
LARGEST = 255
"""The largest activation. For ReLU6 it stands for what calibration found, 6 at most."""


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """A layer in integers.

    Attributes:
        layer: its shape.
        weight: int8 (out, kernel, kernel, in / groups).
        bias: int32 (out,), added to the sum of products.
        scale: float32 (out,); the sum is multiplied by it, after ReLU in the paper's trunk.
        offset: int32 (out,), added after that; None where normalization is part of weight and bias.
        pad: uint8 (in,), zero as the input has it, which is what the border is filled with.
        next_scale: float32; the stream times this, plus ``zero_point``, is the input of the next layer.
        zero_point: zero as the output has it.
    """

    layer: Layer
    weight: NDArray[np.int8]
    bias: NDArray[np.int32]
    scale: NDArray[np.float32]
    offset: NDArray[np.int32] | None
    pad: NDArray[np.uint8]
    next_scale: np.float32
    zero_point: int

    @property
    def writes_stream(self) -> bool:
        """Whether the output is 16 bits wide and kept for shortcuts, beside the 8 bits that the next layer reads."""
        return writes_stream(self.layer)


def writes_stream(layer: Layer) -> bool:
    """Return whether a layer's output is 16 bits wide: all but those of ReLU6, whose range is known."""
    return layer.activation != "relu6"


def integer_layers(model: Model) -> list[IntegerLayer]:
    """Return the layers of a model in integers."""
    arrays, steps = model.arrays, list[IntegerLayer]()
    pad = np.rint(np.array(model.preprocessing.mean) * 255).astype(np.uint8)
    layers = zip(model.config.layers(), arrays["next_scale"], arrays["zero_point"], strict=True)
    for layer, next_scale, zero_point in layers:
        steps.append(
            IntegerLayer(
                layer=layer,
                weight=arrays[f"{layer.conv}.weight"],
                bias=arrays[f"{layer.conv}.bias"],
                scale=arrays[f"{layer.conv}.scale"],
                offset=arrays.get(f"{layer.conv}.offset"),
                pad=pad,
                next_scale=next_scale,
                zero_point=int(zero_point),
            )
        )
        pad = np.full(layer.out_channels, zero_point, np.uint8)
    return steps


def largest_sum(weight: NDArray[np.int8], bias: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the bound of what the sums of each output channel can reach, in any order of adding."""
    flat = weight.reshape(len(weight), -1).astype(np.int64)
    above = LARGEST * flat.clip(min=0).sum(axis=1) + bias.clip(min=0)
    below = LARGEST * (-flat).clip(min=0).sum(axis=1) + (-bias.astype(np.int64)).clip(min=0)
    bound: NDArray[np.int64] = np.maximum(above, below)
    return bound


def check_sums(config: NetworkConfig, arrays: dict[str, NDArray[Any]]) -> None:
    """Raise a ``WeightsError`` if some sum could be one that float32 does not hold."""
    for layer in config.layers():
        bound = int(largest_sum(arrays[f"{layer.conv}.weight"], arrays[f"{layer.conv}.bias"]).max())
        if bound > SUM_LIMIT:
            problem = f"{layer.conv}: sums are too large to be the same on every machine"
            raise WeightsError(problem, expected=f"{SUM_LIMIT} at most", found=str(bound))


def load_head(model: Model, *, features: bool = False) -> Callable[[NDArray[np.int32]], NDArray[np.float32]]:
    """Return the function from pooled sums to activations in 0..1: (n, n_features) int32 -> (n, bits) float32.

    With ``features`` it returns the pooled features, (n, n_features). Products and their sums are integers below 2^53,
    exact in float64; what follows is computed number by number, in operations that IEEE 754 rounds alike everywhere.
    """
    arrays, unit = model.arrays, model.config.unit_features
    pool_scale = arrays["pool.scale"] / model.config.layers()[-1].out_side ** 2
    if features:
        return lambda sums: (sums * (1 / _lengths(sums) if unit else pool_scale)).astype(np.float32)
    weight = arrays["hash.weight"].astype(np.float64).T
    scale = arrays["hash.scale"] if unit else arrays["hash.scale"] * pool_scale
    bias = arrays["hash.bias"]

    def activations(sums: NDArray[np.int32]) -> NDArray[np.float32]:
        products = sums.astype(np.float64) @ weight  # (n, bits)
        if unit:
            products /= _lengths(sums)
        return _sigmoid(products * scale + bias)

    return activations


def _lengths(sums: NDArray[np.int32]) -> NDArray[np.float64]:
    """(n, n_features) -> (n, 1), the Euclidean length, 1 at least."""
    squares = (sums.astype(np.int64) ** 2).sum(axis=1, keepdims=True)
    lengths: NDArray[np.float64] = np.sqrt(np.maximum(squares, 1).astype(np.float64))
    return lengths


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return 1 / (1 + exp(-x)). ``exp`` differs between machines, so here exp(y) is exp(y / 1024)^1024."""
    y = np.clip(-x, -40, 40) / 1024
    power = 1 + y * (1 + y / 2 * (1 + y / 3 * (1 + y / 4)))
    for _ in range(10):
        power *= power
    return (1 / (1 + power)).astype(np.float32)


def known_view(side: int) -> NDArray[np.uint8]:
    """Return the view whose pooled sums are stored with the weights, (1, s, s, 3): blotches, edges and noise."""
    y, x, color = np.indices((side, side, 3), np.int64)
    noise = (x * 7919 + y * 104729 + color * 1299709) * (x + 31 * y + 17) % 251
    waves = 128 + (x * (2 + color) * 256 // side) % 128 - (y * (5 - color) * 256 // side) % 128
    view: NDArray[np.uint8] = np.where(x + y < side, waves, noise).astype(np.uint8)[np.newaxis]
    return view


def is_exact(pooled: Pooled, model: Model) -> bool:
    """Return whether a backend computes what is stored as the known answer."""
    return bool(np.array_equal(pooled(known_view(model.config.input_size))[0], model.arrays["known_answer"]))


def float_arrays(model: Model) -> dict[str, NDArray[Any]]:
    """Return the arrays of a network that gradient descent trains as floats, as ``array_shapes`` lists them.

    Of one in integers they are what the integers stand for.
    """
    arrays, config = model.arrays, model.config
    if not model.is_integer:
        return dict(arrays)
    floats = {name: arrays[name] for name in config.array_shapes() if name in arrays and arrays[name].dtype.kind == "f"}
    for number, layer in enumerate(config.layers()):
        weight = arrays[f"{layer.conv}.weight"].transpose(0, 3, 1, 2) * _column(arrays[f"{layer.conv}.step"])
        if number == 0:  # the colors are standardized by the weights
            weight = weight * (255 * np.array(model.preprocessing.std)).reshape(-1, 1, 1)
        floats[f"{layer.conv}.weight"] = weight
    floats["hash.weight"] = arrays["hash.weight"] * arrays["hash.step"][:, np.newaxis]
    return {name: floats[name].astype(np.float32) for name in config.array_shapes()}


def _column(values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(-1, 1, 1, 1)
