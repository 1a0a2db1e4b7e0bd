"""Fit pictures to the network's square input."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drhn_cli.config import Preprocessing

# Pillow widens the filter when it shrinks, so this is antialiased. Bicubic keeps edges without Lanczos' ringing.
RESAMPLING = Image.Resampling.BICUBIC

PAD_GREY = (128, 128, 128)


_Box = tuple[float, float, float, float]  # left, top, right, bottom


def fit_image(
    image: Image.Image, preprocessing: Preprocessing, *, scale: int = 1, margins: _Box = (0, 0, 0, 0)
) -> NDArray[np.uint8]:
    """Bring a picture to size x size pixels.

    ``crop`` takes the largest square at the centre, ``squash`` ignores the shape, ``pad`` fills up with mid-grey. A
    picture that has the size already is left as it is, bit for bit.

    Args:
        image: mode ``RGB``, at least 1 x 1.
        preprocessing: ``size`` and ``fit`` are used.
        scale: pixels of the picture in one of the image's: what is cut out are whole pixels of the picture.
        margins: how far the image reaches beyond the picture, see ``Decoded``.

    Returns:
        (size, size, 3) pixels in 0..255.

    Source: ours.
    """
    size = preprocessing.size
    left, top, right, bottom = margins
    box = (left, top, image.width - right, image.height - bottom)
    if preprocessing.fit == "pad":
        fitted = _pad(image, size, box)
    else:
        # Nothing outside the box is resampled, however long the picture.
        box = _centre_square(box, scale) if preprocessing.fit == "crop" else box
        fitted = image.resize((size, size), RESAMPLING, box=box)
    return np.array(fitted, dtype=np.uint8)


def _centre_square(box: _Box, scale: int) -> _Box:
    # Whole pixels: half a pixel off would blur a picture that needs no resampling.
    width, height = (round(side * scale) for side in _sides(box))
    side = min(width, height)
    left = box[0] + (width - side) // 2 / scale
    top = box[1] + (height - side) // 2 / scale
    return left, top, left + side / scale, top + side / scale


def _pad(image: Image.Image, size: int, box: _Box) -> Image.Image:
    sides = _sides(box)
    width, height = (max(1, round(side * size / max(sides))) for side in sides)
    canvas = Image.new("RGB", (size, size), PAD_GREY)
    canvas.paste(image.resize((width, height), RESAMPLING, box=box), ((size - width) // 2, (size - height) // 2))
    return canvas


def _sides(box: _Box) -> tuple[float, float]:
    left, top, right, bottom = box
    return right - left, bottom - top
