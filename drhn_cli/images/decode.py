"""Decode any picture to upright 8-bit RGB, or say in one line why that is not possible."""

from __future__ import annotations

import ctypes
import io
import logging
import os
import re
import threading
import warnings
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from PIL import ExifTags, Image, ImageCms, JpegImagePlugin, UnidentifiedImageError, _imaging

from drhn_cli.errors import AnyPath, DrhnError, ImageError, about
from drhn_cli.files import CORRUPT
from drhn_cli.images.formats import formats_of, is_raw, passed_over, readable_formats
from drhn_cli.images.mend import mend, refuse_many_chunks, refuse_many_scans
from drhn_cli.images.raw import MIN_PREVIEW_SIDE, find_preview, orientation_of
from drhn_cli.images.rendering import render
from drhn_cli.images.source import ImageFile, ImageSource, read_source, source_name
from drhn_cli.images.taken import find_taken_ns
from drhn_cli.images.tiff import is_raw_tiff, refuse_odd_structure, refuse_tiff, seek_full_page

# Above the largest that cameras make (200 megapixels from phones), and 1.2 GB decoded: Pillow keeps 4 bytes a pixel. It
# is in memory twice where its mode is not RGB.
MAX_PIXELS = 300_000_000

# A decompression bomb is a small file with a huge picture. Photographs take a byte for every 1 to 30 pixels, strongly
# compressed ones for every 100, a PNG of one color for every 340 or more. Smaller pictures are never refused, nor those
# of black and white: scanned pages take a byte for thousands of pixels.
BOMB_PIXELS = 50_000_000
BOMB_PIXELS_PER_BYTE = 250
_BOMB_HINT = "make a smaller copy of it, or have drhn hash take it with --max-pixels"

# Larger pictures are decoded one after the other, so that threads do not need that much memory each.
_LARGE_PIXELS = BOMB_PIXELS
_large = threading.Lock()

_HEAD_BYTES = 16  # by which formats are known

# What Pillow hands to its JPEG decoder at a time. Its own default of 64 KB makes threads wait for the interpreter lock.
_JPEG_BLOCK_BYTES = 1 << 24

# What Pillow's readers raise on corrupt input. Beside OSError, SyntaxError and ValueError, which are documented, they
# let through what indexing, unpacking, asserting and missing attributes of half-read headers raise.
_DECODER_ERRORS: tuple[type[Exception], ...] = (*CORRUPT, OSError, ArithmeticError, AssertionError, ImageCms.PyCMSError)

# What their errors say of a sound picture of a kind that they do not read. The last is what the reader of TIFF says of
# separate planes with one more than it expects.
_NOT_SUPPORTED = re.compile(
    "unknown (pixel mode|data organization|raw mode)|cannot handle|not (yet )?supported|unsupported|^string index",
    re.IGNORECASE,
)
_RAW = "a camera's RAW file, which is not decoded"
_RAW_HINT = (
    "export it as JPEG, PNG or TIFF from a program that develops it, or have drhn hash take its preview with --raw"
)
_CONVERT = "convert it to JPEG or PNG, or keep it out of drhn hash with --exclude"

# Formats whose frames follow each other. Those of an MPO are other views, and maps of depth or brightness.
_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")
# A frame is blank if no channel has a larger range than this: compression and the start of a fade leave some levels.
_BLANK_RANGE = 16
# The first frame counts where so many of an animation's first frames are blank, or more than so many pixels of them.
_MAX_BLANK_FRAMES = 64
_MAX_BLANK_PIXELS = 100_000_000

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


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeOptions:
    """Which pictures are decoded.

    Attributes:
        max_pixels: refuse pictures of more pixels, before they are decoded. None: ``MAX_PIXELS``, and besides those of
            more than ``BOMB_PIXELS`` at over ``BOMB_PIXELS_PER_BYTE`` to a byte.
        strict: refuse pictures with damage that costs no more than the last rows, see ``drhn_cli.images.mend``.
        raw: read a camera's RAW file by its preview.
    """

    max_pixels: int | None = None
    strict: bool = False
    raw: bool = False


