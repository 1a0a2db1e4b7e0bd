"""Which files count as pictures: the formats that are decoded, and the file name suffixes that are looked for."""

from __future__ import annotations

from importlib.util import find_spec

# Importing a plugin registers its format with Pillow. Naming them is faster than Image.init(), which imports all
# forty, and leaves out those that run other programs (EPS), hold no photographs (icons, fonts) or only describe one.
from PIL import (  # noqa: F401
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

# JPEG includes MPO, the stereo format that phones write with a .jpg suffix.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF", "BMP", "JPEG2000", "PPM")

SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".mpo",
    ".png",
    ".apng",
    ".webp",
    ".gif",
    ".avif",
    ".avifs",
    ".tif",
    ".tiff",
    ".bmp",
    ".dib",
    ".jp2",
    ".j2k",
    ".jpx",
    ".pbm",
    ".pgm",
    ".pnm",
    ".ppm",
)

# Pillow has no HEIF decoder of its own. pillow-heif brings one, and is imported when the first such picture is met.
_HEIF_FORMAT = "HEIF"
_HEIF_SUFFIXES = (".heic", ".heics", ".heif", ".heifs", ".hif")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_CONTAINER_BRANDS = (b"mif1", b"msf1")  # of AVIF, too


def picture_formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that are decoded: ``FORMATS``, and HEIF where a decoder is registered."""
    return (*FORMATS, _HEIF_FORMAT) if _HEIF_FORMAT in Image.OPEN else FORMATS


def readable_formats() -> tuple[str, ...]:
    """Return the formats that are decoded, and HEIF where its decoder could be registered."""
    return (*FORMATS, _HEIF_FORMAT) if _can_read_heif() else FORMATS


def picture_suffixes() -> frozenset[bytes]:
    """Return the lower-case suffixes, dot included, that mark a file in a folder as a picture.

    They are bytes because file names are: a name need not be valid in any encoding.
    """
    suffixes = SUFFIXES + _HEIF_SUFFIXES if _can_read_heif() else SUFFIXES
    return frozenset(suffix.encode("ascii") for suffix in suffixes)


def _can_read_heif() -> bool:
    return _HEIF_FORMAT in Image.OPEN or find_spec("pillow_heif") is not None


def is_heif(prefix: bytes) -> bool:
    """Tell a HEIC picture by its first 12 bytes.

    Source: ISO/IEC 23008-12, the brands of HEVC pictures.
    """
    return prefix[4:8] == b"ftyp" and prefix[8:12] in _HEIF_BRANDS


def may_be_heif(prefix: bytes) -> bool:
    """Tell by its first 12 bytes what may be a HEIC picture, or an AVIF one, or neither.

    Source: ISO/IEC 23008-12, the brands of containers.
    """
    return prefix[4:8] == b"ftyp" and prefix[8:12] in _CONTAINER_BRANDS


def register_heif() -> bool:
    """Make Pillow read HEIC pictures, if pillow-heif is installed; return whether it does."""
    if _HEIF_FORMAT not in Image.OPEN:
        try:
            import pillow_heif
        except ImportError:
            return False
        pillow_heif.register_heif_opener()
    return True
