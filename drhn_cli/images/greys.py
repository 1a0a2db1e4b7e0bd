"""Bring greys of more than 8 bits down to 8."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile


def is_deep_grey(picture: Image.Image) -> bool:
    """Whether a picture is grey with 16 or 32 bits, which Pillow's own conversion clips to white."""
    return picture.mode in ("I", "F") or picture.mode.startswith("I;16")


def to_8_bit_grey(picture: Image.Image) -> Image.Image:
    """Scale a deep grey picture to 0..255, rounding to the nearest.

    16-bit pictures are scaled by their full range (12-bit TIFF by its own). 32-bit integers and floats do not say
    theirs: it is taken to be 0..1, 0..255 or 0..65535, the first that holds every value, and failing that (negative
    or larger values) the range from the smallest to the largest. Values that are not finite become the nearest end,
    NaN the lower one.

    Args:
        picture: loaded, for which ``is_deep_grey`` holds.

    Returns:
        A picture of mode ``L``, without transparency: the colour that a PNG marks as transparent becomes white.
    """
    pixels = np.asarray(picture)  # (height, width)
    if picture.mode.startswith("I;16"):
        full_range = 4095 if _is_12_bit(picture) else 65535
        table = (np.arange(65536, dtype=np.int64) * 255 + full_range // 2) // full_range
        grey = np.minimum(table, 255).astype(np.uint8)[pixels]
    else:
        grey = _scale_unknown_range(pixels)
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        grey[pixels == transparent] = 255
    return Image.fromarray(grey)


def _is_12_bit(picture: Image.Image) -> bool:
    return isinstance(picture, TiffImageFile) and picture.tag_v2.get(BITSPERSAMPLE) in (12, (12,))


def _scale_unknown_range(pixels: NDArray[np.float32] | NDArray[np.int32]) -> NDArray[np.uint8]:
    finite = pixels[np.isfinite(pixels)]
    if finite.size == 0:
        return np.zeros(pixels.shape, np.uint8)
    low, high = float(finite.min()), float(finite.max())
    with np.errstate(invalid="ignore"):  # a signalling NaN is still only a NaN
        values = np.nan_to_num(pixels.astype(np.float64), nan=low, posinf=high, neginf=low)
    if low >= 0 and high <= 65535:
        low, high = 0.0, next(top for top in (1.0, 255.0, 65535.0) if high <= top)
    values -= low
    values /= (high - low) or 1.0
    values *= 255
    return np.rint(values).astype(np.uint8)