DEFAULTS = DecodeOptions()


class Decoded(NamedTuple):
    """A decoded picture, its scale and its margins.

    Attributes:
        image: mode ``RGB``, upright.
        scale: pixels of the file per pixel of the image, each way.
        margins: how far the image extends beyond the picture at left, top, right and bottom, in pixels of the image,
            0 to below 1: where the picture's side is no multiple of ``scale``, the last pixel is partly empty.
        size: width and height of the picture, upright, in pixels of the file.
        taken_ns: when it was taken, see ``find_taken_ns``.
        passed_over: what else the file holds, see ``passed_over``.
    """

    image: Image.Image
    scale: int
    margins: tuple[float, float, float, float]
    size: tuple[int, int]
    taken_ns: int | None = None
    passed_over: str | None = None

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the picture in the image."""
        left, top, right, bottom = self.margins
        return left, top, self.image.width - right, self.image.height - bottom


def decode_image(
    source: ImageSource, *, min_side: int | None = None, rendering: int = 1, **options: Any
) -> Image.Image:
    """Decode a picture as ``decode_reduced`` does with these ``DecodeOptions``, and return its image alone."""
    return decode_reduced(source, DecodeOptions(**options), min_side=min_side, rendering=rendering).image


def decode_reduced(
    source: ImageSource,
    options: DecodeOptions = DEFAULTS,
    *,
    min_side: int | None = None,
    rendering: int = 1,
    data: bytes | None = None,
) -> Decoded:
    """Decode a picture to 8-bit RGB, as a person would see it.

    Turned upright as its EXIF orientation says (corrupt EXIF is ignored); grays of more than 8 bits scaled; CMYK,
    palettes and the rest by Pillow's conversion; transparency, color profiles and animations by the rules of
    ``rendering``. Thread-safe: of Pillow's global state only its warnings are silenced and its limit of pixels is
    raised to ours.

    Args:
        source: read into memory first, see ``read_source``.
        options: which pictures are refused.
        min_side: allow a JPEG to be decoded at 1/2, 1/4 or 1/8 of its size as long as both sides keep this many pixels,
            which saves most of the time on photographs, and a picture whose colors must be converted to be shrunk
            before. None: always the full size.
        rendering: the rules, see ``drhn_cli.images.rendering``.
        data: the bytes of ``source``, if they were read already.

    Raises:
        ImageError: it cannot be read, is no picture, is of a kind that is not supported, is damaged or cut short, or
            has too many pixels.
    """
    _prepare_pillow(options.max_pixels or MAX_PIXELS)
    name = source_name(source)
    with about(name):
        try:
            if data is None:
                is_stored = isinstance(source, str | bytes | os.PathLike | ImageFile)
                data = read_source(source) if is_stored else read_stream(cast("BinaryIO", source))
            picture, decoded = _decode(data, name, options, min_side, rendering)
            with suppress(*_DECODER_ERRORS):  # corrupt EXIF data is no reason to refuse the picture
                decoded = decoded._replace(taken_ns=find_taken_ns(picture))
            decoded = decoded._replace(passed_over=passed_over(picture, data))
            if rendering > 1 and picture.format in _ANIMATED and getattr(picture, "is_animated", False):
                decoded = _first_not_blank(picture, decoded, len(data), options, min_side, rendering)
            return decoded
        except Image.DecompressionBombError as error:
            raise ImageError("too many pixels", found=str(error), hint=_BOMB_HINT) from error
        except MemoryError as error:
            hint = "make a smaller copy of it, or use fewer --workers"
            raise ImageError("needs more memory than there is", hint=hint) from error
        except _DECODER_ERRORS as error:
            found = " ".join(str(error).split()) or type(error).__name__
            if _NOT_SUPPORTED.search(found):
                raise ImageError("not supported", found=found, hint=_CONVERT) from error
            raise ImageError("damaged or cut short", found=found, hint="copy or download it again") from error
        except DrhnError:
            raise
        except Exception as error:  # of a decoder: one picture must not end a run over many
            found = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ImageError("cannot be decoded", found=found, hint=_CONVERT) from error


def _decode(
    data: bytes, name: AnyPath | None, options: DecodeOptions, min_side: int | None, rendering: int
) -> tuple[Image.Image, Decoded]:
    """Decode the first frame of a picture, or of the mended file if that is damaged; return the opened picture, too."""
    try:
        picture = _open(data, name, options)
        return picture, _load(picture, len(data), min_side, rendering)
    except _DECODER_ERRORS as error:
        mended = None if options.strict or _NOT_SUPPORTED.search(str(error)) else mend(data)
        if mended is None:
            raise
        with suppress(*_DECODER_ERRORS):
            picture = _open(mended.data, name, options)
            if mended.icc_profile is not None:
                picture.info["icc_profile"] = mended.icc_profile
            return picture, _load(picture, len(data), min_side, rendering)
        raise


def _load(picture: Image.Image, n_bytes: int, min_side: int | None, rendering: int) -> Decoded:
    """Decode an opened picture, or the frame that it stands at."""
    full_size = picture.size
    drafted = picture.draft(picture.mode, (min_side, min_side)) if min_side is not None else None
    if isinstance(picture, JpegImagePlugin.JpegImageFile):
        picture.decodermaxblock = min(n_bytes, _JPEG_BLOCK_BYTES)
    with _large if picture.width * picture.height > _LARGE_PIXELS else nullcontext():
        return _load_drafted(picture, full_size, drafted, min_side, rendering)


def _load_drafted(
    picture: Image.Image, full_size: tuple[int, int], drafted: Any, min_side: int | None, rendering: int
) -> Decoded:
    picture.load()
    # The size is read after loading, which turns a TIFF upright.
    width, height = drafted[1][2:] if drafted else picture.size
    full_size = full_size if drafted else picture.size
    scale = round(full_size[0] / width) if drafted else 1
    turn, sides = _turn(picture)  # before a conversion drops the EXIF data
    image, to_srgb = render(picture, rendering)
    if to_srgb is not None:
        factor = min(image.size) // min_side if min_side is not None else 1
        if factor > 1:
            image = image.reduce(factor)
            scale, width, height = scale * factor, width / factor, height / factor
        image = to_srgb.apply(image)
    margins = {"l": 0.0, "t": 0.0, "r": image.width - width, "b": image.height - height}
    left, top, right, bottom = (margins[side] for side in sides)
    if sides[0] in "tb":
        full_size = full_size[::-1]
    return Decoded(image if turn is None else image.transpose(turn), scale, (left, top, right, bottom), full_size)


def _is_blank(image: Image.Image) -> bool:
    return all(np.ptp(band.getextrema()) <= _BLANK_RANGE for band in image.split())


def _first_not_blank(
    picture: Image.Image, first: Decoded, n_bytes: int, options: DecodeOptions, min_side: int | None, rendering: int
) -> Decoded:
    """Return the first frame of an animation that is not blank; the first of all where none is found."""
    n_pixels = 0
    # What follows the first frame is no reason to refuse it.
    with suppress(ImageError, MemoryError, Image.DecompressionBombError, *_DECODER_ERRORS):
        frame = first
        while _is_blank(frame.image):
            n_pixels += picture.width * picture.height
            if picture.tell() + 1 == _MAX_BLANK_FRAMES or n_pixels > _MAX_BLANK_PIXELS:
                break
            if first.image is picture:  # which the next frame overwrites
                first = first._replace(image=picture.copy())
            picture.seek(picture.tell() + 1)
            refuse_tiff(picture)
            _refuse_bomb(picture, n_bytes, options)
            frame = _load(picture, n_bytes, min_side, rendering)
        else:
            return frame
    return first


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


def read_stream(stream: BinaryIO) -> bytes:
    """Read a picture from a stream; of what is none, which may have no end, no more than the first bytes.

    Raises:
        ImageError: it is too long for a picture, or empty.
    """
    head = stream.read(_HEAD_BYTES)
    try:
        _formats_of(head, source_name(stream))
    except ImageError:
        if len(head) == _HEAD_BYTES:
            return head
    return read_source(stream, head)


def _formats_of(head: bytes, name: AnyPath | None) -> tuple[str, ...]:
    """Return the formats that a picture may have by its first bytes, none for a RAW file; refuse all others."""
    formats = formats_of(head)
    if not formats and not is_raw(head, name):
        text = head.decode("ascii", "replace")
        is_text = text.isascii() and text.replace("\n", "").isprintable()
        found = f"text {text!r}" if is_text else f"bytes {head[:8].hex(' ')}"
        raise ImageError("not a picture", expected=", ".join(readable_formats()), found=found, hint=_CONVERT)
    return formats


def _open(data: bytes, name: AnyPath | None, options: DecodeOptions) -> Image.Image:
    """Read a picture's header, and refuse what would take too long or too much memory."""
    formats = _formats_of(data[:_HEAD_BYTES], name)
    if ("TIFF" in formats or not formats) and is_raw(data[:_HEAD_BYTES], name):
        return _open_preview(data, options)
    refuse_many_chunks(data)
    if "TIFF" in formats:
        refuse_odd_structure(data)
    try:
        picture = Image.open(io.BytesIO(data), formats=formats)
    except (UnidentifiedImageError, Image.DecompressionBombError):
        # Neither error says what is wrong. The format's own reader either raises one that does, or it opens the picture
        # and ``_refuse_bomb`` names its size.
        picture = Image.OPEN[formats[0]][0](io.BytesIO(data), "")
    seek_full_page(picture)
    if is_raw_tiff(picture):
        return _open_preview(data, options)
    refuse_tiff(picture)
    _refuse_bomb(picture, len(data), options)
    if isinstance(picture, JpegImagePlugin.JpegImageFile):
        refuse_many_scans(data, picture.width * picture.height)
    return picture


