"""From a trained network in floats to the network in integers that is deployed (``integer``).

Weights are scaled by output channel, activations by layer, to what calibration pictures reach. What rounding adds to a
channel on average is taken from its bias: Nagel et al., ICCV 2019, https://arxiv.org/abs/1906.04721, Data-free
quantization through weight equalization and bias correction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drhn_cli.errors import ConfigError
from drhn_cli.network.config import Layer
from drhn_cli.network.integer import (
    LARGEST,
    SUM_LIMIT,
    IntegerLayer,
    check_sums,
    known_view,
    writes_stream,
)
from drhn_cli.network.model import Model
from drhn_cli.network.numpy_backend import load_float_layers, load_integer_trunk, load_products, requantize
from drhn_cli.network.weights_file import integer_shapes

CALIBRATION_PICTURES = 300
"""Pictures that decide ranges; more of them change nothing that can be measured."""

_CORRECTION_PICTURES = 32
"""So many of them decide the biases. They are in memory at once."""

_OUTSIDE = 1e-5
"""Share of the activations that may lie outside of a range, on either side: without, precision fell by 0.004."""

_STREAM_USED = 20_000
"""What the largest value of the stream becomes; the rest, up to 32767, is for other pictures."""

_WEIGHT_LIMIT = 127
_HASH_LIMIT = 32767
_MOST_MULTIPLIED, _MOST_ADDED = 64, 2**22
"""Bounds of a layer's scale and offset, so that int32 holds the products. A channel beyond them is saturated anyway."""

_LARGEST_SIDE = 255  # of the last layer: int32 holds the sum of so many 16-bit numbers


@dataclass
class _Range:
    """The smallest and largest values of a layer, as many as may lie outside of its range."""

    n_kept: int
    low: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    high: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    def add(self, values: NDArray[np.float32]) -> None:
        self.high = _largest(self.high, values.ravel(), self.n_kept)
        self.low = -_largest(-self.low, -values.ravel(), self.n_kept)

    @property
    def bounds(self) -> tuple[float, float]:
        """All but the share outside, and zero."""
        return min(float(self.low.max()), 0.0), max(float(self.high.min()), 0.0)

    @property
    def farthest(self) -> float:
        return float(max(self.high.max(), -self.low.min()))


