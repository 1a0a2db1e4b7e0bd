"""The rules by which transparency, color profiles, deep grays and animations become pixels."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw

from drhn_cli.errors import ImageError
from drhn_cli.images import rendering as rendering_module
from drhn_cli.images.decode import decode_image, decode_reduced
from drhn_cli.images.load import load_image
from drhn_cli.images.preprocess import Preprocessing
from drhn_cli.images.rendering import render
from tests.damage import encode_all
from tests.drawing import draw_gradient, draw_picture
from tests.profiles import gray_profile, matrix_profile, print_profile, to_space
from tests.tiff import build_tiff

PICTURE = draw_gradient(48, 40)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def encode(image: Image.Image, codec: str = "PNG", **options: object) -> io.BytesIO:
    stream = io.BytesIO()
    image.save(stream, codec, **options)
    stream.seek(0)
    return stream


def decode(stream: io.BytesIO, rendering: int = 2, **options: int) -> np.ndarray:
    stream.seek(0)
    image = decode_image(stream, rendering=rendering, **options)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def draw_on_nothing(color: tuple[int, ...], size: int = 64) -> Image.Image:
    """Draw a ring and a bar, mode RGBA; what is transparent is of a dark green."""
    image = Image.new("RGBA", (size, size), (0, 60, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.ellipse((size // 8, size // 8, size // 2, size // 2), outline=color, width=size // 16)
    draw.rectangle((size // 2, size // 2, size - size // 8, size - size // 4), fill=color)
    return image


def background_of(drawing: Image.Image, codec: str = "PNG", rendering: int = 2, **options: object) -> list[int]:
    return decode(encode(drawing, codec, **options), rendering)[0, 0].tolist()


WHITE, BLACK = [255] * 3, [0] * 3


@pytest.mark.parametrize("color", [(0, 0, 0), (200, 30, 30), (255, 255, 0), (128, 128, 128), (220, 220, 220)])
def test_a_drawing_that_is_visible_on_white_is_laid_on_white(color: tuple[int, ...]) -> None:
    drawing = draw_on_nothing((*color, 255))
    assert background_of(drawing) == WHITE
    np.testing.assert_array_equal(decode(encode(drawing)), decode(encode(drawing), 1))


@pytest.mark.parametrize("color", [(255, 255, 255), (240, 240, 240), (255, 255, 200)])
def test_a_drawing_that_is_hardly_visible_on_white_is_laid_on_black(color: tuple[int, ...]) -> None:
    drawing = draw_on_nothing((*color, 255))
    assert background_of(drawing) == BLACK
    assert decode(encode(drawing))[40, 40].tolist() == list(color)
    assert background_of(drawing, rendering=1) == WHITE


def test_dark_strokes_on_a_white_shape_are_visible_on_white() -> None:
    drawing = draw_on_nothing((255, 255, 255, 255))
    ImageDraw.Draw(drawing).line((34, 34, 54, 46), (0, 0, 0, 255), width=2)
    assert background_of(drawing) == WHITE


def test_forms_of_a_white_drawing_agree() -> None:
    drawing = draw_on_nothing((255, 255, 255, 255))
    expected = decode(encode(drawing))
    shape = (np.asarray(drawing)[..., 3] > 0).astype(np.uint8)
    palette = Image.frombytes("P", drawing.size, shape.tobytes())
    palette.putpalette([0, 0, 0, 255, 255, 255])
    deep = Image.fromarray(np.where(shape, 65535, 300).astype(np.uint16))
    forms = [
        encode(drawing.convert("LA")),
        encode(drawing, "WEBP", lossless=True, exact=True),
        encode(drawing, "TIFF"),
        encode(drawing.convert("LA"), "TIFF"),
        encode(palette, transparency=0),
        encode(palette, transparency=b"\0\xff"),
        encode(palette, "GIF", transparency=0),
        encode(Image.fromarray(shape * 255), transparency=0),
        encode(deep, transparency=300),
    ]
    for form in forms:
        np.testing.assert_array_equal(decode(form), expected)


@pytest.mark.parametrize("hidden", [(0, 0, 0, 0), (255, 255, 255, 0), (9, 99, 199, 0)])
def test_a_fully_transparent_picture_is_white_whatever_is_hidden(hidden: tuple[int, ...]) -> None:
    assert (decode(encode(Image.new("RGBA", (8, 8), hidden))) == 255).all()


@pytest.mark.parametrize("level", [222, 226, 233, 237])
@pytest.mark.parametrize("size", [16, 24, 37, 128, 300])
def test_the_background_stays_when_a_drawing_is_scaled_or_compressed(level: int, size: int) -> None:
    drawing = draw_on_nothing((level,) * 3 + (255,))
    drawing.putalpha(drawing.getchannel("A").point(lambda a: a * 4 // 5))
    scaled = drawing.resize((size, size), Image.Resampling.BICUBIC)
    expected = background_of(drawing)
    assert expected == (WHITE if level < 229 else BLACK)
    assert background_of(scaled) == expected
    assert background_of(scaled.convert("LA")) == expected
    compressed = decode(encode(scaled, "WEBP", quality=60, exact=True))[0, 0]
    assert np.abs(compressed - expected).max() < 12


def test_premultiplied_gray_is_read() -> None:
    gray, alpha = np.full((2, 3), 100, np.uint8), np.full((2, 3), 200, np.uint8)
    data = build_tiff(3, 2, [8, 8], 1, [np.dstack([gray, alpha]).tobytes()], extra=1)
    shown = 255 - 200 + 100
    for rendering in (1, 2):
        assert np.abs(decode(io.BytesIO(data), rendering) - shown).max() <= 1


def test_pictures_without_transparency_or_profile_are_the_same_by_all_rules() -> None:
    for suffix, data in encode_all():
        np.testing.assert_array_equal(decode(io.BytesIO(data)), decode(io.BytesIO(data), 1), suffix)


@pytest.mark.parametrize("space", ["p3", "adobe", "prophoto"])
@pytest.mark.parametrize("codec", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF"])
def test_wide_gamut_copies_agree_with_the_picture(space: str, codec: str) -> None:
    picture = draw_picture("circle", 5, 64).resize((32, 32))
    options = {
        "WEBP": {"lossless": True},
        "JPEG": {"quality": 98, "subsampling": 0},
        "AVIF": {"quality": 98, "subsampling": "4:4:4"},
    }
    stream = encode(to_space(picture, space), codec, icc_profile=matrix_profile(space), **options.get(codec, {}))
    expected = np.asarray(picture).astype(int)
    ignored = np.abs(decode(stream, 1) - expected).mean()
    converted = np.abs(decode(stream) - expected).mean()
    assert converted < ignored / 3
    if codec in ("PNG", "TIFF"):
        assert converted < (1 if space != "prophoto" else 2)


@pytest.mark.parametrize("profile", [SRGB, matrix_profile("srgb")])
def test_a_profile_that_is_srgb_costs_nothing(profile: bytes) -> None:
    for mode in ("RGB", "L", "P", "RGBA"):
        stream = encode(PICTURE.convert(mode), icc_profile=profile)
        picture = Image.open(stream)
        assert picture.info["icc_profile"]
        assert render(picture, 2).to_srgb is None
        np.testing.assert_array_equal(decode(stream), decode(stream, 1))


def test_gray_profiles_count() -> None:
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    expected = np.rint(255 * (np.arange(256) / 255) ** (1.0 / 2.2))  # of linear light, near sRGB's curve
    deep = Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257)
    for picture in (ramp, deep):
        shown = decode(encode(picture, icc_profile=gray_profile(1.0)))
        assert np.abs(shown[..., 0].ravel() - expected)[30:].max() < 6
        assert (shown[..., 0] == shown[..., 2]).all()
    with_alpha = decode(encode(ramp.convert("LA"), icc_profile=gray_profile(1.0)))
    np.testing.assert_array_equal(with_alpha, decode(encode(ramp, icc_profile=gray_profile(1.0))))


def test_a_gray_picture_with_a_profile_of_colors_is_converted() -> None:
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    in_gray = decode(encode(ramp, icc_profile=matrix_profile("prophoto")))
    in_color = decode(encode(ramp.convert("RGB"), icc_profile=matrix_profile("prophoto")))
    np.testing.assert_array_equal(in_gray, in_color)
    assert np.abs(in_gray - decode(encode(ramp), 1)).max() > 10


@pytest.mark.parametrize("codec", ["TIFF", "JPEG"])
def test_the_profile_of_a_press_counts(codec: str) -> None:
    rgb = np.asarray(PICTURE)
    inks = Image.fromarray(np.dstack([255 - rgb, np.zeros_like(rgb[..., 0])]), "CMYK")
    options = {"quality": 98, "subsampling": 0} if codec == "JPEG" else {}
    stream = encode(inks, codec, icc_profile=print_profile(), **options)
    press, srgb = ImageCms.ImageCmsProfile(io.BytesIO(print_profile())), ImageCms.createProfile("sRGB")
    expected = np.asarray(ImageCms.profileToProfile(inks, press, srgb, outputMode="RGB")).astype(int)
    assert np.abs(decode(stream) - expected).mean() < (0.1 if codec == "TIFF" else 3)
    # The profile swaps cyan and yellow, so red and blue change places.
    assert np.abs(expected - rgb[..., ::-1]).mean() < np.abs(expected - rgb).mean() / 2
    assert np.abs(decode(stream, 1) - rgb).mean() < 4


def broken_profiles() -> list[bytes]:
    sound = matrix_profile("prophoto")
    n_tags = struct.unpack_from(">I", sound, 128)[0]
    return [
        b"",
        b"x",
        bytes(range(256)) * 3,
        sound[:131],
        sound[:200],
        sound[:128] + bytes(4),
        sound[:128] + b"\xff" * 4 + sound[132:],
        sound[: 132 + 12 * n_tags],
        sound[:36] + b"none" + sound[40:],
        sound[:12] + b"link" + sound[16:],
        sound + bytes(5 << 20),
    ]


@pytest.mark.parametrize("place", range(len(broken_profiles())))
def test_a_broken_profile_is_ignored(place: int) -> None:
    profile = broken_profiles()[place]
    codecs = ["TIFF", "WEBP"] if len(profile) > 1 << 20 else ["PNG", "JPEG", "TIFF", "WEBP"]
    for codec in codecs:
        stream = encode(PICTURE, codec, icc_profile=profile)
        np.testing.assert_array_equal(decode(stream), decode(stream, 1))


@pytest.mark.parametrize(("mode", "profile"), [("RGB", gray_profile(1.0)), ("CMYK", matrix_profile("p3"))])
def test_a_profile_of_another_kind_of_picture_is_ignored(mode: str, profile: bytes) -> None:
    stream = encode(PICTURE.convert(mode), "TIFF", icc_profile=profile)
    np.testing.assert_array_equal(decode(stream), decode(stream, 1))
    stream = encode(PICTURE, icc_profile=print_profile())
    np.testing.assert_array_equal(decode(stream), decode(stream, 1))


@pytest.mark.parametrize("codec", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_large_picture_is_shrunk_before_its_colors_are_converted(codec: str, orientation: int) -> None:
    picture = draw_gradient(250, 200).resize((1003, 799), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    converted = encode(to_space(picture, "p3"), codec, icc_profile=matrix_profile("p3"), exif=exif)
    plain = encode(picture, codec, exif=exif)
    decoded = decode_reduced(converted, min_side=64, rendering=2)
    assert min(decoded.image.size) < 140
    width, height = decoded.image.size
    left, top, right, bottom = decoded.margins
    sides = ((width - left - right) * decoded.scale, (height - top - bottom) * decoded.scale)
    assert sides == ((1003, 799) if orientation in (1, 3) else (799, 1003))
    for fit in ("crop", "squash", "pad"):
        preprocessing = Preprocessing(size=16, fit=fit, rendering=2)
        shown = [load_image(io.BytesIO(one.getvalue()), preprocessing).astype(int) for one in (converted, plain)]
        assert np.abs(shown[0] - shown[1]).mean() < 1
        assert np.abs(shown[0] - shown[1]).max() <= (3 if codec == "PNG" else 12)  # a JPEG rounds colors its own way


@pytest.mark.parametrize("codec", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("n_blank", [0, 1, 5])
def test_the_first_frame_that_is_not_blank_counts(codec: str, n_blank: int) -> None:
    shown = draw_picture("checker", 2, 32)
    blanks = [Image.new("RGB", (32, 32), ("white", "black", "navy")[i % 3]) for i in range(n_blank)]
    frames = [*blanks, shown, shown.rotate(90), shown.rotate(45)]
    options = {"lossless": True} if codec == "WEBP" else {}
    stream = encode(frames[0], codec, save_all=True, append_images=frames[1:], **options)
    single = decode(encode(shown, codec, **options))
    assert np.abs(decode(stream) - single).mean() < 12
    first = decode(stream, 1)
    assert np.ptp(first) < 16 or n_blank == 0 or codec == "AVIF" or (np.ptp(first, axis=(0, 1)) < 16).all()


def test_a_transparent_frame_is_blank_and_a_white_drawing_is_not() -> None:
    nothing, drawing = Image.new("RGBA", (64, 64)), draw_on_nothing((255, 255, 255, 255))
    for codec in ("PNG", "WEBP"):
        options = {"lossless": True} if codec == "WEBP" else {}
        stream = encode(nothing, codec, save_all=True, append_images=[drawing, drawing.rotate(90)], **options)
        np.testing.assert_array_equal(decode(stream), decode(encode(drawing)))


def test_where_all_frames_are_blank_the_first_counts() -> None:
    frames = [Image.new("RGB", (16, 16), (i, 2 * i, 200)) for i in range(100)]
    frames.append(draw_picture("circle", 1, 16))
    for few in (frames[:5], frames):  # the last one is beyond the bound
        stream = encode(few[0], "WEBP", save_all=True, append_images=few[1:], lossless=True)
        assert decode(stream)[0, 0].tolist() == [0, 0, 200]


def test_frames_are_looked_at_up_to_a_bound_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drhn_cli.images.decode._MAX_BLANK_PIXELS", 2 * 32 * 32)
    shown, white = draw_picture("checker", 2, 32), Image.new("RGB", (32, 32), "white")
    for n_blank in (2, 3):
        frames = [*[white] * n_blank, shown]
        blank = np.ptp(decode(encode(frames[0], "TIFF", save_all=True, append_images=frames[1:]))) == 0
        assert blank == (n_blank == 3)


def test_damage_after_a_blank_frame_is_no_reason_to_refuse_it() -> None:
    shown, white = draw_picture("checker", 2, 64), Image.new("RGB", (64, 64), "white")
    for codec in ("GIF", "TIFF", "PNG"):
        data = encode(white, codec, save_all=True, append_images=[shown, shown.rotate(90)]).getvalue()
        assert (decode(io.BytesIO(data[: len(data) // 3])) == 255).all()


def test_a_huge_page_after_a_blank_one_is_not_decoded() -> None:
    white, huge = Image.new("RGB", (16, 16), "white"), Image.new("1", (2000, 2000))
    stream = encode(white, "TIFF", save_all=True, append_images=[huge])
    assert decode(stream, max_pixels=1000).shape == (16, 16, 3)


def test_other_views_of_a_camera_are_no_frames() -> None:
    white = Image.new("RGB", (16, 16), "white")
    stream = encode(white, "MPO", save_all=True, append_images=[draw_picture("circle", 1, 16)])
    assert decode(stream).min() > 250


GRAY = np.tile(np.arange(0, 256, 17, dtype=np.uint8), (4, 1))


@pytest.mark.parametrize("compression", [1, 8])
def test_16_bit_gray_whose_0_is_white(compression: int) -> None:
    deep = (65535 - GRAY.astype(np.uint16) * 257).astype("<u2").tobytes()
    data = io.BytesIO(build_tiff(16, 4, [16], 0, [deep], compression=compression))
    for rendering in (1, 2):
        np.testing.assert_array_equal(decode(data, rendering)[..., 0], GRAY)


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("form", [1, None])
def test_32_bit_unsigned_gray_uses_its_full_range(compression: int, form: int | None) -> None:
    deep = (GRAY.astype(np.uint32) * 0x01010101).astype("<u4").tobytes()
    data = io.BytesIO(build_tiff(16, 4, [32], 1, [deep], compression=compression, form=form))
    np.testing.assert_array_equal(decode(data)[..., 0], GRAY)


def unsupported() -> dict[str, bytes]:
    """Return sound files that Pillow reads as noise, or does not read."""
    band8, band16 = GRAY.tobytes(), (GRAY.astype(np.uint16) * 257).astype("<u2").tobytes()
    numbers = GRAY.astype(">f4").tobytes()
    return {
        "planes of 16 bits": build_tiff(16, 4, [16] * 3, 2, [band16] * 3, planar=2),
        "planes of 16 bits with alpha": build_tiff(16, 4, [16] * 4, 2, [band16] * 4, planar=2, extra=2),
        "planes of 16-bit inks": build_tiff(16, 4, [16] * 4, 5, [band16] * 4, planar=2),
        "planes with a fourth": build_tiff(16, 4, [8] * 4, 2, [band8] * 4, planar=2, extra=0),
        "planes of Lab": build_tiff(16, 4, [8] * 3, 8, [band8] * 3, planar=2),
        "compressed planes of Lab": build_tiff(16, 4, [8] * 3, 8, [band8] * 3, planar=2, compression=8),
        "compressed big-endian floats": build_tiff(16, 4, [32], 1, [numbers], ">", compression=8, form=3),
        "compressed big-endian integers": build_tiff(16, 4, [32], 1, [numbers], ">", compression=8, form=2),
        "big-endian 0 is white": build_tiff(16, 4, [16], 0, [band16], ">"),
        "big-endian 32 bits": build_tiff(16, 4, [32], 1, [band16 * 2], ">"),
        "24 bits of gray": build_tiff(16, 4, [24], 1, [band8 * 3]),
        "64-bit floats": build_tiff(16, 4, [64], 1, [band8 * 8], form=3),
        "floats of three channels": build_tiff(16, 4, [32] * 3, 2, [band8 * 12], form=3),
    }


@pytest.mark.parametrize("kind", unsupported())
def test_what_pillow_cannot_be_trusted_with_is_not_supported(kind: str) -> None:
    for rendering in (1, 2):
        with pytest.raises(ImageError, match="not supported") as caught:
            decode_image(io.BytesIO(unsupported()[kind]), rendering=rendering)
        assert "damaged" not in caught.value.message


def test_planes_that_pillow_reads_are_read() -> None:
    bands = [np.roll(GRAY, shift, 1) for shift in (0, 3, 7)]
    for bits, compression in ((8, 1), (8, 8), (16, 8)):
        pieces = [(band.astype("<u2") * 257 if bits == 16 else band).tobytes() for band in bands]
        data = build_tiff(16, 4, [bits] * 3, 2, pieces, planar=2, compression=compression)
        np.testing.assert_array_equal(decode(io.BytesIO(data)), np.dstack(bands))


def tiff_kinds() -> Iterator[tuple[str, bytes]]:
    """Yield combinations of byte order, color space, depth, planes and compression, and a file of each."""
    for order, (photometric, n), (bits, form), planar, compression in product(
        "<>", ((0, 1), (1, 1), (2, 3), (5, 4)), ((8, 1), (16, 1), (32, 1), (32, 3)), (1, 2), (1, 8)
    ):
        if planar == 2 and n == 1:
            continue
        bands = [np.roll(GRAY, 3 * i, 1) for i in range(n)]
        full = {8: 1, 16: 257, 32: 0x01010101}[bits]
        scaled = [band / 255 if form == 3 else band.astype(np.uint32) * full for band in bands]
        parts = scaled if planar == 2 else [np.stack(scaled, -1)]
        pieces = [part.astype(f"{order}{'f' if form == 3 else 'u'}{bits // 8}").tobytes() for part in parts]
        sizes = (16, 4, [bits] * n, photometric)
        data = build_tiff(*sizes, pieces, order, planar=planar, compression=compression, form=form)
        yield f"{order} {photometric} {bits} {form} {planar} {compression}", data


def test_tiff_files_look_as_imagemagick_shows_them(tmp_path: Path) -> None:
    convert = shutil.which("convert") or ""
    if not convert or b"Version: ImageMagick" not in subprocess.run([convert, "-version"], capture_output=True).stdout:
        pytest.skip("needs ImageMagick")
    path, kinds = tmp_path / "a.tif", set()
    for kind, data in tiff_kinds():
        path.write_bytes(data)
        try:
            shown = decode(io.BytesIO(data))
        except ImageError as error:
            assert error.problem == "not supported", kind  # noqa: PT017
            continue
        command = [convert, str(path), "-depth", "8", "-colorspace", "sRGB", "rgb:-"]
        seen = subprocess.run(command, capture_output=True, check=True).stdout
        assert np.abs(shown - np.frombuffer(seen, np.uint8).reshape(4, 16, 3)).max() <= 1, kind
        kinds.add(kind)
    assert len(kinds) > 30


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "L", "RGB", "I;16"])
@pytest.mark.parametrize("level", [40, 255])
def test_strips_of_a_large_picture_are_those_of_the_whole(
    mode: str, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing = draw_on_nothing((level, level, level, 255))
    if mode in ("LA", "RGBA"):
        stream = encode(drawing.convert(mode))
    elif mode == "I;16":
        stream = encode(
            Image.fromarray(np.where(np.asarray(drawing)[..., 3], 257 * level, 300).astype(np.uint16)), transparency=300
        )
    else:
        flat = Image.new("RGB", drawing.size, (1, 2, 3))
        flat.paste(drawing, mask=drawing.getchannel("A"))
        flat = flat.quantize(2) if mode == "P" else flat.convert(mode)
        stream = encode(flat, transparency=flat.getpixel((0, 0)))
    whole = {rules: decode(stream, rules) for rules in (1, 2)}
    assert (np.ptp(whole[2]) > 50) or mode == "L"
    monkeypatch.setattr(rendering_module, "_STRIP_PIXELS", 7 * drawing.width)
    for rules, expected in whole.items():
        np.testing.assert_array_equal(decode(stream, rules), expected)