def _open_preview(data: bytes, options: DecodeOptions) -> Image.Image:
    """Read the header of the preview in a RAW file."""
    if not options.raw:
        raise ImageError(_RAW, hint=_RAW_HINT)
    preview = find_preview(data)
    if preview is None:
        raise ImageError(
            "a camera's RAW file without a preview", expected=f"a JPEG of {MIN_PREVIEW_SIDE} pixels or more"
        )
    picture = Image.open(io.BytesIO(preview), formats=("JPEG",))
    _refuse_bomb(picture, len(data), options)
    with suppress(*_DECODER_ERRORS):
        exif, orientation = picture.getexif(), orientation_of(data)
        if orientation is not None and ExifTags.Base.Orientation not in exif:
            exif[ExifTags.Base.Orientation] = orientation  # Pillow keeps the object
    return picture


def _refuse_bomb(picture: Image.Image, n_bytes: int, options: DecodeOptions) -> None:
    width, height = picture.size
    max_pixels = options.max_pixels or MAX_PIXELS
    if width * height > max_pixels:
        expected, found = f"at most {max_pixels:,}", f"{width:,} x {height:,}"
        raise ImageError("too many pixels", expected=expected, found=found, hint=_BOMB_HINT)
    is_guessed = options.max_pixels is None and picture.mode != "1"
    if is_guessed and width * height > max(BOMB_PIXELS, BOMB_PIXELS_PER_BYTE * n_bytes):
        found = f"{width} x {height} in {n_bytes} bytes"
        raise ImageError("too many pixels for so small a file", found=found, hint=_BOMB_HINT)


def _turn(picture: Image.Image) -> tuple[Image.Transpose | None, str]:
    """Return how to turn a picture upright, and which of its sides become the left, top, right and bottom one."""
    with suppress(*_DECODER_ERRORS):  # the pixels are sound: corrupt EXIF data is no reason to refuse them
        return _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1), _UPRIGHT)
    return _UPRIGHT
