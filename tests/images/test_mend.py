"""Files with damage that viewers show all the same, and those that are cut short in earnest."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from drhn_cli.errors import ImageError
from drhn_cli.images.decode import decode_image
from tests.drawing import draw_gradient
from tests.profiles import matrix_profile, to_space

SIDE = 256


def noisy() -> Image.Image:
    """Return a picture whose bytes are spread evenly over its rows."""
    noise = np.random.default_rng(1).integers(-20, 20, (SIDE, SIDE, 3))
    return Image.fromarray(np.clip(np.asarray(draw_gradient(SIDE, SIDE)) + noise, 0, 255).astype(np.uint8))


PICTURE = noisy()


def encode(codec: str, picture: Image.Image = PICTURE, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, codec, **options)
    return stream.getvalue()


def decode(data: bytes, **options: object) -> np.ndarray:
    return np.asarray(decode_image(io.BytesIO(data), **options))  # type: ignore[arg-type]


def refusal(data: bytes, **options: object) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, **options)
    return caught.value.message


def chunk(kind: bytes, content: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png_with(*chunks: bytes, picture: Image.Image = PICTURE) -> bytes:
    data = encode("PNG", picture)
    return data[:33] + b"".join(chunks) + data[33:]


LONG = bytes(range(32, 127)) * 14_000
SIDE_CHUNKS = {
    "long compressed text": chunk(b"zTXt", b"C\0\0" + zlib.compress(LONG)),
    "long compressed UTF-8": chunk(b"iTXt", b"C\0\1\0\0\0" + zlib.compress(LONG)),
    "long profile": chunk(b"iCCP", b"icc\0\0" + zlib.compress(matrix_profile("srgb") + bytes(1_500_000))),
    "huge profile": chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(9_000_000))),
    "text packed in an unknown way": chunk(b"zTXt", b"C\0\7abc"),
    "short pHYs": chunk(b"pHYs", b"\0\0\1"),
    "short gAMA": chunk(b"gAMA", b"\0\1"),
    "short cHRM": chunk(b"cHRM", bytes(13)),
    "empty sRGB": chunk(b"sRGB", b""),
    "short iCCP": chunk(b"iCCP", b"icc\0"),
    **{
        f"checksum of {kind.decode()}": chunk(kind, content, 1)
        for kind, content in {
            b"tEXt": b"Comment\0by hand",
            b"pHYs": struct.pack(">IIB", 2835, 2835, 1),
            b"iCCP": b"icc\0\0" + zlib.compress(matrix_profile("p3")),
            b"eXIf": b"II*\0\x08\0\0\0\0\0",
            b"tRNS": bytes(6),
            b"acTL": struct.pack(">II", 2, 0),
            b"prVt": b"anything",
        }.items()
    },
}


@pytest.mark.parametrize("kind", SIDE_CHUNKS)
@pytest.mark.parametrize("rendering", [1, 2])
def test_side_chunks_cost_no_png(kind: str, rendering: int) -> None:
    np.testing.assert_array_equal(decode(png_with(SIDE_CHUNKS[kind]), rendering=rendering), np.asarray(PICTURE))


@pytest.mark.parametrize("kind", [kind for kind in SIDE_CHUNKS if kind not in ("short iCCP", "checksum of prVt")])
def test_strict_refuses_them(kind: str) -> None:
    data = png_with(SIDE_CHUNKS[kind])
    try:
        decode(data, strict=True)
    except ImageError as error:
        assert error.problem == "damaged or cut short"  # noqa: PT017
    else:  # what the decoder does not mind is no damage
        assert kind.startswith(("short", "empty"))


def test_what_changes_a_png_is_kept_beside_damage() -> None:
    damaged = chunk(b"tEXt", b"C\0x", 1)
    exif = Image.Exif()
    exif[0x0112] = 3
    data = encode("PNG", exif=exif)
    np.testing.assert_array_equal(decode(data[:33] + damaged + data[33:]), np.asarray(PICTURE)[::-1, ::-1])
    palette = PICTURE.quantize(8)
    data = encode("PNG", palette, transparency=0)
    np.testing.assert_array_equal(decode(data[:33] + damaged + data[33:]), decode(data))
    wide = chunk(b"iCCP", b"icc\0\0" + zlib.compress(matrix_profile("prophoto") + bytes(1_500_000)))
    in_prophoto = to_space(draw_gradient(64, 64), "prophoto")
    shown = decode(png_with(wide, picture=in_prophoto), rendering=2)
    assert np.abs(shown.astype(int) - np.asarray(draw_gradient(64, 64))).mean() < 6
    assert np.abs(np.asarray(in_prophoto).astype(int) - np.asarray(draw_gradient(64, 64))).mean() > 20


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("n_missing", [1, 2, 60])
def test_a_jpeg_without_its_last_bytes_is_read(options: dict[str, object], mode: str, n_missing: int) -> None:
    data = encode("JPEG", PICTURE.convert(mode), quality=90, **options)
    apart = np.abs(decode(data[:-n_missing]).astype(int) - decode(data))
    assert apart.mean() < 1
    if n_missing > 2:  # some decoders do without an end mark
        assert "damaged" in refusal(data[:-n_missing], strict=True)


@pytest.mark.parametrize("codec", ["BMP", "PPM", "PNG", "JPEG"])
def test_a_tenth_of_the_rows_may_be_missing(codec: str) -> None:
    data = encode(codec, quality=90) if codec == "JPEG" else encode(codec)
    apart = np.abs(decode(data[: len(data) * 95 // 100]).astype(int) - decode(data))
    assert apart.mean() < 12
    for part in (0.8, 0.5, 0.1):
        assert "damaged or cut short" in refusal(data[: int(len(data) * part)])


def test_a_progressive_jpeg_of_coarse_scans_alone_is_refused() -> None:
    data = encode("JPEG", progressive=True, quality=90)
    assert "damaged" in refusal(data[: len(data) // 4])


def test_an_interlaced_png_that_is_cut_short_is_refused() -> None:
    data = bytearray(encode("PNG"))
    data[28] = 1
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    assert "damaged" in refusal(bytes(data[:-40]))


def test_black_and_white_pages_are_no_bombs() -> None:
    page = Image.new("1", (7016, 9921), 1)
    for compression in ("group4", "tiff_deflate"):
        assert decode_image(io.BytesIO(encode("TIFF", page, compression=compression)), min_side=8).size == page.size


def test_the_guess_about_small_files_has_a_way_out() -> None:
    data = encode("PNG", Image.new("L", (8000, 8000)))
    assert "--max-pixels" in refusal(data)
    assert decode_image(io.BytesIO(data), max_pixels=64_000_000).size == (8000, 8000)


def many_scans() -> bytes:
    data = encode("JPEG", Image.new("L", (2048, 2048), 128), progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * 20_000 + b"\xff\xd9"


@pytest.mark.parametrize(
    "build", [many_scans, lambda: png_with(chunk(b"tEXt", b"") * 300_000)], ids=["scans", "chunks"]
)
def test_what_would_take_minutes_is_refused_at_once(build: Callable[[], bytes]) -> None:
    data = build()
    began = time.process_time()
    assert "not supported" in refusal(data)
    assert time.process_time() - began < 3


def test_a_film_behind_a_picture_is_not_taken_for_scans() -> None:
    film = np.random.default_rng(0).bytes(1 << 16).replace(b"\xff", b"\xff\xda")
    np.testing.assert_array_equal(decode(encode("JPEG") + film * 20), decode(encode("JPEG")))
