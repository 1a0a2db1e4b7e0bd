"""The preview in a camera's RAW file: a JPEG that the camera has developed and put beside the sensor's data."""

from __future__ import annotations

import io
import re
from contextlib import suppress
from itertools import islice

from PIL import ExifTags, Image

from drhn_cli.files import CORRUPT

MIN_PREVIEW_SIDE = 512
"""The longer side of the smallest preview that is taken, in pixels: thumbnails are cropped, or have bars."""

# Where makers put the preview differs; a JPEG is known by its own marks wherever it lies. The sensor's data may be JPEG
# of another kind, too: without loss, or of more than 8 bits.
_START = re.compile(rb"\xff\xd8\xff[\xc0-\xfe]")
_START_OF_SCAN, _FRAMES = 0xDA, (0xC0, 0xC1, 0xC2)
_MAX_CANDIDATES, _MAX_SEGMENTS = 1000, 200
_CAMERA_MAGICS = (b"IIRO", b"IIRS", b"MMOR", b"IIU\0")  # of Olympus and Panasonic, in the place of TIFF's


def find_preview(data: bytes) -> bytes | None:
    """Return the part of a RAW file that begins with its largest preview; None if it has none that is large enough."""
    starts = (match.start() for match in islice(_START.finditer(data), _MAX_CANDIDATES))
    sizes = {start: _size_at(data, start) for start in starts}
    best = max(sizes, key=lambda start: sizes[start][0] * sizes[start][1], default=None)
    return None if best is None or max(sizes[best]) < MIN_PREVIEW_SIDE else data[best:]


def orientation_of(data: bytes) -> int | None:
    """Return the orientation that a RAW file of TIFF's structure has for its preview."""
    if data[:4] in _CAMERA_MAGICS:
        data = (b"II*\0" if data.startswith(b"II") else b"MM\0*") + data[4:]
    exif = Image.Exif()
    with suppress(OSError, *CORRUPT):
        exif.load_from_fp(io.BytesIO(data))
        value = exif.get(ExifTags.Base.Orientation)
        return value if isinstance(value, int) else None
    return None


def _size_at(data: bytes, start: int) -> tuple[int, int]:
    """Return width and height of the 8-bit JPEG that begins here; zeros if there is none."""
    at, size = start + 2, (0, 0)
    for _ in range(_MAX_SEGMENTS):
        if data[at : at + 1] != b"\xff" or at + 10 > len(data):
            break
        mark, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if mark in _FRAMES and data[at + 4] == 8:
            size = int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        if mark == _START_OF_SCAN:
            return size
        at = end
    return 0, 0
