"""Small copies of pictures."""

from __future__ import annotations

import io
from typing import BinaryIO

from PIL import Image, features

from drhn_cli.errors import AnyPath
from drhn_cli.images.decode import decode_image
from drhn_cli.sheets.content import Thumbnail

MAX_SIDE = 400
"""Pixels: two for each of a tile's on a dense screen, and some 15 kB."""

# WebP takes half of JPEG's bytes. Pillow's own wheels have it; a distribution's build may not.
_FORMAT = "WEBP" if features.check("webp") else "JPEG"
_QUALITY = 82


def make_thumbnail(source: AnyPath | BinaryIO) -> Thumbnail:
    """Decode a picture, upright and within all limits of ``decode_image``, and shrink it to ``MAX_SIDE``.

    Args:
        source: a file, or a stream, which is read to its end.

    Returns:
        A thumbnail with sides of 1 to ``MAX_SIDE`` pixels. A smaller picture keeps its size.

    Raises:
        ImageError: it cannot be read; see ``decode_image``.
    """
    image = decode_image(source, min_side=MAX_SIDE)
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    image.save(encoded, _FORMAT, quality=_QUALITY)
    return Thumbnail(
        data=encoded.getvalue(), media_type=f"image/{_FORMAT.lower()}", width=image.width, height=image.height
    )
