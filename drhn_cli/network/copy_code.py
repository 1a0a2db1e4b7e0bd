"""Copy codes: what tells copies of one picture from pictures that are merely alike.

The signs of the lowest frequencies of a picture, as in perceptual hashing (Zauner 2010, "Implementation and
benchmarking of perceptual image hash functions"), but without a median. All arithmetic is exact, so a picture has the
same signs on every machine.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

DCT_VERSION = 1
"""Signs of another version cannot be compared."""

_SIDE, _N_FREQUENCIES = 64, 16
_LUMINANCE = np.array([299.0, 587.0, 114.0])  # of ITU-R BT.601, in thousandths


def dct_signs(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return which of a picture's lowest frequencies are positive: (h, w, 3) uint8, RGB -> (32,) uint8.

    The luminance is averaged over 64x64 boxes. Bit 16 * u + v is the sign of the coefficient of the two-dimensional
    DCT-II with u half waves from top to bottom and v from left to right; bit 0, of the constant one, is 0. Bits are
    packed as those of codes are.
    """
    # float64 holds all of these integers exactly: sums of at most 2^50 here, and of less than 2^52 below.
    luminance = pixels @ _LUMINANCE  # (h, w), 0..255,000
    height, width = luminance.shape
    if (height, width) != (_SIDE, _SIDE):
        luminance = _boxes(height) @ luminance @ _boxes(width).T / (height * width)  # (64, 64)
    waves = _waves()
    coefficients = waves @ np.floor(luminance * 0.256) @ waves.T  # (16, 16)
    coefficients[0, 0] = 0
    return np.packbits(coefficients.ravel() > 0, bitorder="little")


@lru_cache(maxsize=8)
def _boxes(n: int) -> NDArray[np.float64]:
    """Return how much of each of n pixels, in 64ths, lies in each of 64 boxes of equal length: (64, n)."""
    starts, pixel_starts = np.arange(_SIDE)[:, np.newaxis] * n, np.arange(n) * _SIDE
    shared = np.minimum(starts + n, pixel_starts + _SIDE) - np.maximum(starts, pixel_starts)
    return np.asarray(np.maximum(shared, 0), np.float64)


@lru_cache(maxsize=1)
def _waves() -> NDArray[np.float64]:
    """Return the cosines of the DCT-II as whole numbers: (16, 64)."""
    angles = np.pi / (2 * _SIDE) * np.outer(np.arange(_N_FREQUENCIES), 2 * np.arange(_SIDE) + 1)
    return np.asarray(np.rint(4096 * np.cos(angles)), np.float64)
