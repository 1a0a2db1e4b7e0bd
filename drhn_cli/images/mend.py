"""Damage that costs no picture: to side chunks of a PNG, and missing last bytes where nearly all rows are there.

Viewers show such files. Only what a decoder has refused gets here, so sound pictures are decoded as they are.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drhn_cli.errors import ImageError
from drhn_cli.images.rendering import MAX_PROFILE_BYTES

MISSING_ROWS = 0.1
"""The largest part of a picture's rows that may be missing at its end."""

_PNG = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS = 1 << 18  # a PNG of 2 GB in the chunks of 8 KB that libpng writes
# Side chunks that change what is seen. Those of animations go, so that the picture for programs without them is shown.
_KEPT_SIDE_CHUNKS = (b"tRNS", b"eXIf")
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type, section 11.2.1 of the PNG specification

# The marks of ITU-T T.81, annex B. In the data of a scan 0xFF is followed by 0 or by a restart mark.
_EOI = b"\xff\xd9"
_MARK = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_START_OF_SCAN, _START_OF_FRAMES, _PROGRESSIVE = 0xDA, (0xC0, 0xC1, 0xC2), 0xC2
_SCAN_MARK = re.compile(rb"\xff\xda")
_N_COEFFICIENTS = 64
# For each scan of a progressive JPEG a decoder goes through the whole picture. Programs write about 10.
_MAX_SCANS = 100
_MAX_SCANNED_PIXELS = 1_000_000_000
_MEND_SIDE = 512  # in pixels, of what is decoded to see which rows are there


class Mended(NamedTuple):
    """Another file with the same pixels.

    Attributes:
        data: the file.
        icc_profile: its color profile, where that is not in ``data``.
    """

    data: bytes
    icc_profile: bytes | None = None


def mend(data: bytes) -> Mended | None:
    """Return a file that decoders take in the place of one that they refused; None if too much is missing."""
    with suppress(struct.error, zlib.error, IndexError, ValueError, OSError, SyntaxError):
        if data.startswith(_PNG):
            return _mend_png(data)
        if data.startswith(b"\xff\xd8\xff"):
            return _mend_jpeg(data)
        if data.startswith((b"BM", b"P4", b"P5", b"P6")):
            # Rows without compression. Where more than these are missing, the file is still refused.
            return Mended(data + bytes(int(len(data) * MISSING_ROWS / (1 - MISSING_ROWS))))
    return None


