"""Decode any picture to upright RGB, or say in one line why it cannot be."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from PIL import ExifTags, Image, ImageCms, JpegImagePlugin

from drhn_cli.errors import AnyPath, ImageError
from drhn_cli.images.formats import is_heif, may_be_heif, picture_formats, readable_formats, register_heif
from drhn_cli.images.greys import is_deep_grey, to_8_bit_grey
from drhn_cli.images.opened import OpenedPicture, PictureSource, open_picture
from drhn_cli.images.quiet import ignore_pillow_warnings
from drhn_cli.images.raw import refuse_raw, refuse_thumbnail

# Above the largest that cameras make (200 megapixels from phones), and 1.2 GB decoded: Pillow keeps 4 bytes a pixel.
MAX_PIXELS = 300_000_000

# A bomb is a small file that unpacks to a huge picture. Photographs take a byte for every 1 to 30 pixels, hard-pressed
# ones for every 100; one colour in a PNG takes a byte for 340 and more. Small pictures may be as plain as they like.
BOMB_PIXELS = 50_000_000
BOMB_PIXELS_PER_BYTE = 250
_BOMB_HINT = "make a smaller copy of it, or have drhn hash take it with --max-pixels"

# Of a JPEG at a time: most at once, as threads wait for the interpreter at each of Pillow's own pieces, of 64 KB.
_PIECE_BYTES = 1 << 24

# What Pillow's readers raise on damaged files. Beside OSError, SyntaxError, ValueError and the bomb errors, which are
# documented, they let through what indexing, unpacking, asserting and missing attributes of half-read headers raise.
_DECODER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    Image.DecompressionBombError,
    ImageCms.PyCMSError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)

# Of each EXIF orientation, and which sides become the left, top, right and bottom one.
_TURNS = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT, "rtlb"),
    3: (Image.Transpose.ROTATE_180, "rblt"),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, "lbrt"),
    5: (Image.Transpose.TRANSPOSE, "tlbr"),
    6: (Image.Transpose.ROTATE_270, "bltr"),
    7: (Image.Transpose.TRANSVERSE, "brtl"),
    8: (Image.Transpose.ROTATE_90, "trbl"),
}


class Decoded(NamedTuple):
    """A picture, and how it lies in its image.

    Attributes:
        image: mode ``RGB``, upright.
        scale: how many of the file's pixels there are to one of the image's, each way: 1, 2, 4 or 8.
        margins: how far the image's left, top, right and bottom edge are beyond the picture's, in the image's pixels, 0
            or more and below 1: where a side of a JPEG is no multiple of ``scale``, the last pixel is not full.
    """

    image: Image.Image
    scale: int
    margins: tuple[float, float, float, float]


def decode_image(source: PictureSource, *, max_pixels: int = MAX_PIXELS, min_side: int | None = None) -> Image.Image:
    """Decode a picture as ``decode_reduced`` does, and return its image alone."""
    return decode_reduced(source, max_pixels=max_pixels, min_side=min_side).image


def decode_reduced(source: PictureSource, *, max_pixels: int = MAX_PIXELS, min_side: int | None = None) -> Decoded:
    """Decode a picture to 8-bit RGB, as a person would see it.

    The first frame of an animation; turned upright as its EXIF orientation says (damaged EXIF is passed over);
    transparency on white; deep greys scaled (see ``greys``); CMYK, palettes and the rest by Pillow's conversion.
    Safe in threads: of Pillow's global state, nothing is changed but that its messages are silenced (see ``quiet``) and
    its limit of pixels is raised to ours.

    Args:
        source: see ``open_picture``.
        max_pixels: refuse pictures of more pixels, before they are decoded.
        min_side: allow a JPEG to be decoded at 1/2, 1/4 or 1/8 of its size so long as both sides keep this many pixels.
            On photographs this saves most of the time. None: always the full size.

    Raises:
        ImageError: it cannot be opened (see ``open_picture``), is no picture, is damaged or cut short, has more than
            ``max_pixels`` pixels, or has more than ``BOMB_PIXELS`` at over ``BOMB_PIXELS_PER_BYTE`` to a byte.
    """
    ignore_pillow_warnings()
    _allow_pillow(max_pixels)
    with open_picture(source) as opened, _blaming(opened.path):
        picture = _identify(opened)
        _refuse_bomb(picture, opened, max_pixels)
        full_width = picture.width
        drafted = picture.draft(picture.mode, (min_side, min_side)) if min_side is not None else None
        if isinstance(picture, JpegImagePlugin.JpegImageFile):
            picture.decodermaxblock = min(opened.n_bytes, _PIECE_BYTES)
        picture.load()
        # Only now, as loading turns a TIFF upright.
        width, height = drafted[1][2:] if drafted else picture.size
        scale = round(full_width / width) if drafted else 1
        margins = dict(zip("ltrb", (0.0, 0.0, picture.width - width, picture.height - height), strict=True))
        turn, sides = _turn(picture)  # before a conversion drops the EXIF data
        rgb = _to_rgb(picture)
        image = rgb if turn is None else rgb.transpose(turn)
        left, top, right, bottom = (margins[side] for side in sides)
        return Decoded(image, scale, (left, top, right, bottom))


@contextmanager
def _blaming(path: AnyPath | None) -> Iterator[None]:
    """Turn whatever a decoder raises into an ImageError that names the file."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ImageError("too many pixels", path=path, found=str(error), hint=_BOMB_HINT) from error
    except MemoryError as error:
        hint = "make a smaller copy of it, or use fewer --workers"
        raise ImageError("needs more memory than there is", path=path, hint=hint) from error
    except _DECODER_ERRORS as error:
        found = " ".join(str(error).split()) or type(error).__name__
        raise ImageError("damaged or cut short", path=path, found=found, hint="copy or download it again") from error


