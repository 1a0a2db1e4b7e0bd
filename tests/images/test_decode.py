from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from drhn_cli.errors import ImageError
from drhn_cli.images import source as source_module
from drhn_cli.images.decode import decode_image, decode_reduced
from drhn_cli.images.formats import FORMATS
from tests.damage import png_of_size
from tests.drawing import draw_gradient, draw_picture

PICTURE = draw_picture("square", 3, 24)


def encode(image: Image.Image, codec: str, **options: object) -> io.BytesIO:
    stream = io.BytesIO()
    image.save(stream, codec, **options)
    stream.seek(0)
    return stream


def decode(stream: io.BytesIO, **options: int) -> np.ndarray:
    stream.seek(0)
    image = decode_image(stream, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def refusal(source: object, **options: int) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_image(source, **options)  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize("codec", FORMATS)
def test_every_format_is_decoded(codec: str, tmp_path: Path) -> None:
    path = tmp_path / "misleading.txt"
    path.write_bytes(encode(PICTURE, codec).getvalue())
    for source in (path, str(path), os.fsencode(path), io.BytesIO(path.read_bytes())):
        pixels = np.asarray(decode_image(source))
        assert np.abs(pixels.astype(int) - np.asarray(PICTURE)).mean() < 30


@pytest.mark.parametrize("codec", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_formats_are_exact(codec: str) -> None:
    np.testing.assert_array_equal(decode(encode(PICTURE, codec)), np.asarray(PICTURE))


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize(
    ("codec", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})],
)
def test_orientation_is_applied_once(orientation: int, codec: str, options: dict[str, object]) -> None:
    image = draw_gradient(40, 24)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    turned = decode(encode(image, codec, exif=exif, **options))
    np.testing.assert_array_equal(turned, TURNS[orientation](np.asarray(image)))


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("codec", ["JPEG", "AVIF", "MPO"])
def test_orientation_of_lossy_formats(orientation: int, codec: str) -> None:
    image = draw_gradient(40, 24)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"save_all": True, "append_images": [image]} if codec == "MPO" else {}
    turned = decode(encode(image, codec, exif=exif, **options))
    expected = TURNS[orientation](np.asarray(image)).astype(int)
    assert turned.shape == expected.shape
    assert np.abs(turned - expected).mean() < 6


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*\0\0\0\x08\xff"])
def test_damaged_exif_does_not_cost_the_picture(exif: bytes) -> None:
    assert decode(encode(PICTURE, "JPEG", exif=exif)).shape == (24, 24, 3)


def test_exif_that_is_none_does_not_cost_the_picture() -> None:
    stream = encode(PICTURE, "WEBP", exif=b"garbage, of a length that fits a header")
    assert decode(stream).shape == (24, 24, 3)


def test_an_orientation_that_does_not_exist_is_passed_over() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 77
    np.testing.assert_array_equal(decode(encode(PICTURE, "PNG", exif=exif)), np.asarray(PICTURE))


@pytest.mark.parametrize("codec", ["JPEG", "TIFF"])
def test_cmyk_keeps_its_colours(codec: str) -> None:
    colour = decode(encode(Image.new("RGB", (8, 8), (220, 40, 60)).convert("CMYK"), codec))
    assert np.abs(colour.astype(int) - (220, 40, 60)).max() < 8


def test_lab_keeps_its_colours() -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = Image.new("RGB", (8, 8), (220, 40, 60))
    converted = ImageCms.applyTransform(image, ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))
    assert converted is not None
    assert np.abs(decode(encode(converted, "TIFF")).astype(int) - (220, 40, 60)).max() < 8


@pytest.mark.parametrize("codec", ["PNG", "TIFF", "JPEG2000"])
def test_16_bit_grey_uses_its_full_range(codec: str) -> None:
    deep = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    pixels = decode(encode(Image.fromarray(deep), codec))
    np.testing.assert_array_equal(pixels[..., 0], np.arange(256).reshape(16, 16))


