"""From pixels to activations with numpy alone: done before torch would have been imported.

Convolutions are matrix products over patches; arrays are (n, side, side, channels), so that a patch is contiguous and
the product's rows are pixels.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from drhn_cli.config import N_GROUPS
from drhn_cli.network.encoder import Encoder, mean_of_views, split_views
from drhn_cli.network.model import Model

_EPSILON = 1e-5
"""Of torch's batch normalisation."""

CHUNK = 4
"""Images at a time: their patches, 9 MB in the widest layer of 32x32 images, stay in the cache."""

_Floats = NDArray[np.float32]


class NumpyEncoder(Encoder):
    """A trained network on the CPU, without torch. Bits are the torch network's but for activations at the threshold.

    Args:
        model: the trained network.

    Attributes:
        model: the trained network as arrays.
        step: images at a time.
    """

    step = CHUNK

    def __init__(self, model: Model) -> None:
        self.model = model
        self._arrays = {name: array.astype(np.float32) for name, array in model.arrays.items() if array.ndim < 4}
        self._filters = {
            name.removesuffix(".weight"): _by_patch(array) for name, array in model.arrays.items() if array.ndim == 4
        }
        self._norms = {
            name.removesuffix(".running_var"): self._fold_norm(name.removesuffix(".running_var"))
            for name in model.arrays
            if name.endswith(".running_var")
        }

    def activations(self, pixels: NDArray[np.uint8]) -> _Floats:
        """Return the hash layer's activations: (n, views * s, s, 3) uint8 -> (n, bits) float32 in 0..1."""
        views = split_views(pixels)
        parts = [np.empty((0, self.model.config.bits), np.float32)]
        parts += [self._forward(views[start : start + CHUNK]) for start in range(0, len(views), CHUNK)]
        return mean_of_views(np.concatenate(parts), self.model.preprocessing.views)

    def _forward(self, pixels: NDArray[np.uint8]) -> _Floats:
        config, preprocessing = self.model.config, self.model.preprocessing
        mean, std = (np.array(values, np.float32) * 255 for values in (preprocessing.mean, preprocessing.std))
        x = (pixels - mean) / std  # (n, s, s, 3)
        x = self._normalise(np.maximum(self._convolve(x, "stem_conv", config.stem_stride), 0), "stem_norm")
        for group in range(N_GROUPS):
            for block in range(config.blocks):
                halves = block == 0 and group + 1 in config.downsample_at
                pools = halves and config.downsample == "max"
                name = f"groups.{group}.{block}"
                y = self._convolve(x, f"{name}.conv", 2 if halves and not pools else 1)
                if pools:
                    y = _tiles(y).max(axis=(2, 4))
                y = self._normalise(np.maximum(y, 0, out=y), f"{name}.norm")
                if halves:
                    x = _tiles(x).mean(axis=(2, 4))
                y[..., : x.shape[3]] += x  # channels beyond those of x are widened with zeros
                x = y
        return self._hash(x.mean(axis=(1, 2)))

    def _hash(self, features: _Floats) -> _Floats:
        """(n, widths[-1]) -> (n, bits)."""
        sums = features @ self._arrays["hash.weight"].T
        if self.model.config.hash_norm:
            sums = self._normalise(sums, "hash_norm")
        else:
            sums += self._arrays["hash.bias"]
        # Half of a hyperbolic tangent, which does not overflow.
        return cast(_Floats, np.tanh(sums / 2) / 2 + np.float32(0.5))

    def _convolve(self, x: _Floats, name: str, stride: int) -> _Floats:
        """3x3 convolution, zeros around: (n, s, s, in) -> (n, s / stride, s / stride, out)."""
        n, side, _, channels = x.shape
        padded = np.zeros((n, side + 2, side + 2, channels), np.float32)
        padded[:, 1:-1, 1:-1] = x
        windows = sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::stride, ::stride]  # (n, s, s, in, 3, 3)
        out_side = windows.shape[1]
        patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(n * out_side * out_side, 9 * channels)
        return (patches @ self._filters[name]).reshape(n, out_side, out_side, -1)

    def _fold_norm(self, name: str) -> tuple[_Floats, _Floats]:
        """Return batch normalisation as a factor and a summand for each channel."""
        factor = self._arrays[f"{name}.weight"] / np.sqrt(self._arrays[f"{name}.running_var"] + np.float32(_EPSILON))
        return factor, self._arrays[f"{name}.bias"] - self._arrays[f"{name}.running_mean"] * factor

    def _normalise(self, x: _Floats, name: str) -> _Floats:
        factor, summand = self._norms[name]
        x *= factor
        x += summand
        return x


def _by_patch(filters: NDArray[np.floating]) -> _Floats:
    """(out, in, 3, 3) -> (3 * 3 * in, out), the order of the values of a patch."""
    n_out, n_in = filters.shape[:2]
    ordered = np.empty((3, 3, n_in, n_out), np.float32)
    for start in range(0, n_out, 32):  # so many at a time stay in the cache: half the time
        ordered[..., start : start + 32] = filters[start : start + 32].transpose(2, 3, 1, 0)
    return ordered.reshape(-1, n_out)


def _tiles(x: _Floats) -> NDArray[Any]:
    """(n, s, s, c) -> (n, s / 2, 2, s / 2, 2, c): tiles of 2x2 pixels."""
    n, side, _, channels = x.shape
    return x.reshape(n, side // 2, 2, side // 2, 2, channels)
