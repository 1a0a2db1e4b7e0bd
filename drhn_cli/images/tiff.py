"""TIFF files: which page counts, which are a camera's RAW files, and what of them Pillow cannot be trusted with.

The tags are those of TIFF 6.0, of Adobe's DNG specification and, for files of more than 4 GB, of BigTIFF.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from PIL import Image, TiffImagePlugin

from drhn_cli.errors import ImageError

_NEW_SUBFILE_TYPE = 254  # bit 0: a smaller version of another picture in the file
_BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC, _PLANAR, _SUB_IFDS = 258, 259, 262, 284, 330
_SENSOR_DATA = ((32803,), (34892,))  # a color filter array, or its demosaiced numbers
_DNG_VERSION = 50706
_MAX_REDUCED_PAGES = 8
_TIFF_HINT = "save it again with its channels together, or as PNG"

# Programs write a strip of some KB and tiles of 256 pixels and more a side.
_MAX_PIECES = 1 << 17
_PIECES = (273, 279, 324, 325)  # places and lengths of strips and tiles
_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323
_MAX_TILE_PIXELS = 1 << 24
_MAX_PAGES = 10_000
_SAVE_AGAIN = "save it again, or as PNG"


def refuse_odd_structure(data: bytes) -> None:
    """Refuse a TIFF file whose structure alone would take minutes, or more memory than its pixels, to read."""
    for number, tags in enumerate(_directories(data)):
        n_pieces = max((tags[tag][0] for tag in _PIECES if tag in tags), default=0)
        if number >= _MAX_PAGES or n_pieces > _MAX_PIECES:
            found = f"{n_pieces:,} strips or tiles" if n_pieces > _MAX_PIECES else f"more than {_MAX_PAGES:,} pages"
            raise ImageError("not supported", found=found, hint=_SAVE_AGAIN)
        width, height, tile_width, tile_height = (
            tags[tag][1] if tag in tags else 0 for tag in (_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT)
        )
        if tile_width * tile_height > max(_MAX_TILE_PIXELS, 4 * width * height):
            found = f"tiles of {tile_width} x {tile_height} pixels in a picture of {width} x {height}"
            raise ImageError("not supported", found=found, hint=_SAVE_AGAIN)


def _directories(data: bytes) -> Iterator[dict[int, tuple[int, int]]]:
    """Yield for each page the number of values and the first value, if it is a whole number, of each tag."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return
    is_big = data[2:4] in (b"+\0", b"\0+")
    number, entry = (struct.Struct(order + form) for form in (("Q", "HHQ8s") if is_big else ("H", "HHI4s")))
    place = struct.Struct(order + ("Q" if is_big else "I"))
    integers = {3: struct.Struct(order + "H"), 4: struct.Struct(order + "I"), 16: struct.Struct(order + "Q")}
    try:
        (at,) = place.unpack_from(data, 8 if is_big else 4)
        seen = set[int]()
        while at and at not in seen:
            seen.add(at)
            (n_tags,) = number.unpack_from(data, at)
            at += number.size
            tags = {}
            for _ in range(min(n_tags, 1 << 16)):
                tag, kind, count, value = entry.unpack_from(data, at)
                tags[tag] = count, integers[kind].unpack_from(value)[0] if kind in integers else 0
                at += entry.size
            yield tags
            (at,) = place.unpack_from(data, at)
    except struct.error:  # cut short, of which the decoder has more to say
        return


def tag_values(picture: Image.Image, tag: int) -> tuple[Any, ...]:
    """Return the values of a TIFF file's tag; none where it, or the picture, has none."""
    value = picture.tag_v2.get(tag, ()) if isinstance(picture, TiffImagePlugin.TiffImageFile) else ()
    return value if isinstance(value, tuple) else (value,)


def is_raw_tiff(picture: Image.Image) -> bool:
    """Whether a TIFF file is a RAW file: sensor data, or a thumbnail that leads to it."""
    if not isinstance(picture, TiffImagePlugin.TiffImageFile):
        return False
    tags = picture.tag_v2
    return (
        _DNG_VERSION in tags
        or tag_values(picture, _PHOTOMETRIC) in _SENSOR_DATA
        or (_is_reduced(picture) and _SUB_IFDS in tags)
    )


def seek_full_page(picture: Image.Image) -> None:
    """Move a TIFF file that begins with smaller versions of a page to the page itself, if there is one."""
    for page in range(1, _MAX_REDUCED_PAGES):
        if not _is_reduced(picture):
            return
        try:
            picture.seek(page)
        except EOFError:
            break
    if _is_reduced(picture):
        picture.seek(0)


def _is_reduced(picture: Image.Image) -> bool:
    kind = tag_values(picture, _NEW_SUBFILE_TYPE)
    return bool(kind) and isinstance(kind[0], int) and kind[0] & 1 == 1


def refuse_tiff(picture: Image.Image) -> None:
    """Refuse a TIFF file that is read as noise."""
    if not isinstance(picture, TiffImagePlugin.TiffImageFile):
        return
    # Pillow 12 and 13 read these without an error: bytes of 16-bit channels as pixels, a and b of Lab without their
    # offset, and numbers that libtiff has put into the machine's byte order as if they were still in the file's.
    is_compressed = tag_values(picture, _COMPRESSION) not in ((), (1,))
    is_deep = tag_values(picture, _BITS_PER_SAMPLE)[:1] not in ((), (8,))
    if tag_values(picture, _PLANAR) == (2,) and ((is_deep and not is_compressed) or picture.mode == "LAB"):
        raise ImageError("not supported", found="a TIFF file with separate planes of this kind", hint=_TIFF_HINT)
    if is_compressed and picture.mode in ("I", "F") and picture.tag_v2.prefix == TiffImagePlugin.MM:
        raise ImageError("not supported", found="a compressed big-endian TIFF file of this kind", hint=_TIFF_HINT)
