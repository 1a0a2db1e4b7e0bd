"""Rendering: from a decoder's pixels to the colors that a person sees. Deep grays, transparency, color profiles.

The rules have a number, which is part of a model's preprocessing, as other rules make other codes:

1. Transparency is laid on white, color profiles are ignored, and of an animation the first frame counts.
2. Transparency is laid on black where it could hardly be seen on white, colors are converted to sRGB by the picture's
   profile, and the first frame that is not blank counts.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, SAMPLEFORMAT

from drhn_cli.files import CORRUPT
from drhn_cli.images.tiff import tag_values

# Profiles of displays and cameras take 0.5 to 30 KB, those of printing presses up to about 3 MB.
MAX_PROFILE_BYTES = 4 << 20
# Header of ICC.1, section 7.2: the color space at 16, the signature at 36. A table of tags follows after 128 bytes.
_MIN_PROFILE_BYTES = 132
_MODE_OF_SPACE = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
# The largest difference, in levels, that still counts as sRGB: its variants differ by rounding of their curves.
_SRGB_TOLERANCE = 2

_PROFILE_ERRORS: tuple[type[Exception], ...] = (*CORRUPT, OSError, ImageCms.PyCMSError)

# A drawing is laid on black if its contrast with white is below this share of that of a black drawing of its shape.
_MIN_CONTRAST = 0.1

_STRIP_PIXELS = 1 << 20


class Rendered(NamedTuple):
    """Pixels, and how to convert them to sRGB.

    Attributes:
        image: of mode ``RGB``, or of the mode that ``to_srgb`` takes.
        to_srgb: converts such an image of any size to ``RGB``. None: it is sRGB as it is.
    """

    image: Image.Image
    to_srgb: ImageCms.ImageCmsTransform | None


def render(picture: Image.Image, rules: int) -> Rendered:
    """Flatten a loaded picture to 8 bits a channel without transparency.

    Its colors are left to the caller, who may have shrunk it before: converting takes 15 to 25 ns a pixel.
    """
    to_srgb = _find_transform(picture) if rules > 1 else None
    mode = "RGB" if to_srgb is None else to_srgb.input_mode
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        # 16 or 32 bits of gray, which Pillow's own conversion clips to white.
        picture = _to_8_bit_gray(picture)
    elif picture.mode == "La":
        picture = picture.convert("LA")
    if picture.has_transparency_data:
        picture = _lay_on_background(picture, rules)
    return Rendered(picture if picture.mode == mode else picture.convert(mode), to_srgb)


def _lay_on_background(drawing: Image.Image, rules: int) -> Image.Image:
    """Lay a picture with transparency on white, or on black if little of it could be seen on white: mode ``RGB``."""
    seen, contrast, most = _compose(drawing, "white")
    # The root mean square of the luminance's distance from white, each pixel weighted by its opacity: what is seen,
    # relative to a black drawing of the same shape. No continuous rule would do: a background that turns from white
    # to black with the drawing's luminance is somewhere equal to it. But this ratio hardly changes when a picture
    # is scaled or compressed again, for a drawing of one color not even where its edges blur.
    if rules > 1 and contrast < _MIN_CONTRAST**2 * most:
        del seen
        return _compose(drawing, "black")[0]
    return seen


def _compose(drawing: Image.Image, background: str) -> tuple[Image.Image, int, int]:
    """Lay a picture on a background; return the sums of squares of what is seen on white and of the opacity, too."""
    width, height = drawing.size
    n_rows = max(1, _STRIP_PIXELS // width)
    is_whole = n_rows >= height
    seen = Image.new("RGB", (1, 1) if is_whole else drawing.size)
    contrast = most = 0
    # A large one in strips: it would be in memory five times.
    for top in range(0, height, n_rows):
        strip = drawing if is_whole else drawing.crop((0, top, width, min(top + n_rows, height)))
        strip = strip.convert("RGBA")
        canvas = Image.new("RGBA", strip.size, background)
        canvas.alpha_composite(strip)
        shown = canvas.convert("RGB")
        contrast += sum(n * (255 - level) ** 2 for level, n in enumerate(shown.convert("L").histogram()))
        most += sum(n * level**2 for level, n in enumerate(strip.getchannel("A").histogram()))
        if is_whole:
            return shown, contrast, most
        seen.paste(shown, (0, top))
    return seen, contrast, most


def _find_transform(picture: Image.Image) -> ImageCms.ImageCmsTransform | None:
    """Return what converts a picture's colors to sRGB; None if it is sRGB, or its profile is missing or unusable."""
    profile = picture.info.get("icc_profile")
    if not isinstance(profile, bytes) or not _MIN_PROFILE_BYTES <= len(profile) <= MAX_PROFILE_BYTES:
        return None
    mode = _MODE_OF_SPACE.get(profile[16:20])
    if picture.mode == "CMYK":
        modes: tuple[str, ...] = ("CMYK",)
    elif picture.mode in ("1", "L", "LA", "La", "I", "F") or picture.mode.startswith("I;16"):
        modes = ("L", "RGB")  # programs leave the profile of colors in a picture that they make gray
    else:
        modes = () if picture.mode == "LAB" else ("RGB",)
    return _transform(profile, mode) if mode in modes else None


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what converts a mode's pixels to sRGB by a profile; None if it changes nothing or cannot be used."""
    try:
        # Perceptual, as in browsers; for the matrices of cameras and displays it is relative colorimetric. Without its
        # cache of one pixel a transform may be shared by threads.
        to_srgb = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.PERCEPTUAL,
            ImageCms.Flags.NOCACHE,
        )
        # A profile is known as sRGB by what it does, as its name may say anything.
        if mode != "CMYK":
            levels = np.arange(0, 256, 15, dtype=np.uint8)
            grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
            probe = Image.fromarray(grid if mode == "RGB" else grid[:, : len(levels), 2].copy())
            change = np.asarray(to_srgb.apply(probe), int) - np.asarray(probe.convert("RGB"), int)
            if np.abs(change).max() <= _SRGB_TOLERANCE:
                return None
    except _PROFILE_ERRORS:  # the pixels are sound: read as if there were no profile
        return None
    return to_srgb


