"""Decode any picture to upright 8-bit RGB, or say in one line why that is not possible."""

from __future__ import annotations

import ctypes
import io
import logging
import re
import warnings
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, JpegImagePlugin, UnidentifiedImageError, _imaging
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

from drhn_cli.errors import AnyPath, ImageError, about
from drhn_cli.files import CORRUPT
from drhn_cli.images.formats import formats_of, readable_formats, refuse_raw, refuse_thumbnail
from drhn_cli.images.source import ImageSource, read_source, source_name

# Above the largest that cameras make (200 megapixels from phones), and 1.2 GB decoded: Pillow keeps 4 bytes a pixel.
MAX_PIXELS = 300_000_000

# A decompression bomb is a small file with a huge picture. Photographs take a byte for every 1 to 30 pixels, strongly
# compressed ones for every 100, a PNG of one color for every 340 or more. Smaller pictures are never refused.
BOMB_PIXELS = 50_000_000
BOMB_PIXELS_PER_BYTE = 250
_BOMB_HINT = "make a smaller copy of it, or have drhn hash take it with --max-pixels"

# What Pillow hands to its JPEG decoder at a time. Its own default of 64 KB makes threads wait for the interpreter lock.
_JPEG_BLOCK_BYTES = 1 << 24

# What Pillow's readers raise on corrupt input. Beside OSError, SyntaxError and ValueError, which are documented, they
# let through what indexing, unpacking, asserting and missing attributes of half-read headers raise.
_DECODER_ERRORS: tuple[type[Exception], ...] = (*CORRUPT, OSError, ArithmeticError, AssertionError, ImageCms.PyCMSError)

# For each EXIF orientation but the first, what ``_turn`` returns.
_UPRIGHT = (None, "ltrb")
_TURNS: dict[int, tuple[Image.Transpose | None, str]] = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT, "rtlb"),
    3: (Image.Transpose.ROTATE_180, "rblt"),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, "lbrt"),
    5: (Image.Transpose.TRANSPOSE, "tlbr"),
    6: (Image.Transpose.ROTATE_270, "bltr"),
    7: (Image.Transpose.TRANSVERSE, "brtl"),
    8: (Image.Transpose.ROTATE_90, "trbl"),
}

_IGNORE_PILLOW = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


class Decoded(NamedTuple):
    """A decoded picture, its scale and its margins.

    Attributes:
        image: mode ``RGB``, upright.
        scale: pixels of the file per pixel of the image, each way: 1, 2, 4 or 8.
        margins: how far the image extends beyond the picture at left, top, right and bottom, in pixels of the image,
            0 to below 1: where a JPEG's side is no multiple of ``scale``, the last pixel is partly empty.
    """

    image: Image.Image
    scale: int
    margins: tuple[float, float, float, float]


def decode_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS, min_side: int | None = None) -> Image.Image:
    """Decode a picture as ``decode_reduced`` does, and return its image alone."""
    return decode_reduced(source, max_pixels=max_pixels, min_side=min_side).image


def decode_reduced(source: ImageSource, *, max_pixels: int = MAX_PIXELS, min_side: int | None = None) -> Decoded:
    """Decode a picture to 8-bit RGB, as a person would see it.

    The first frame of an animation; turned upright as its EXIF orientation says (corrupt EXIF is ignored); transparency
    on white; grays of more than 8 bits scaled; CMYK, palettes and the rest by Pillow's conversion. Thread-safe: of
    Pillow's global state only its warnings are silenced and its limit of pixels is raised to ours.

    Args:
        source: read into memory first, see ``read_source``.
        max_pixels: refuse pictures of more pixels, before they are decoded.
        min_side: allow a JPEG to be decoded at 1/2, 1/4 or 1/8 of its size as long as both sides keep this many pixels,
            which saves most of the time on photographs. None: always the full size.

    Raises:
        ImageError: it cannot be read, is no picture, is damaged or cut short, has more than ``max_pixels`` pixels, or
            has more than ``BOMB_PIXELS`` at over ``BOMB_PIXELS_PER_BYTE`` to a byte.
    """
    _prepare_pillow(max_pixels)
    name = source_name(source)
    with about(name):
        try:
            data = read_source(source)
            picture = _open(data, name)
            _refuse_bomb(picture, len(data), max_pixels)
            full_width = picture.width
            drafted = picture.draft(picture.mode, (min_side, min_side)) if min_side is not None else None
            if isinstance(picture, JpegImagePlugin.JpegImageFile):
                picture.decodermaxblock = min(len(data), _JPEG_BLOCK_BYTES)
            picture.load()
            # The size is read after loading, which turns a TIFF upright.
            width, height = drafted[1][2:] if drafted else picture.size
            scale = round(full_width / width) if drafted else 1
            margins = {"l": 0.0, "t": 0.0, "r": picture.width - width, "b": picture.height - height}
            turn, sides = _turn(picture)  # before a conversion drops the EXIF data
            left, top, right, bottom = (margins[side] for side in sides)
            rgb = _to_rgb(picture)
            return Decoded(rgb if turn is None else rgb.transpose(turn), scale, (left, top, right, bottom))
        except Image.DecompressionBombError as error:
            raise ImageError("too many pixels", found=str(error), hint=_BOMB_HINT) from error
        except MemoryError as error:
            hint = "make a smaller copy of it, or use fewer --workers"
            raise ImageError("needs more memory than there is", hint=hint) from error
        except _DECODER_ERRORS as error:
            found = " ".join(str(error).split()) or type(error).__name__
            raise ImageError("damaged or cut short", found=found, hint="copy or download it again") from error