def _allow_pillow(max_pixels: int) -> None:
    """Have Pillow's readers, some of which look at its limit themselves, take what we take; never less than usual.

    They refuse what has more than twice the limit.
    """
    least = (max_pixels + 1) // 2
    if Image.MAX_IMAGE_PIXELS is not None and least > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = least


def _identify(opened: OpenedPicture) -> Image.Image:
    """Read a picture's header.

    This is ``Image.open`` without two of its habits: the bomb check by a global limit, which is ours to make, and
    mapping raw files into memory by their path, where a file that is cut while it is read kills the process.
    """
    prefix = opened.stream.read(16)
    if is_heif(prefix) and not register_heif():
        hint = "install its decoder: pip install 'drhn[heif]'"
        raise ImageError("HEIC is not decoded by Pillow alone", path=opened.path, hint=hint)
    if may_be_heif(prefix):
        register_heif()
    damage: SyntaxError | None = None
    for name in picture_formats():
        reader, accept = Image.OPEN[name]
        accepted = accept is None or accept(prefix)
        if isinstance(accepted, str):  # known, but not built into this Pillow
            raise ImageError(f"{name} is not supported here", path=opened.path, hint="reinstall Pillow from its wheel")
        if accepted:
            if name == "TIFF":
                refuse_raw(opened.path, prefix)
            opened.stream.seek(0)
            try:
                picture = reader(opened.stream, "")
            except SyntaxError as error:  # another format may begin alike: HEIC in the container that AVIF shares
                damage = damage or error
                continue
            refuse_thumbnail(opened.path, picture)
            return picture
    if damage is not None:
        raise damage
    refuse_raw(opened.path, prefix)
    raise ImageError(
        "not a picture",
        path=opened.path,
        expected=", ".join(readable_formats()),
        found=_describe(prefix),
        hint="convert it to JPEG or PNG, or keep it out of drhn hash with --exclude",
    )


def _describe(prefix: bytes) -> str:
    text = prefix.decode("ascii", "replace")
    is_text = text.isascii() and text.replace("\n", "").isprintable()
    return f"text {text!r}" if is_text else f"bytes {prefix[:8].hex(' ')}"


def _refuse_bomb(picture: Image.Image, opened: OpenedPicture, max_pixels: int) -> None:
    width, height = picture.size
    n_pixels = width * height
    if n_pixels > max_pixels:
        expected, found = f"at most {max_pixels:,}", f"{width:,} x {height:,}"
        raise ImageError("too many pixels", path=opened.path, expected=expected, found=found, hint=_BOMB_HINT)
    if n_pixels > max(BOMB_PIXELS, BOMB_PIXELS_PER_BYTE * opened.n_bytes):
        found = f"{width} x {height} in {opened.n_bytes} bytes"
        hint = "make a smaller copy of it"
        raise ImageError("too many pixels for so small a file", path=opened.path, found=found, hint=hint)


def _turn(picture: Image.Image) -> tuple[Image.Transpose | None, str]:
    try:
        return _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1), (None, "ltrb"))
    except _DECODER_ERRORS:  # the pixels are sound, so damaged notes beside them are no reason to refuse
        return None, "ltrb"


def _to_rgb(picture: Image.Image) -> Image.Image:
    if is_deep_grey(picture):
        return to_8_bit_grey(picture).convert("RGB")
    if picture.has_transparency_data:
        canvas = Image.new("RGBA", picture.size, "white")
        canvas.alpha_composite(picture.convert("RGBA"))
        return canvas.convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")
