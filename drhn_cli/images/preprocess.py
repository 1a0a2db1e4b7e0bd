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

    ``crop`` takes the largest square at the centre (of two views, as long as they cover it, those at both ends),
    ``squash`` ignores the shape, ``pad`` fills up with mid-grey. A picture that has the size already is left as it is,
    bit for bit. The second view is mirrored.

    Args:
        image: mode ``RGB``, at least 1 x 1.
        preprocessing: ``size``, ``fit`` and ``views`` are used.
        scale: pixels of the picture in one of the image's: what is cut out are whole pixels of the picture.
        margins: how far the image reaches beyond the picture, see ``Decoded``.

    Returns:
        (views * size, size, 3) pixels in 0..255, one view below the other.
    """
    size = preprocessing.size
    left, top, right, bottom = margins
    box = (left, top, image.width - right, image.height - bottom)
    if preprocessing.fit == "pad":
        views = [np.array(_pad(image, size, box))]
    else:
        boxes = _squares(box, scale, preprocessing.views) if preprocessing.fit == "crop" else [box]
        # Nothing outside the box is resampled, however long the picture.
        views = [np.array(image.resize((size, size), RESAMPLING, box=box)) for box in boxes]
    return views[0] if preprocessing.views == 1 else np.concatenate([views[0], views[-1][:, ::-1]])


def _squares(box: _Box, scale: int, n_views: int) -> list[_Box]:
    """Return the square at the centre, or those on both sides of it; one if they are the same."""
    # Whole pixels: half a pixel off would blur a picture that needs no resampling.
    width, height = (round(side * scale) for side in _sides(box))
    side = min(width, height)
    n_beyond = max(width, height) - side
    shift = 0 if n_views == 1 else min(n_beyond // 2, side // 2)
    squares = []
    for start in sorted({n_beyond // 2 - shift, n_beyond // 2 + shift}):
        x, y = (start, 0) if width > height else (0, start)
        left, top = box[0] + x / scale, box[1] + y / scale
        squares.append((left, top, left + side / scale, top + side / scale))
    return squares


def _pad(image: Image.Image, size: int, box: _Box) -> Image.Image:
    sides = _sides(box)
    width, height = (max(1, round(side * size / max(sides))) for side in sides)
    canvas = Image.new("RGB", (size, size), PAD_GREY)
    canvas.paste(image.resize((width, height), RESAMPLING, box=box), ((size - width) // 2, (size - height) // 2))
    return canvas


def _sides(box: _Box) -> tuple[float, float]:
    left, top, right, bottom = box
    return right - left, bottom - top
