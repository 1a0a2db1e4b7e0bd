"""Fit pictures to the network's square input."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drhn_cli.config import Preprocessing

# Pillow widens the filter when it shrinks, so this is antialiased. Bicubic keeps edges without Lanczos' ringing.
RESAMPLING = Image.Resampling.BICUBIC

PAD_GREY = (128, 128, 128)


def fit_image(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Bring a picture to size x size pixels.

    ``crop`` takes the largest square at the centre, ``squash`` ignores the shape, ``pad`` fills up with mid-grey. A
    picture that has the size already is left as it is, bit for bit.

    Args:
        image: mode ``RGB``, at least 1 x 1.
        preprocessing: ``size`` and ``fit`` are used.

    Returns:
        (size, size, 3) pixels in 0..255.

    Source: ours.
    """
    size = preprocessing.size
    if preprocessing.fit == "pad":
        fitted = _pad(image, size)
    else:
        box = _centre_square(image) if preprocessing.fit == "crop" else None
        # With a box, nothing outside the square is resampled, however long the picture.
        fitted = image.resize((size, size), RESAMPLING, box=box)
    return np.array(fitted, dtype=np.uint8)


def _centre_square(image: Image.Image) -> tuple[float, float, float, float]:
    # Whole pixels: half a pixel off would blur a picture that needs no resampling.
    side = min(image.size)
    left = (image.width - side) // 2
    top = (image.height - side) // 2
    return left, top, left + side, top + side


def _pad(image: Image.Image, size: int) -> Image.Image:
    longest = max(image.size)
    width, height = (max(1, round(side * size / longest)) for side in image.size)
    canvas = Image.new("RGB", (size, size), PAD_GREY)
    canvas.paste(image.resize((width, height), RESAMPLING), ((size - width) // 2, (size - height) // 2))
    return canvas