def test_16_bit_pgm_uses_its_full_range() -> None:
    data = b"P5 4 1 65535\n" + np.array([0, 257, 32896, 65535], ">u2").tobytes()
    assert decode(io.BytesIO(data))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_12_bit_tiff_uses_its_own_range() -> None:
    # Two pixels in three bytes: 4095 and 2048. Pillow reads such files but cannot write them.
    tags = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 3)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags)
    data = b"II*\0" + struct.pack("<I", 12) + b"\xff\xf8\x00\0" + directory + bytes(4)
    assert decode(io.BytesIO(data))[0, :, 0].tolist() == [255, 128]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, 5e5, 1e6], [0, 128, 255]),
        ([-5.0, -5.0, -5.0], [0, 0, 0]),
        ([-3e38, 0.0, 3e38], [0, 128, 255]),
        ([np.nan, 1.0, np.inf], [255, 255, 255]),
        ([np.nan, 0.0, 1.0], [0, 0, 255]),
        ([-np.inf, 0.25, np.inf], [64, 64, 64]),
        ([np.nan, np.inf, -np.inf], [0, 0, 0]),
    ],
)
def test_float_grey_is_scaled_by_the_range_it_fits(values: list[float], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], np.float32))
    assert decode(encode(image, "TIFF"))[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 100, 255], [0, 100, 255]), ([-100, 0, 100], [0, 128, 255]), ([0, 257, 65535], [0, 1, 255])],
)
def test_32_bit_grey_is_scaled_by_the_range_it_fits(values: list[int], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], np.int32))
    assert decode(encode(image, "TIFF"))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_plain_modes(mode: str) -> None:
    image = PICTURE.convert(mode)
    np.testing.assert_array_equal(decode(encode(image, "PNG")), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("codec", ["PNG", "TIFF"])
def test_alpha_is_laid_on_white(mode: str, codec: str) -> None:
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 51))
    assert decode(encode(image.convert(mode), codec))[0].tolist() == [[255] * 3, [0] * 3, [204] * 3]


