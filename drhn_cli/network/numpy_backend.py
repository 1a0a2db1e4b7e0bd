"""The network in numpy: in integers where there is no library in C, and in floats for calibration and older weights.

Convolutions are matrix products over patches, depthwise ones sums over shifted inputs. Arrays are (n, side, side,
channels), so that a patch is contiguous.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, cast

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from drhn_cli.network.config import Activation, Layer
from drhn_cli.network.integer import LARGEST, STREAM_LIMIT, IntegerLayer, Pooled, integer_layers
from drhn_cli.network.model import Model

_Floats = NDArray[np.float32]
_Step = Callable[[_Floats], _Floats]
_ACTIVATIONS: dict[Activation, _Step] = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0, out=x),
    "relu6": lambda x: np.clip(x, 0, 6, out=x),
}
_BLAS_SETTERS = ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "openblas_set_num_threads")


def load_numpy(model: Model, *, features: bool = False) -> Callable[[NDArray[np.uint8]], _Floats]:
    """Return a function from (n, s, s, 3) uint8 views to (n, bits) activations in 0..1, float32.

    With ``features`` the function returns the (n, n_features) pooled features, the input of the hash layer. The codes
    are those of the torch network, except where an activation is within rounding errors of the threshold.
    """
    trunk = _load_trunk(model)
    if features:
        return trunk
    hash_weight = model.arrays["hash.weight"].astype(np.float32)
    if model.config.hash_norm:
        hash_scale, hash_shift = _fold_norm(model.arrays, "hash_norm")
    else:
        hash_scale, hash_shift = np.ones(1, np.float32), model.arrays["hash.bias"].astype(np.float32)

    def activations(views: NDArray[np.uint8]) -> _Floats:
        sums = _scale(trunk(views) @ hash_weight.T, hash_scale, hash_shift)
        return cast(_Floats, np.tanh(sums / 2) / 2 + np.float32(0.5))  # a sigmoid that does not overflow

    return activations


def _load_trunk(model: Model) -> Callable[[NDArray[np.uint8]], _Floats]:
    """Return the function from views to pooled features."""
    walk = load_float_layers(model)

    def features(views: NDArray[np.uint8]) -> _Floats:
        (last,) = deque(walk(views), maxlen=1)
        pooled: _Floats = last.mean(axis=(1, 2))  # (n, n_features): the average pooling layer
        if model.config.unit_features:
            pooled /= np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), np.float32(1e-12))
        return pooled

    return features


def load_float_layers(model: Model) -> Callable[..., Iterator[_Floats]]:
    """Return a function that yields the output of each layer of the trunk, (n, side, side, out), for n views.

    A second argument is a function that is given what a layer is before pooling and activation, normalization included
    where that comes first.
    """
    layers = [(layer, *_load_layer(model.arrays, layer)) for layer in model.config.layers()]
    mean, std = np.array([model.preprocessing.mean, model.preprocessing.std], np.float32) * np.float32(255)

    def walk(views: NDArray[np.uint8], observe: Callable[[_Floats], None] = lambda _: None) -> Iterator[_Floats]:
        x: _Floats = (views - mean) / std  # (n, s, s, 3)
        block_input = x
        for layer, convolve, activate in layers:
            block_input = x if layer.opens_block else block_input
            x = convolve(x)
            observe(x)
            x = activate(x)
            if layer.closes_block:
                shortcut = block_input if layer.shortcut_pool == 1 else _tiles(block_input).mean(axis=(2, 4))
                x[..., : shortcut.shape[3]] += shortcut  # channels that the shortcut lacks stay as they are
            yield x

    return walk


def load_integer_trunk(model: Model) -> Pooled:
    """Return the trunk of a model in integers: (n, s, s, 3) uint8 views -> (n, n_features) int32 pooled sums.

    The integers are held in float32, as BLAS multiplies no others.
    """
    steps = [(step, load_products(step)) for step in integer_layers(model)]

    def pooled(views: NDArray[np.uint8]) -> NDArray[np.int32]:
        x = views.astype(np.float32)  # (n, s, s, 3)
        stream = shortcut = x
        for step, products in steps:
            shortcut = stream if step.layer.opens_block else shortcut
            x, stream = requantize(step, products(x), stream, shortcut)
        last = stream if steps[-1][0].writes_stream else x
        return cast("NDArray[np.int32]", last.sum(axis=(1, 2), dtype=np.float64).astype(np.int32))

    return pooled


def load_products(step: IntegerLayer) -> _Step:
    """Return the convolution of a layer in integers, bias included, before pooling."""
    if step.layer.groups > 1:
        convolve = _depthwise(step.weight[..., 0].transpose(1, 2, 0), step.layer, step.pad)
    else:
        convolve = _dense(step.weight.reshape(len(step.weight), -1).T.astype(np.float32), step.layer, step.pad)
    bias = step.bias.astype(np.float32)

    def products(x: _Floats) -> _Floats:
        sums = convolve(x)
        sums += bias
        return sums

    return products


def requantize(step: IntegerLayer, sums: _Floats, stream: _Floats, shortcut: _Floats) -> tuple[_Floats, _Floats]:
    """Return output and stream of a layer, given its sums, the stream before it and that at the block's beginning."""
    layer = step.layer
    if layer.max_pool:
        sums = _tiles(sums).max(axis=(2, 4))
    if layer.activation == "relu":
        np.maximum(sums, 0, out=sums)
    sums *= step.scale
    np.rint(sums, out=sums)
    if not step.writes_stream:
        return np.clip(sums, 0, LARGEST, out=sums), stream
    if step.offset is not None:
        sums += step.offset.astype(np.float32)
    if layer.closes_block:
        if layer.shortcut_pool > 1:
            shortcut = np.rint(_tiles(shortcut).sum(axis=(2, 4)) * np.float32(1 / layer.shortcut_pool**2))
        sums[..., : shortcut.shape[3]] += shortcut
    np.clip(sums, -STREAM_LIMIT - 1, STREAM_LIMIT, out=sums)
    output = np.rint(sums * step.next_scale)
    output += step.zero_point
    return np.clip(output, 0, LARGEST, out=output), sums


