"""Which files count as pictures: formats that are decoded, suffixes that are looked for, what is no picture to us."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.util import find_spec
from itertools import chain

# Importing a plugin registers its format with Pillow. Naming them is faster than Image.init(), which imports all
# forty, and leaves out those that run other programs (EPS), hold no photographs (icons, fonts) or only describe one.
from PIL import AvifImagePlugin, Image, Jpeg2KImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

from drhn_cli.errors import AnyPath, ImageError

Image.preinit()  # BMP, GIF, JPEG, PNG and PPM

_SUFFIXES_OF = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),  # MPO is the stereo format that phones write, also as .jpg
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "AVIF": (".avif", ".avifs"),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "PPM": (".pbm", ".pgm", ".pnm", ".ppm"),
}
FORMATS = tuple(_SUFFIXES_OF)
SUFFIXES = tuple(chain.from_iterable(_SUFFIXES_OF.values()))

# Pillow has no HEIF decoder of its own. pillow-heif brings one, and is imported when the first such picture is met.
_HEIF_FORMAT = "HEIF"
_HEIF_SUFFIXES = (".heic", ".heics", ".heif", ".heifs", ".hif")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_CONTAINER_BRANDS = (b"mif1", b"msf1")  # used by AVIF, too
_WITH_FURTHER_PICTURES = ("MPO", _HEIF_FORMAT)
# Motion photos: a film behind a JPEG, of which its XMP tells, or a list at the end.
_FILM_MARKS = (b"MotionPhoto=", b"MotionPhoto>", b"MicroVideo=", b"MicroVideo>")
_METADATA_BYTES = 1 << 17
_SAMSUNG_END, _SAMSUNG_FILM = b"SEFT", b"MotionPhoto_Data"
_ARCHIVE_SUFFIXES = (".tar", ".zip", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_SKIPPED = {
    **dict.fromkeys(_HEIF_SUFFIXES, "HEIC"),
    ".jxl": "JPEG XL",
    **dict.fromkeys(_ARCHIVE_SUFFIXES, "archive"),
}

# Camera RAW files. Many look like TIFF, of which Pillow would decode a thumbnail; ``raw`` finds their previews.
_RAW_NAMES = b"3fr arw cr2 cr3 crw dcr dng erf iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f"
RAW_SUFFIXES = frozenset(b"." + name for name in _RAW_NAMES.split())
_CR2_MARK = b"CR\x02"  # from byte 8 on


def passed_over(picture: Image.Image, data: bytes) -> str | None:
    """Return what an opened file holds besides the picture that counts: ``film``, ``further picture`` or None."""
    if picture.format in _WITH_FURTHER_PICTURES and getattr(picture, "n_frames", 1) > 1:
        return "further picture"
    if picture.format not in ("JPEG", "MPO"):
        return None
    head = data[:_METADATA_BYTES]
    has_film = any(mark in head for mark in _FILM_MARKS) or (data.endswith(_SAMSUNG_END) and _SAMSUNG_FILM in data)
    return "film" if has_film else None


def picture_formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that are decoded: ``FORMATS``, and HEIF where a decoder is registered."""
    return (*FORMATS, _HEIF_FORMAT) if _HEIF_FORMAT in Image.OPEN else FORMATS


def readable_formats() -> tuple[str, ...]:
    """Return the formats that are decoded, and HEIF where its decoder could be registered."""
    return (*FORMATS, _HEIF_FORMAT) if _can_read_heif() else FORMATS


def picture_suffixes(*, raw: bool = False) -> frozenset[bytes]:
    """Return the lower-case suffixes, dot included, that mark a file in a folder as a picture.

    They are bytes because file names are: a name need not be valid in any encoding.
    """
    suffixes = SUFFIXES + _HEIF_SUFFIXES if _can_read_heif() else SUFFIXES
    encoded = frozenset(suffix.encode("ascii") for suffix in suffixes)
    return encoded | RAW_SUFFIXES if raw else encoded


def kind_of_skipped(suffix: bytes) -> str:
    """Return what a file is that is not looked at: ``HEIC``, ``RAW``, ``JPEG XL``, ``archive`` or ``other``."""
    if suffix in RAW_SUFFIXES:
        return "RAW"
    return _SKIPPED.get(suffix.decode("latin-1"), "other")


def _can_read_heif() -> bool:
    return _HEIF_FORMAT in Image.OPEN or find_spec("pillow_heif") is not None


def formats_of(prefix: bytes) -> tuple[str, ...]:
    """Return the formats that a picture may have by its first 16 bytes; none where it is no picture.

    A format that cannot be decoded here is refused. The brands of HEIF are those of ISO/IEC 23008-12.
    """
    brand = prefix[8:12] if prefix[4:8] == b"ftyp" else b""
    if brand in _HEIF_BRANDS and not register_heif():
        raise ImageError("HEIC is not decoded by Pillow alone", hint="install its decoder: pip install 'drhn[heif]'")
    if brand in _CONTAINER_BRANDS:
        register_heif()
    formats = []
    for name in picture_formats():
        accept = Image.OPEN[name][1]
        accepted = accept is None or accept(prefix)
        if isinstance(accepted, str):  # known, but not built into this Pillow
            raise ImageError(f"{name} is not supported here", hint="reinstall Pillow from its wheel")
        if accepted:
            formats.append(name)
    return tuple(formats)


def register_heif() -> bool:
    """Make Pillow read HEIC pictures, if pillow-heif is installed; return whether it does."""
    if _HEIF_FORMAT not in Image.OPEN:
        with suppress(ImportError):
            import pillow_heif

            pillow_heif.register_heif_opener()
    return _HEIF_FORMAT in Image.OPEN


def is_raw(prefix: bytes, path: AnyPath | None) -> bool:
    """Whether a file is a RAW file by its name or its first 16 bytes."""
    suffix = os.path.splitext(os.fsencode(path))[1] if path is not None else b""
    return prefix[8:11] == _CR2_MARK or suffix.lower() in RAW_SUFFIXES