def test_transparent_colours_are_laid_on_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    for options in ({"transparency": 0}, {"transparency": b"\0\xff"}):
        assert decode(encode(palette, "PNG", **options))[0].tolist() == [[255] * 3, [200, 100, 50]]
    assert decode(encode(palette, "GIF", transparency=1))[0].tolist() == [[10, 20, 30], [255] * 3]
    grey = Image.fromarray(np.array([[0, 200]], np.uint8))
    assert decode(encode(grey, "PNG", transparency=0))[0].tolist() == [[255] * 3, [200] * 3]
    deep = Image.fromarray(np.array([[0, 65535 // 5]], np.uint16))
    assert decode(encode(deep, "PNG", transparency=0))[0].tolist() == [[255] * 3, [51] * 3]
    colour = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert decode(encode(colour, "PNG", transparency=(1, 2, 3)))[0].tolist() == [[255] * 3, [4, 5, 6]]


@pytest.mark.parametrize("codec", ["GIF", "PNG", "WEBP", "TIFF", "MPO", "AVIF"])
def test_the_first_frame_stands_for_all(codec: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    pixels = decode(encode(frames[0], codec, save_all=True, append_images=frames[1:]))
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() < 12


@pytest.mark.parametrize("size", [(1, 1), (60_000, 1), (1, 60_000)])
@pytest.mark.parametrize("codec", ["JPEG", "PNG", "TIFF", "GIF"])
def test_extreme_shapes(size: tuple[int, int], codec: str) -> None:
    assert decode_image(encode(Image.new("RGB", size), codec)).size == size


def test_min_side_shrinks_large_jpegs_only() -> None:
    image = draw_gradient(200, 100).resize((1600, 800))
    jpeg, png = encode(image, "JPEG"), encode(image, "PNG")
    assert decode(jpeg).shape == (800, 1600, 3)
    assert decode(jpeg, min_side=100).shape == (100, 200, 3)
    assert decode(jpeg, min_side=101).shape == (200, 400, 3)
    assert decode(jpeg, min_side=801).shape == (800, 1600, 3)
    assert decode(png, min_side=100).shape == (800, 1600, 3)


def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png_of_size(10_000, 10_000))
    error = refusal(bomb)
    assert error.problem == "too many pixels for so small a file"
    assert "10000 x 10000" in error.message
    assert "--max-pixels" in str(error.hint)
    assert (
        refusal(bomb, max_pixels=100_000_000).problem == "damaged or cut short"
    )  # it says that it is larger than it is
    bomb.write_bytes(png_of_size(20_000, 20_000))
    assert refusal(bomb).problem == "too many pixels"
    assert "(expected at most 300,000,000, found 20,000 x 20,000); " in refusal(bomb).message
    assert "--max-pixels" in str(refusal(bomb).hint)
    assert refusal(encode(PICTURE, "PNG"), max_pixels=24 * 24 - 1).expected == "at most 575"
    assert decode(encode(PICTURE, "PNG"), max_pixels=24 * 24).shape == (24, 24, 3)


def test_a_bomb_that_pillow_refuses_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89_478_485)
    frames = [Image.new("RGBA", (8, 8), colour) for colour in ("red", "blue")]
    data = bytearray(encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True).getvalue())
    assert data[12:16] == b"VP8X"
    data[24:30] = b"\xfe\x3f\0\xfe\x3f\0"  # the canvas: 16383 x 16383
    assert refusal(io.BytesIO(bytes(data)), max_pixels=1000).problem == "too many pixels"
    # Pillow takes what we take.
    assert refusal(io.BytesIO(bytes(data))).problem == "too many pixels for so small a file"


@pytest.mark.parametrize("codec", FORMATS)
def test_a_picture_that_is_cut_short_is_refused(codec: str, tmp_path: Path) -> None:
    data = encode(draw_picture("checker", 1, 64), codec).getvalue()
    path = tmp_path / "cut"
    path.write_bytes(data[: len(data) // 2])
    error = refusal(path)
    assert error.problem == "damaged or cut short"
    assert str(path) in error.message
    assert error.hint


def test_unusable_files_are_refused_each_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.jpg").touch()
    Path("text.jpg").write_text("hello, world\nand more")
    Path("binary.jpg").write_bytes(bytes(range(200, 256)))
    Path("phone.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    Path("folder").mkdir()
    os.mkfifo("fifo.jpg")
    Path("loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        messages = {
            name: refusal(name).message
            for name in (
                "gone",
                "empty.jpg",
                "text.jpg",
                "binary.jpg",
                "phone.jpg",
                "folder",
                "fifo.jpg",
                "socket",
                "loop",
            )
        }
    assert messages["gone"].startswith("gone: no such file; check the path")
    assert refusal("https://example.org/a.jpg").message.endswith(
        "a.jpg: no such file; download it first: nothing is fetched from URLs"
    )
    assert messages["empty.jpg"].startswith("empty.jpg: empty (expected a picture, found 0 bytes);")
    assert "not a picture (expected JPEG, PNG" in messages["text.jpg"]
    assert r"found text 'hello, world\nand'" in messages["text.jpg"]
    assert "found bytes c8 c9 ca" in messages["binary.jpg"]
    assert messages["phone.jpg"].startswith("phone.jpg: damaged or cut short")
    assert "is a folder (expected a picture file)" in messages["folder"]
    assert "found a FIFO" in messages["fifo.jpg"]
    assert "found a socket" in messages["socket"]
    assert messages["loop"].startswith("loop: cannot be opened")
    assert all("; " in message and "\n" not in message for message in messages.values())
    assert "found a device" in refusal("/dev/null").message
    assert "cannot be opened" in refusal("nul\0byte").message
    assert "cannot be opened" in refusal("x" * 300).message


def test_a_kind_of_file_without_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "_KINDS", {})
    assert "found something else" in refusal("/dev/null").message


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    PICTURE.save(path)

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert "may not be read; check its permissions" in refusal(path).message


def test_a_stream_need_not_seek_and_is_left_open() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as reader:
        with os.fdopen(write_end, "wb") as writer:
            writer.write(encode(PICTURE, "PNG").getvalue())
        np.testing.assert_array_equal(np.asarray(decode_image(reader)), np.asarray(PICTURE))
        assert not reader.closed


def test_streams_are_refused_like_files(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(io.BytesIO()).message.startswith("empty")
    named = io.BytesIO(b"not a picture at all")
    named.name = "<stdin>"  # type: ignore[attr-defined]
    assert refusal(named).message.startswith("<stdin>: not a picture")
    monkeypatch.setattr(source_module, "MAX_STREAM_BYTES", 10)
    assert refusal(io.BytesIO(b"x" * 11)).problem == "too long for a picture"


def test_no_memory_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.core, "new", exhausted)
    assert "--workers" in refusal(encode(PICTURE, "JPEG")).message


def test_a_format_that_is_not_built_in_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Image.OPEN, "WEBP", (Image.OPEN["WEBP"][0], lambda _: "no WEBP here"))
    error = refusal(io.BytesIO(b"anything"))
    assert error.problem == "WEBP is not supported here"


def test_formats_that_run_programs_or_are_no_photographs_are_not_opened() -> None:
    for codec in ("EPS", "ICO", "PDF"):
        assert refusal(encode(PICTURE, codec)).problem == "not a picture"


def odd_files() -> list[bytes]:
    """Pictures whose metadata or data Pillow, its logger or libtiff would complain about on stderr."""
    tiff = encode(PICTURE, "TIFF", compression="tiff_deflate").getvalue()
    jpeg = encode(
        PICTURE, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\xff\xff\xff\x7f\0\0\0\0"
    ).getvalue()
    apng = encode(PICTURE, "PNG").getvalue()
    frames = b"acTL" + bytes(8)
    apng = apng[:33] + struct.pack(">I", 8) + frames + struct.pack(">I", zlib.crc32(frames)) + apng[33:]
    many = bytearray(encode(PICTURE, "TIFF").getvalue())
    at = many.index(struct.pack("<HHI", 277, 3, 1))
    many[at + 8 : at + 10] = b"\xff\xff"  # samples in a pixel
    return [tiff[:-200] if tiff[8] != 0x78 else tiff[:20] + b"\xff" * 60 + tiff[80:], jpeg, apng, bytes(many)]


def test_nothing_reaches_stderr(tmp_path: Path) -> None:
    paths = [tmp_path / str(i) for i in range(4)]
    for path, data in zip(paths, odd_files(), strict=True):
        path.write_bytes(data)
    program = (
        "import sys\n"
        "from drhn_cli.errors import ImageError\n"
        "from drhn_cli.images.decode import decode_image\n"
        "for path in sys.argv[1:]:\n"
        "    try: decode_image(path)\n"
        "    except ImageError: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_warnings_are_silenced_even_where_they_are_errors() -> None:
    jpeg, apng = odd_files()[1:3]
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter("error")
        for data in (jpeg, apng):
            assert decode(io.BytesIO(data)).shape == (24, 24, 3)


@pytest.mark.parametrize("codec", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_only_a_jpeg_that_is_decoded_smaller_has_margins(codec: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    decoded = decode_reduced(encode(draw_gradient(101, 90), codec, exif=exif), min_side=20)
    if codec == "JPEG":
        assert (decoded.image.size, decoded.scale, decoded.margins) == ((23, 26), 4, (0.5, 0, 0, 0.75))
    else:
        assert (decoded.image.size, decoded.scale, decoded.margins) == ((90, 101), 1, (0, 0, 0, 0))