def _largest(kept: NDArray[np.float32], values: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """Return the n largest values of both, in no order."""
    if len(kept) == n:
        values = values[values > kept.min()]
    values = np.concatenate([kept, values])
    return values if len(values) <= n else np.partition(values, -n)[-n:]


def quantize(model: Model, pixels: NDArray[np.uint8]) -> Model:
    """Return the model in integers.

    Args:
        model: in floats.
        pixels: pictures as the model is to see them, (n, views * s, s, 3). The first view of some
            ``CALIBRATION_PICTURES``, spread evenly, is used.

    Raises:
        ConfigError: the last layer has more than 255 x 255 pixels.
        WeightsError: a sum could be one that float32 does not hold.
    """
    last = model.config.layers()[-1]
    if last.out_side > _LARGEST_SIDE:
        found = f"{last.out_side} x {last.out_side}"
        raise ConfigError(
            "the last layer has too many pixels", expected=f"{_LARGEST_SIDE} x {_LARGEST_SIDE}", found=found
        )
    views = pixels[calibration_rows(len(pixels))][:, : pixels.shape[2]]
    scales = _calibrate(model, views)
    corrected = views[:: -(-len(views) // _CORRECTION_PICTURES)]
    arrays = dict(_quantized_trunk(model, scales, corrected))
    arrays |= _kept(model) | _quantized_hash_layer(model)
    arrays["pool.scale"] = np.array(scales.unit if writes_stream(last) else scales.steps[-1])
    return with_known_answer(replace(model, arrays=arrays))


def calibration_rows(n: int) -> NDArray[np.int64]:
    """Return which of n pictures calibrate a network: all, or some of them, spread evenly."""
    rows: NDArray[np.int64] = np.unique(np.linspace(0, n - 1, min(n, CALIBRATION_PICTURES)).round().astype(np.int64))
    return rows


def replace_head(model: Model, head: Mapping[str, NDArray[Any]], **fields: Any) -> Model:
    """Return a model in integers with another hash layer and class layer, given in floats by their usual names.

    ``fields`` are those of ``Model`` that change with them.
    """
    floats = replace(model, arrays=head, **fields)
    trunk = {name: array for name, array in model.arrays.items() if not name.startswith(("hash", "classify"))}
    return with_known_answer(replace(floats, arrays={**trunk, **_kept(floats), **_quantized_hash_layer(floats)}))


def with_known_answer(model: Model) -> Model:
    """Return the model in integers with its arrays in order, and with the known answer of pictures of its size.

    Raises:
        WeightsError: a sum could be one that float32 does not hold.
    """
    shapes = integer_shapes(model.config)
    arrays = {
        name: model.arrays[name].astype(kind, order="C") for name, (_, kind) in shapes.items() if name in model.arrays
    }
    check_sums(model.config, arrays)
    arrays["known_answer"] = load_integer_trunk(replace(model, arrays=arrays))(known_view(model.config.input_size))[0]
    return replace(model, arrays=arrays)


def _kept(model: Model) -> dict[str, NDArray[Any]]:
    """Return what stays in floats: the class layer, and normalization for training."""
    return {name: array for name, array in model.arrays.items() if "norm." in name or name.startswith("classify")}


def _quantized_hash_layer(model: Model) -> dict[str, NDArray[Any]]:
    weight = model.arrays["hash.weight"].astype(np.float64)
    step = np.maximum(np.abs(weight).max(axis=1), 1e-30) / _HASH_LIMIT
    scale, bias = step, model.arrays.get("hash.bias")
    if bias is None:
        gain, bias = _fold(model.arrays, "hash_norm", 1e-5)
        scale = step * gain
    return {
        **{"hash.weight": np.rint(weight / step[:, np.newaxis]), "hash.scale": scale, "hash.bias": bias},
        **({"hash.step": step} if model.config.trunk == "residual" else {}),
    }


@dataclass(frozen=True)
class _Scales:
    """What the integers stand for: a step and a zero point for each layer's output, one unit for the stream."""

    steps: list[float]
    zero_points: list[int]
    unit: float


def _calibrate(model: Model, views: NDArray[np.uint8]) -> _Scales:
    layers = model.config.layers()
    n_values = [len(views) * layer.out_channels * layer.out_side**2 for layer in layers]
    ranges = [_Range(max(1, round(n * _OUTSIDE))) for n in n_values]
    walk = load_float_layers(model)
    for view in views:
        for each, output in zip(ranges, walk(view[np.newaxis]), strict=True):
            each.add(output)
    is_stream = [writes_stream(layer) for layer in layers]
    steps, zero_points = list[float](), list[int]()
    for each in ranges:
        low, high = each.bounds
        step = max(high - low, 1e-6) / LARGEST
        steps.append(step)
        zero_points.append(round(-low / step))
    farthest = max((each.farthest for each, is_wide in zip(ranges, is_stream, strict=True) if is_wide), default=0.0)
    return _Scales(steps, zero_points, max(farthest, 1e-6) / _STREAM_USED)


def _quantized_trunk(model: Model, scales: _Scales, views: NDArray[np.uint8]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the arrays of the trunk, by layer. Biases are corrected on the views."""
    layers = model.config.layers()
    walk = load_float_layers(model)
    pictures = [_Picture(walk, view[np.newaxis]) for view in views]
    mean, std = (255 * np.array(values) for values in (model.preprocessing.mean, model.preprocessing.std))
    value, zero = 1 / std, mean  # of a unit of the input, and where its zero is; of each channel
    next_scales = np.ones(len(layers), np.float32)
    zero_points = np.zeros(len(layers), np.uint8)
    for number, layer in enumerate(layers):
        step_out, unit = scales.steps[number], scales.unit
        if writes_stream(layer):
            next_scales[number], zero_points[number] = unit / step_out, scales.zero_points[number]
        step, arrays = _quantized_layer(model, layer, (value, zero), unit if writes_stream(layer) else step_out)
        step = replace(step, next_scale=next_scales[number], zero_point=int(zero_points[number]))
        step = _corrected(step, arrays.pop("worth"), pictures)
        yield f"{layer.conv}.bias", step.bias
        for part, array in arrays.items():
            yield f"{layer.conv}.{part}", array
        value = np.full(layer.out_channels, step_out)
        zero = np.full(layer.out_channels, float(zero_points[number]))
    yield "next_scale", next_scales
    yield "zero_point", zero_points


def _quantized_layer(
    model: Model, layer: Layer, source: tuple[NDArray[np.float64], NDArray[np.float64]], unit: float
) -> tuple[IntegerLayer, dict[str, NDArray[Any]]]:
    """Return the layer, not corrected yet, and its arrays; ``worth`` among them is the value of a unit of the sum.

    ``source`` is the value of a unit of the input and its zero, of each channel; ``unit`` is the value of one of the
    output.
    """
    value, zero = source
    weight = model.arrays[f"{layer.conv}.weight"].astype(np.float64).transpose(0, 2, 3, 1)  # (out, kernel, kernel, in)
    gain, shift = _fold(model.arrays, layer.norm, layer.epsilon)
    bias = np.zeros_like(gain)
    if layer.norm_first:
        weight, bias = weight * _column(gain), shift
    is_depthwise = layer.groups > 1
    weight = weight * (_column(value) if is_depthwise else value)
    worth = _worth(weight, bias, is_depthwise=is_depthwise)
    rounded = np.rint(weight / _column(worth)).clip(-_WEIGHT_LIMIT, _WEIGHT_LIMIT)
    of_zero = (rounded.sum(axis=(1, 2, 3)) * zero) if is_depthwise else (rounded * zero).sum(axis=(1, 2, 3))
    scale = (worth if layer.norm_first else worth * gain) / unit
    arrays = {
        "weight": np.ascontiguousarray(rounded.astype(np.int8)),
        "scale": scale.clip(-_MOST_MULTIPLIED, _MOST_MULTIPLIED).astype(np.float32),
        "worth": worth,
    }
    if not layer.norm_first:
        arrays["offset"] = np.rint(shift / unit).clip(-_MOST_ADDED, _MOST_ADDED).astype(np.int32)
        # Of the weights as they were trained, where values of the input are not in them; but for the stem's colors.
        arrays["step"] = (worth / (1 if layer.conv == "stem_conv" else value[0])).astype(np.float32)
    return IntegerLayer(
        layer=layer,
        weight=arrays["weight"],
        bias=np.rint(bias / worth - of_zero).astype(np.int32),
        scale=arrays["scale"],
        offset=arrays.get("offset"),
        pad=np.rint(zero).astype(np.uint8),
        next_scale=np.float32(1),
        zero_point=0,
    ), arrays


def _worth(weight: NDArray[np.float64], bias: NDArray[np.float64], *, is_depthwise: bool) -> NDArray[np.float64]:
    """Return what a unit of each filter is worth, so that what follows from it is exact everywhere: (out,).

    AVX2 adds the products of two neighbors in 16 bits, where those of weights above 128 in sum do not fit. The bias of
    a dead channel, whose weights are nearly zero, must not become larger than a sum may be.
    """
    largest = np.abs(weight).max(axis=(1, 2, 3))
    for first, second in _neighbors(weight, is_depthwise=is_depthwise):
        largest = np.maximum(largest, np.abs(first + second).reshape(len(weight), -1).max(axis=1, initial=0))
    worth: NDArray[np.float64] = np.maximum(largest / _WEIGHT_LIMIT, np.abs(bias) / 2**22)
    half = np.maximum(weight.clip(min=0).sum(axis=(1, 2, 3)), (-weight).clip(min=0).sum(axis=(1, 2, 3)))
    n_weights = weight[0].size  # each may be rounded up by half a unit
    worth = np.maximum(worth, half / ((SUM_LIMIT - 2**22) / LARGEST - n_weights / 2))
    return worth.clip(min=1e-30)


def _neighbors(
    weight: NDArray[np.float64], *, is_depthwise: bool
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yield the weights (out, kernel, kernel, in) that a kernel may multiply in pairs."""
    if is_depthwise:
        yield weight[:, 1:], weight[:, :-1]
        return
    n_pairs = weight.shape[3] // 2
    yield weight[..., : 2 * n_pairs : 2], weight[..., 1 : 2 * n_pairs : 2]
    if weight.shape[3] == 3:  # the bytes of a row of pixels
        rows = weight.reshape(*weight.shape[:2], -1)
        n_pairs = rows.shape[2] // 2
        yield rows[..., : 2 * n_pairs : 2], rows[..., 1 : 2 * n_pairs : 2]


class _Picture:
    """A picture on its way through both networks, layer by layer."""

    def __init__(self, walk: Callable[..., Iterator[NDArray[np.float32]]], view: NDArray[np.uint8]) -> None:
        self._floats = walk(view, self._observe)
        self._mean: NDArray[np.float64]
        self.x = self._stream = self._shortcut = view.astype(np.float32)

    def _observe(self, sums: NDArray[np.float32]) -> None:
        self._mean = _channel_means(sums)

    def next_mean(self) -> NDArray[np.float64]:
        """Return the mean of each channel that the next layer has in floats, before its activation."""
        next(self._floats)
        return self._mean

    def advance(self, step: IntegerLayer, products: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
        """Apply a layer in integers."""
        if step.layer.opens_block:
            self._shortcut = self._stream
        self.x, self._stream = requantize(step, products(self.x), self._stream, self._shortcut)


def _channel_means(x: NDArray[np.float32]) -> NDArray[np.float64]:
    means: NDArray[np.float64] = x.mean(axis=(0, 1, 2), dtype=np.float64)
    return means


def _corrected(step: IntegerLayer, worth: NDArray[np.float64], pictures: list[_Picture]) -> IntegerLayer:
    """Return the layer with a bias that makes the mean of its sums what it is in floats; apply it to the pictures."""
    products = load_products(step)
    wanted = np.mean([picture.next_mean() for picture in pictures], axis=0)
    found = np.mean([_channel_means(products(picture.x)) for picture in pictures], axis=0)
    step = replace(step, bias=step.bias + np.rint(wanted / worth - found).astype(np.int32))
    products = load_products(step)
    for picture in pictures:
        picture.advance(step, products)
    return step


def _fold(
    arrays: Mapping[str, NDArray[Any]], name: str, epsilon: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return batch normalization as a factor and a summand of each channel."""
    weight, bias, mean, var = (
        arrays[f"{name}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
    )
    gain: NDArray[np.float64] = weight / np.sqrt(var + epsilon)
    shift: NDArray[np.float64] = bias - mean * gain
    return gain, shift


def _column(values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(-1, 1, 1, 1)