def _prepare_pillow(max_pixels: int) -> None:
    """Silence Pillow's warnings about odd metadata, and have it take pictures of ``max_pixels``."""
    # Damage that matters raises an error. ``warnings.catch_warnings`` restores a list that all threads share, so it is
    # not thread-safe; adding one filter is. It is looked for at each call, as other code may have reset the list.
    if _IGNORE_PILLOW not in warnings.filters:
        warnings.filterwarnings("ignore", module=_IGNORE_PILLOW[3].pattern)
    # Pillow refuses pictures of more than twice its own limit.
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, (max_pixels + 1) // 2)


def _ignore_libtiff_messages() -> None:
    """Remove libtiff's message handlers, which print to stderr from C."""
    # They are looked up through Pillow's extension module, which is linked with libtiff. Where its symbols are hidden,
    # as in the wheels of some platforms, the messages stay.
    library = ctypes.CDLL(_imaging.__file__)
    for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        if set_handler := getattr(library, name, None):
            set_handler(ctypes.c_void_p())


# Pillow logs some damage as errors, which Python prints to stderr if nobody has set up logging.
logging.getLogger("PIL").addHandler(logging.NullHandler())
_ignore_libtiff_messages()


def _open(data: bytes, name: AnyPath | None) -> Image.Image:
    """Read a picture's header."""
    formats = formats_of(data[:16])
    if "TIFF" in formats or not formats:
        refuse_raw(data[:16], name)
    if not formats:
        text = data[:16].decode("ascii", "replace")
        is_text = text.isascii() and text.replace("\n", "").isprintable()
        found = f"text {text!r}" if is_text else f"bytes {data[:8].hex(' ')}"
        hint = "convert it to JPEG or PNG, or keep it out of drhn hash with --exclude"
        raise ImageError("not a picture", expected=", ".join(readable_formats()), found=found, hint=hint)
    try:
        picture = Image.open(io.BytesIO(data), formats=formats)
    except (UnidentifiedImageError, Image.DecompressionBombError):
        # Neither error says what is wrong. The format's own reader either raises one that does, or it opens the picture
        # and ``_refuse_bomb`` names its size.
        picture = Image.OPEN[formats[0]][0](io.BytesIO(data), "")
    refuse_thumbnail(picture)
    return picture


def _refuse_bomb(picture: Image.Image, n_bytes: int, max_pixels: int) -> None:
    width, height = picture.size
    if width * height > max_pixels:
        expected, found = f"at most {max_pixels:,}", f"{width:,} x {height:,}"
        raise ImageError("too many pixels", expected=expected, found=found, hint=_BOMB_HINT)
    if width * height > max(BOMB_PIXELS, BOMB_PIXELS_PER_BYTE * n_bytes):
        found = f"{width} x {height} in {n_bytes} bytes"
        raise ImageError("too many pixels for so small a file", found=found, hint="make a smaller copy of it")


def _turn(picture: Image.Image) -> tuple[Image.Transpose | None, str]:
    """Return how to turn a picture upright, and which of its sides become the left, top, right and bottom one."""
    with suppress(*_DECODER_ERRORS):  # the pixels are sound: corrupt EXIF data is no reason to refuse them
        return _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1), _UPRIGHT)
    return _UPRIGHT


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        # 16 or 32 bits of gray, which Pillow's own conversion clips to white.
        return _to_8_bit_gray(picture).convert("RGB")
    if picture.has_transparency_data:
        canvas = Image.new("RGBA", picture.size, "white")
        canvas.alpha_composite(picture.convert("RGBA"))
        return canvas.convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _to_8_bit_gray(picture: Image.Image) -> Image.Image:
    """Scale a loaded picture of 16- or 32-bit grays to mode ``L``, rounding to the nearest."""
    pixels = np.asarray(picture)  # (height, width)
    if picture.mode.startswith("I;16"):
        # By its full range, which is that of 12 bits in some TIFF files.
        is_12_bit = isinstance(picture, TiffImageFile) and picture.tag_v2.get(BITSPERSAMPLE) in (12, (12,))
        full_range = 4095 if is_12_bit else 65535
        table = (np.arange(65536, dtype=np.int64) * 255 + full_range // 2) // full_range
        gray = np.minimum(table, 255).astype(np.uint8)[pixels]
    else:
        gray = _scale_unknown_range(pixels)
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):  # the color that a PNG marks as transparent becomes white
        gray[pixels == transparent] = 255
    return Image.fromarray(gray)


def _scale_unknown_range(pixels: NDArray[np.float32] | NDArray[np.int32]) -> NDArray[np.uint8]:
    """Scale 32-bit integers or floats, which do not say their range."""
    # It is taken to be 0..1, 0..255 or 0..65535, the first that holds every value, else (negative or larger values)
    # from the smallest to the largest. Infinities become the nearest end, NaN the lower one.
    finite = pixels[np.isfinite(pixels)]
    if finite.size == 0:
        return np.zeros(pixels.shape, np.uint8)
    low, high = float(finite.min()), float(finite.max())
    with np.errstate(invalid="ignore"):  # a signaling NaN is still only a NaN
        values = np.nan_to_num(pixels.astype(np.float64), nan=low, posinf=high, neginf=low)
    if low >= 0 and high <= 65535:
        low, high = 0.0, next(top for top in (1.0, 255.0, 65535.0) if high <= top)
    values -= low
    values /= (high - low) or 1.0
    values *= 255
    return np.rint(values).astype(np.uint8)
