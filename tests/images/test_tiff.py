"""TIFF files whose structure alone would take minutes, or more memory than their pixels."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from drhn_cli.errors import ImageError
from drhn_cli.images.decode import decode_image
from tests.tiff import build_tiff


def directory(tags: dict[int, tuple[int, int, int]], order: str = "<", *, is_big: bool = False) -> bytes:
    """Return a directory of tags: type, number of values, and the value or its place."""
    number, entry, place = ("Q", "HHQQ", "Q") if is_big else ("H", "HHII", "I")
    packed = struct.pack(order + number, len(tags))
    for tag, values in sorted(tags.items()):
        kind, count, value = values
        if kind == 3 and order == ">":
            value <<= 48 if is_big else 16
        packed += struct.pack(order + entry, tag, kind, count, value)
    return packed + struct.pack(order + place, 0)


def header(order: str = "<", *, is_big: bool = False) -> bytes:
    mark = b"II" if order == "<" else b"MM"
    return mark + (struct.pack(order + "HHHQ", 43, 8, 0, 16) if is_big else struct.pack(order + "HI", 42, 8))


def plain(width: int, height: int) -> dict[int, tuple[int, int, int]]:
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 277: 1}
    return {tag: (4 if tag < 258 else 3, 1, value) for tag, value in tags.items()}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("is_big", [False, True])
def test_millions_of_strips_are_refused_at_once(order: str, is_big: bool) -> None:
    n = 3_000_000
    tags = plain(1, n) | {278: (4, 1, 1), 273: (4, n, 300), 279: (4, n, 300 + 4 * n)}
    data = header(order, is_big=is_big) + directory(tags, order, is_big=is_big)
    data = data.ljust(300, b"\0") + np.full(2 * n, 8, order + "u4").tobytes()
    began = time.process_time()
    with pytest.raises(ImageError, match=r"not supported .*3,000,000 strips"):
        decode_image(io.BytesIO(data))
    assert time.process_time() - began < 1


def test_a_tile_that_is_larger_than_its_picture_is_refused_before_it_takes_memory() -> None:
    side = 32768
    packed = zlib.compress(bytes(1 << 20))
    tags = plain(8, 8) | {
        259: (3, 1, 8),
        322: (4, 1, side),
        323: (4, 1, side),
        324: (4, 1, 8),
        325: (4, 1, len(packed)),
    }
    data = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + directory(tags)
    with pytest.raises(ImageError, match=r"not supported .*tiles of 32768 x 32768 pixels in a picture of 8 x 8"):
        decode_image(io.BytesIO(data))


def test_tens_of_thousands_of_pages_are_refused() -> None:
    data = header()
    for _ in range(20_000):
        page = directory(plain(1, 1) | {273: (4, 1, 0), 279: (4, 1, 1)})
        data += page[:-4] + struct.pack("<I", len(data) + len(page))
    with pytest.raises(ImageError, match=r"more than 10,000 pages"):
        decode_image(io.BytesIO(data), rendering=2)


def test_pages_in_a_ring_are_read() -> None:
    data = bytearray(build_tiff(4, 4, [8], 1, [bytes(16)]))
    (first,) = struct.unpack_from("<I", data, 4)
    data[-4:] = struct.pack("<I", first)
    assert decode_image(io.BytesIO(bytes(data))).size == (4, 4)


def test_ordinary_tiles_and_strips_are_read() -> None:
    tall = Image.new("1", (1, 60_000), 1)
    for options in ({"tiffinfo": {278: 1}}, {"compression": "group4"}):
        stream = io.BytesIO()
        tall.save(stream, "TIFF", **options)
        assert decode_image(stream_at_start(stream)).size == tall.size


def stream_at_start(stream: io.BytesIO) -> io.BytesIO:
    stream.seek(0)
    return stream


def test_an_endless_stream_that_is_no_picture_ends_at_once() -> None:
    class Endless(io.RawIOBase):
        n_read = 0

        def read(self, size: int = -1) -> bytes:
            self.n_read += size
            return bytes(size)

    stream = Endless()
    with pytest.raises(ImageError, match=r"not a picture"):
        decode_image(stream)  # type: ignore[arg-type]
    assert stream.n_read < 1000


def test_a_large_transparent_picture_is_laid_on_its_background_in_strips() -> None:
    drawing = Image.new("RGBA", (3000, 3000), (10, 200, 30, 128))
    stream = io.BytesIO()
    drawing.save(stream, "PNG")
    assert decode_image(stream_at_start(stream)).getcolors() == [(9_000_000, (132, 227, 142))]
    tracemalloc.start()
    stream = io.BytesIO()
    Image.fromarray(np.zeros((3000, 3000), np.float32)).save(stream, "TIFF")
    decode_image(stream_at_start(stream))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000_000
