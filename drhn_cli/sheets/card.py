"""What a sheet shows, of either kind. All text is one printable line, and not escaped for HTML."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image, features

from drhn_cli.errors import AnyPath
from drhn_cli.images.decode import decode_image

MARK = b"drhn sheet"
"""Is in the first bytes of every sheet, so that no other file is replaced by one."""

MAX_SIDE = 400
"""Pixels of a thumbnail: two for each pixel of a tile, for dense screens; about 15 kB."""

# WebP takes half of the bytes of a JPEG. Pillow's wheels can write it; a distribution's build may not.
_FORMAT = "WEBP" if features.check("webp") else "JPEG"
_QUALITY = 82


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A small copy of a picture.

    Attributes:
        data: a WebP or JPEG file.
        media_type: ``image/webp`` or ``image/jpeg``.
        width: in pixels.
        height: in pixels.
    """

    data: bytes
    media_type: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Card:
    """A picture on a sheet.

    Attributes:
        name: of the file.
        folder: where it is, relative to the root of the code file if it is below it; may be empty.
        path: absolute, to link to; None if there is no file.
        picture: its thumbnail, or the reason why there is none.
        distance: from the query; None for the query itself.
    """

    name: str
    folder: str
    path: bytes | None
    picture: Thumbnail | str
    distance: int | None = None


@dataclass(frozen=True, kw_only=True)
class Section:
    """A query and its answer.

    Attributes:
        query: what was looked up.
        summary: the answer in a line.
        matches: nearest first, made while they are drawn.
    """

    query: Card
    summary: str
    matches: Iterator[Card]


@dataclass(frozen=True, kw_only=True)
class About:
    """What was searched: the name of the code file, and a line about it."""

    codes: str
    summary: str


def make_thumbnail(source: AnyPath | BinaryIO) -> Thumbnail:
    """Decode a picture and shrink it so that no side is longer than ``MAX_SIDE``.

    Raises:
        ImageError: see ``decode_image``.
    """
    image = decode_image(source, min_side=MAX_SIDE)
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    image.save(encoded, _FORMAT, quality=_QUALITY)
    media_type = f"image/{_FORMAT.lower()}"
    return Thumbnail(data=encoded.getvalue(), media_type=media_type, width=image.width, height=image.height)
