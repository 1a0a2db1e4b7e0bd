"""The network in numpy, which encodes a few pictures in less time than importing torch takes.

Convolutions are matrix products over patches. Arrays are (n, side, side, channels), so that a patch is contiguous.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, cast

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from drhn_cli.network.config import Activation, Layer
from drhn_cli.network.model import Model

BATCH = 4
"""Views at a time: their patches, 9 MB in the widest layer for 32x32 pixels, stay in the cache."""

_EPSILON = np.float32(1e-5)
"""As in torch's batch normalization."""

_Floats = NDArray[np.float32]
_ACTIVATIONS: dict[Activation, Callable[[_Floats], _Floats]] = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0, out=x),
    "relu6": lambda x: np.clip(x, 0, 6, out=x),
}
_BLAS_SETTERS = ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "openblas_set_num_threads")


def load_numpy(model: Model) -> Callable[[NDArray[np.uint8]], _Floats]:
    """Return a function from (n, s, s, 3) uint8 views to (n, bits) activations in 0..1, float32.

    The codes are those of the torch network, except where an activation is within rounding errors of the threshold.
    """
    layers = model.config.layers()
    filters = {layer.conv: _by_patch(model.arrays[f"{layer.conv}.weight"]) for layer in layers}
    norms = {layer.norm: _fold_norm(model.arrays, layer.norm) for layer in layers}
    mean, std = np.array([model.preprocessing.mean, model.preprocessing.std], np.float32) * np.float32(255)
    hash_weight = model.arrays["hash.weight"].astype(np.float32)
    if model.config.hash_norm:
        hash_scale, hash_shift = _fold_norm(model.arrays, "hash_norm")
    else:
        hash_scale, hash_shift = np.ones(1, np.float32), model.arrays["hash.bias"].astype(np.float32)

    def activations(views: NDArray[np.uint8]) -> _Floats:
        x: _Floats = (views - mean) / std  # (n, s, s, 3)
        block_input = x
        for layer in layers:
            block_input = x if layer.opens_block else block_input
            x = _convolve(x, filters[layer.conv], layer)
            if layer.max_pool:
                x = _tiles(x).max(axis=(2, 4))
            if layer.norm_first:
                x = _ACTIVATIONS[layer.activation](_scale(x, *norms[layer.norm]))
            else:
                x = _scale(_ACTIVATIONS[layer.activation](x), *norms[layer.norm])
            if layer.closes_block:
                shortcut = block_input if layer.shortcut_pool == 1 else _tiles(block_input).mean(axis=(2, 4))
                x[..., : shortcut.shape[3]] += shortcut  # channels that the shortcut lacks stay as they are
        features = x.mean(axis=(1, 2))  # (n, channels): the average pooling layer
        sums = _scale(features @ hash_weight.T, hash_scale, hash_shift)
        return cast(_Floats, np.tanh(sums / 2) / 2 + np.float32(0.5))  # a sigmoid that does not overflow

    return activations


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


def _convolve(x: _Floats, filters: _Floats, layer: Layer) -> _Floats:
    """Convolve, with zero padding: (n, s, s, in) -> (n, s / stride, s / stride, out)."""
    n, side, _, channels = x.shape
    kernel, pad = layer.kernel, layer.kernel // 2
    padded = np.zeros((n, side + 2 * pad, side + 2 * pad, channels), np.float32)
    padded[:, pad : pad + side, pad : pad + side] = x
    windows = sliding_window_view(padded, (kernel, kernel), axis=(1, 2))  # (n, s, s, in, kernel, kernel)
    windows = windows[:, :: layer.stride, :: layer.stride]
    out_side = windows.shape[1]
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(n * out_side * out_side, len(filters))
    return (patches @ filters).reshape(n, out_side, out_side, layer.out_channels)


def _by_patch(filters: NDArray[np.floating]) -> _Floats:
    """(out, in, kernel, kernel) -> (kernel * kernel * in, out), the order of the values of a patch."""
    n_out, n_in, *kernel = filters.shape
    ordered = np.empty((*kernel, n_in, n_out), np.float32)
    for start in range(0, n_out, 32):  # 32 at a time stay in the cache, which halves the time
        ordered[..., start : start + 32] = filters[start : start + 32].transpose(2, 3, 1, 0)
    return ordered.reshape(-1, n_out)


def _fold_norm(arrays: Mapping[str, NDArray[Any]], name: str) -> tuple[_Floats, _Floats]:
    """Return batch normalization as a scale and a shift of each channel."""
    weight, bias, mean, var = (
        arrays[f"{name}.{part}"].astype(np.float32) for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / np.sqrt(var + _EPSILON)
    return scale, bias - mean * scale


def _scale(x: _Floats, scale: _Floats, shift: _Floats) -> _Floats:
    x *= scale
    x += shift
    return x


def _tiles(x: _Floats) -> NDArray[Any]:
    """(n, s, s, c) -> (n, s / 2, 2, s / 2, 2, c): tiles of 2x2 pixels."""
    n, side, _, channels = x.shape
    return x.reshape(n, side // 2, 2, side // 2, 2, channels)