def _to_8_bit_gray(picture: Image.Image) -> Image.Image:
    """Scale a loaded picture of 16- or 32-bit grays to mode ``L``, rounding to the nearest, or ``LA``."""
    pixels = np.asarray(picture)  # (height, width)
    bits = tag_values(picture, BITSPERSAMPLE)
    if picture.mode.startswith("I;16"):
        # By its full range, which is that of 12 bits in some TIFF files.
        full_range = 4095 if bits == (12,) else 65535
        table = (np.arange(65536, dtype=np.int64) * 255 + full_range // 2) // full_range
        gray = np.minimum(table, 255).astype(np.uint8)[pixels]
        if tag_values(picture, PHOTOMETRIC_INTERPRETATION) == (0,):  # 0 is white, which Pillow forgets
            gray = 255 - gray
    elif bits == (32,) and picture.mode == "I" and tag_values(picture, SAMPLEFORMAT) in ((), (1,)):
        # Unsigned, of which Pillow makes signed integers. The full range is black to white.
        gray = ((pixels.view(np.uint32) + np.uint64(0x808080)) // np.uint64(0x01010101)).astype(np.uint8)
    else:
        gray = _scale_unknown_range(pixels)
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):  # the color that a PNG marks as transparent
        return Image.merge("LA", (Image.fromarray(gray), Image.fromarray(np.uint8(255) * (pixels != transparent))))
    return Image.fromarray(gray)


def _scale_unknown_range(pixels: NDArray[np.float32] | NDArray[np.int32]) -> NDArray[np.uint8]:
    """Scale 32-bit integers or floats, which do not say their range."""
    # It is taken to be 0..1, 0..255 or 0..65535, the first that holds every value, else (negative or larger values)
    # from the smallest to the largest. Infinities become the nearest end, NaN the lower one.
    is_finite = np.isfinite(pixels)
    if not is_finite.any():
        return np.zeros(pixels.shape, np.uint8)
    finite = pixels if is_finite.all() else pixels[is_finite]
    low, high = float(finite.min()), float(finite.max())
    is_plain = low >= 0 and high <= 65535
    bottom, top = (0.0, next(top for top in (1.0, 255.0, 65535.0) if high <= top)) if is_plain else (low, high)
    gray = np.empty(pixels.shape, np.uint8)
    n_rows = max(1, _STRIP_PIXELS // pixels.shape[1])
    for start in range(0, len(pixels), n_rows):
        rows = slice(start, start + n_rows)
        with np.errstate(invalid="ignore"):  # a signaling NaN is still only a NaN
            values = np.nan_to_num(pixels[rows].astype(np.float64), nan=low, posinf=high, neginf=low)
        values -= bottom
        values /= (top - bottom) or 1.0
        values *= 255
        gray[rows] = np.rint(values)
    return gray