def refuse_many_chunks(data: bytes) -> None:
    """Refuse a PNG of more chunks than any program writes: reading millions of empty ones takes minutes."""
    if data.startswith(_PNG):
        for number, _ in enumerate(_chunks(data)):
            if number >= _MAX_CHUNKS:
                expected = f"at most {_MAX_CHUNKS:,} chunks"
                raise ImageError("not supported", expected=expected, found="a PNG of more", hint="save it again")


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each chunk of a PNG and the place and length of its content, which may be cut short."""
    at, parse = len(_PNG), struct.Struct(">I4s").unpack_from
    while at + 8 <= len(data):
        length, kind = parse(data, at)
        yield kind, at + 8, length
        at += length + 12


def _mend_png(data: bytes) -> Mended | None:
    """Leave out side chunks but sound ones that matter, and fill up the last rows."""
    view, parts, pixels = memoryview(data), [_PNG], []
    profile, is_whole, header = None, False, b""
    for kind, at, length in _chunks(data):
        content = view[at : at + length]
        checksum = bytes(view[at + length : at + length + 4])
        is_sound = checksum == struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
        if kind == b"IEND":
            is_whole = True
            break
        if kind == b"IDAT":
            pixels.append(content)
        elif kind == b"iCCP" and is_sound:
            profile = _unpack_profile(bytes(content))
        elif kind in (b"IHDR", b"PLTE") or (is_sound and kind in _KEPT_SIDE_CHUNKS):
            parts.append(bytes(view[at - 8 : at + length + 4]))
            header = header or bytes(content)
    stream = b"".join(pixels) if is_whole else _fill_rows(header, b"".join(pixels))
    if stream is None:
        return None
    for kind, body in ((b"IDAT", stream), (b"IEND", b"")):
        parts += [struct.pack(">I", len(body)) + kind, body, struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))]
    return Mended(b"".join(parts), profile)


def _unpack_profile(content: bytes) -> bytes | None:
    _, _, packed = content.partition(b"\0")
    with suppress(zlib.error):
        profile = zlib.decompressobj().decompress(packed[1:], MAX_PROFILE_BYTES + 1)
        return profile if len(profile) <= MAX_PROFILE_BYTES else None
    return None


def _fill_rows(header: bytes, stream: bytes) -> bytes | None:
    """Return the pixels of a PNG that is cut short with the missing rows black; None if too many are missing."""
    width, height, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    n_row = 1 + (width * depth * _CHANNELS.get(color, 0) + 7) // 8
    n_all = n_row * height
    if interlaced or len(stream) * 1100 < n_all:  # deflate packs to no less than a 1032th
        return None
    pixels = zlib.decompressobj().decompress(stream, n_all)
    n_missing = n_all - len(pixels)
    return zlib.compress(pixels + bytes(n_missing), 1) if n_missing <= MISSING_ROWS * n_all else None


class _Scan(NamedTuple):
    """A scan of a JPEG: components, first and last coefficient, low bits that it leaves out, where its data begins."""

    components: bytes
    first: int
    last: int
    n_low_bits: int
    at: int


class _Jpeg(NamedTuple):
    """Components and scans of a JPEG, and the end of what is whole: a mark or segment that is cut short is left out."""

    is_progressive: bool
    components: bytes
    scans: list[_Scan]
    end: int

    def is_complete(self, n_scans: int) -> bool:
        """Whether these first scans have all coefficients but for their last bits, which hardly show."""
        needed = {(component, k) for component in self.components for k in range(_N_COEFFICIENTS)}
        for scan in self.scans[:n_scans]:
            if scan.n_low_bits <= 1:
                needed -= {(component, k) for component in scan.components for k in range(scan.first, scan.last + 1)}
        return not needed


def refuse_many_scans(data: bytes, n_pixels: int) -> None:
    """Refuse a JPEG whose scans would take minutes."""
    # In a film behind the picture the mark is there by chance. ``bytes.count`` looks for it twice as long.
    marks = islice(_SCAN_MARK.finditer(data), _MAX_SCANS + 1)
    if sum(1 for _ in marks) > _MAX_SCANS:
        n_scans = len(_read_jpeg(data).scans)
        if n_scans > _MAX_SCANS and n_scans * n_pixels > _MAX_SCANNED_PIXELS:
            found = f"{n_scans:,} scans of {n_pixels:,} pixels"
            raise ImageError("not supported", expected=f"at most {_MAX_SCANS} scans", found=found, hint="save it again")


def _mend_jpeg(data: bytes) -> Mended | None:
    """Put an end mark to a JPEG that has none, if nearly all of its rows are there."""
    jpeg = _read_jpeg(data)
    if not jpeg.scans:
        return None
    whole, n_whole_scans = data[: jpeg.end] + _EOI, len(jpeg.scans) - 1
    if jpeg.is_progressive:
        if jpeg.is_complete(n_whole_scans):
            return Mended(whole)
        if not jpeg.is_complete(n_whole_scans + 1):
            return None
    # The last scan's data reaches down to the last of the rows that it changes.
    is_changed = _decode(whole, jpeg) != _decode(data[: jpeg.scans[-1].at] + _EOI, jpeg)
    rows = np.flatnonzero(is_changed.any(1))
    n_missing = len(is_changed) - (int(rows[-1]) + 1 if len(rows) else 0)
    return Mended(whole) if n_missing <= MISSING_ROWS * len(is_changed) else None


def _decode(data: bytes, jpeg: _Jpeg) -> NDArray[np.uint8]:
    """Decode to gray values, (height, width), smaller where that shows all scans."""
    picture = Image.open(io.BytesIO(data), formats=("JPEG",))
    picture.draft("L", picture.size if jpeg.is_progressive else (_MEND_SIDE, _MEND_SIDE))
    return np.asarray(picture.convert("L"))


def _read_jpeg(data: bytes) -> _Jpeg:
    is_progressive, components, at = False, b"", 2
    scans: list[_Scan] = []
    while match := _MARK.search(data, at):
        at, mark = match.start(), data[match.start() + 1]
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if mark == _EOI[1] or end > len(data) or at + 4 > len(data):
            return _Jpeg(is_progressive, components, scans, at)
        if mark in _START_OF_FRAMES:
            is_progressive, components = mark == _PROGRESSIVE, data[at + 10 : end : 3]
        elif mark == _START_OF_SCAN:
            first, last, bits = data[end - 3 : end]
            scans.append(_Scan(data[at + 5 : end - 3 : 2], first, last, bits & 15, end))
        at = end
    return _Jpeg(is_progressive, components, scans, len(data))