def use_one_thread() -> bool:
    """Make OpenBLAS multiply in the calling thread, from now on; return False where numpy has another BLAS.

    Its own threads spin for a while after each product, and simultaneous products wait for each other. OpenBLAS is
    found through numpy's extension module, which is linked with it; in numpy's wheels it has the first of the names.
    """
    try:
        library = ctypes.CDLL(import_module("numpy._core._multiarray_umath").__file__)
    except OSError:
        return False
    setters = [getattr(library, name) for name in _BLAS_SETTERS if hasattr(library, name)]
    if setters:
        setters[0](1)
    return bool(setters)


def _load_layer(arrays: Mapping[str, NDArray[Any]], layer: Layer) -> tuple[_Step, _Step]:
    """Return a layer as two functions: convolution, and pooling, normalization and activation."""
    filters, activate = arrays[f"{layer.conv}.weight"], _ACTIVATIONS[layer.activation]
    scale, shift = _fold_norm(arrays, layer.norm, layer.epsilon)
    is_folded = layer.norm_first and not layer.max_pool
    if is_folded:  # nothing is between the two, so the filters have the scale of the normalization
        filters = filters * scale[:, np.newaxis, np.newaxis, np.newaxis]
    convolution = _load_convolution(filters, layer)

    def convolve(x: _Floats) -> _Floats:
        x = convolution(x)
        if is_folded:
            x += shift
        return x

    def finish(x: _Floats) -> _Floats:
        if layer.max_pool:
            x = _tiles(x).max(axis=(2, 4))
        if is_folded:
            return activate(x)
        return activate(_scale(x, scale, shift)) if layer.norm_first else _scale(activate(x), scale, shift)

    return convolve, finish


def _load_convolution(filters: NDArray[np.floating], layer: Layer) -> _Step:
    """Return the convolution (n, s, s, in) -> (n, s / stride, s / stride, out); of groups only depthwise ones."""
    if layer.groups > 1:
        return _depthwise(filters[:, 0].transpose(1, 2, 0), layer)
    return _dense(_by_patch(filters), layer)


def _depthwise(filters: NDArray[Any], layer: Layer, pad: NDArray[Any] | None = None) -> _Step:
    """Return the depthwise convolution with filters (kernel, kernel, channels)."""
    # A weight for each value of a row, (kernel, kernel, side, channels), so that whole rows are multiplied.
    taps = filters[:, :, np.newaxis].astype(np.float32)
    rows = np.ascontiguousarray(np.broadcast_to(taps, (*taps.shape[:2], layer.conv_side, layer.out_channels)))
    return lambda x: np.einsum("nhwcyx,yxwc->nhwc", _windows(x, layer, pad), rows)


def _dense(matrix: _Floats, layer: Layer, pad: NDArray[Any] | None = None) -> _Step:
    """Return the convolution with filters (kernel * kernel * in, out)."""

    def convolve(x: _Floats) -> _Floats:
        is_plain = layer.kernel == layer.stride == 1
        patches = x if is_plain else _windows(x, layer, pad).transpose(0, 1, 2, 4, 5, 3)
        product = patches.reshape(-1, len(matrix)) @ matrix
        return product.reshape(*patches.shape[:3], -1)

    return convolve


def _windows(x: _Floats, layer: Layer, pad: NDArray[Any] | None) -> NDArray[Any]:
    """Pad the input, with zeros or ``pad`` (in,), and return a view of it, (n, conv_side, conv_side, in, k, k)."""
    n, side, _, channels = x.shape
    before, after = layer.padding
    padded = np.zeros((n, before + side + after, before + side + after, channels), np.float32)
    if pad is not None and pad.any():
        padded[...] = pad
    padded[:, before : before + side, before : before + side] = x
    windows = sliding_window_view(padded, (layer.kernel, layer.kernel), axis=(1, 2))
    return windows[:, :: layer.stride, :: layer.stride]


def _by_patch(filters: NDArray[np.floating]) -> _Floats:
    """(out, in, kernel, kernel) -> (kernel * kernel * in, out), the order of the values of a patch."""
    n_out, n_in, *kernel = filters.shape
    ordered = np.empty((*kernel, n_in, n_out), np.float32)
    for start in range(0, n_out, 32):  # 32 at a time stay in the cache, which halves the time
        ordered[..., start : start + 32] = filters[start : start + 32].transpose(2, 3, 1, 0)
    return ordered.reshape(-1, n_out)


def _fold_norm(arrays: Mapping[str, NDArray[Any]], name: str, epsilon: float = 1e-5) -> tuple[_Floats, _Floats]:
    """Return batch normalization as a scale and a shift of each channel."""
    weight, bias, mean, var = (
        arrays[f"{name}.{part}"].astype(np.float32) for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / np.sqrt(var + np.float32(epsilon))
    return scale, bias - mean * scale


def _scale(x: _Floats, scale: _Floats, shift: _Floats) -> _Floats:
    x *= scale
    x += shift
    return x


def _tiles(x: _Floats) -> NDArray[Any]:
    """(n, s, s, c) -> (n, s / 2, 2, s / 2, 2, c): tiles of 2x2 pixels."""
    n, side, _, channels = x.shape
    return x.reshape(n, side // 2, 2, side // 2, 2, channels)
