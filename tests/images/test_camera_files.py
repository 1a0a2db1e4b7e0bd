"""HEIC pictures of phones, which an extra decodes, and RAW files of cameras, which nothing here does."""

import io
import sys
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image, TiffImagePlugin

from drhn_cli.errors import ImageError
from drhn_cli.images.decode import decode_image
from tests.drawing import draw_gradient

PICTURE = draw_gradient(64, 48)
RAW = "a camera's RAW file"


@pytest.fixture(autouse=True)
def pillow_as_it_was(monkeypatch, tmp_path):
    """Each test begins without a HEIF decoder, and leaves none behind."""
    monkeypatch.chdir(tmp_path)
    for registry in (Image.OPEN, Image.SAVE, Image.SAVE_ALL, Image.MIME, Image.EXTENSION):
        for key, value in list(registry.items()):
            if "HEIF" in (key, value):
                monkeypatch.delitem(registry, key)
    before = list(Image.ID)
    yield
    Image.ID[:] = before
    for registry in (Image.OPEN, Image.SAVE, Image.SAVE_ALL, Image.MIME):
        registry.pop("HEIF", None)


def heic():
    stream = io.BytesIO()
    pillow_heif.from_pillow(PICTURE).save(stream, quality=95)
    return stream.getvalue()


def tiff(tags=None):
    stream = io.BytesIO()
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, (kind, value) in (tags or {}).items():
        info.tagtype[tag] = kind
        info[tag] = value
    PICTURE.save(stream, "TIFF", tiffinfo=info)
    return stream.getvalue()


def test_heic_is_decoded_by_the_extra():
    decoded = decode_image(io.BytesIO(heic()))
    assert (decoded.mode, decoded.size) == ("RGB", PICTURE.size)
    assert np.abs(np.asarray(decoded, int) - np.asarray(PICTURE, int)).mean() < 4


@pytest.mark.parametrize("brand", [b"hevm", b"mif1", b"msf1"])
def test_heic_of_other_brands_is_decoded_by_the_extra(brand):
    data = heic()
    decoded = decode_image(io.BytesIO(data[:8] + brand + data[12:]))
    assert decoded.size == PICTURE.size


def test_avif_that_names_its_container_needs_no_extra(monkeypatch):
    stream = io.BytesIO()
    PICTURE.save(stream, "AVIF")
    data = stream.getvalue()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert decode_image(io.BytesIO(data[:8] + b"mif1" + data[12:])).size == PICTURE.size


def test_heic_without_the_extra_names_it(monkeypatch):
    data = heic()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"HEIC .*pip install 'drhn\[heif\]'"):
        decode_image(io.BytesIO(data))


def test_damaged_heic_is_a_refusal():
    data = heic()
    for damaged in (data[:24], data[: len(data) // 2], data[:12] + bytes(len(data) - 12)):
        with pytest.raises(ImageError, match="damaged"):
            decode_image(io.BytesIO(damaged))


def test_a_damaged_tag_beside_sound_pixels_is_no_reason_to_refuse():
    assert decode_image(io.BytesIO(tiff({254: (2, "x")}))).size == PICTURE.size


@pytest.mark.parametrize("name", ["a.cr2", "a.NEF", "a.arw", "a.dng", "a.pef"])
def test_a_tiff_file_with_the_name_of_a_raw_file_is_refused(name):
    Path(name).write_bytes(tiff())
    with pytest.raises(ImageError, match=f"{name}: {RAW}"):
        decode_image(name)


@pytest.mark.parametrize("name", ["a.cr3", "a.raf", "a.orf", "a.rw2"])
def test_a_raw_file_of_no_known_kind_is_named_as_such(name):
    Path(name).write_bytes(b"FUJIFILMCCD-RAW 0201")
    with pytest.raises(ImageError, match=RAW):
        decode_image(name)


@pytest.mark.parametrize(
    "data",
    [
        tiff({50706: (1, b"\1\4\0\0")}),
        tiff({254: (4, 1), 330: (4, 8)}),
        tiff()[:8] + b"CR\x02\0" + tiff()[12:],
    ],
    ids=["DNG", "a thumbnail first", "CR2"],
)
def test_raw_is_known_by_its_content_whatever_its_name(data):
    Path("a.tif").write_bytes(data)
    for source in ("a.tif", io.BytesIO(data)):
        with pytest.raises(ImageError, match=RAW):
            decode_image(source)


def test_a_tiff_file_of_a_reduced_image_alone_is_a_picture():
    assert decode_image(io.BytesIO(tiff({254: (4, 1)}))).size == PICTURE.size


def pages(*kinds):
    """A TIFF file of pages of 10, 20, 30 pixels, each marked as reduced or not."""
    stream = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(stream, new=True) as writer:
        for number, kind in enumerate(kinds, 1):
            info = TiffImagePlugin.ImageFileDirectory_v2()
            info[254] = kind
            Image.new("RGB", (10 * number, 8)).save(writer, "TIFF", tiffinfo=info)
            writer.newFrame()
    return io.BytesIO(stream.getvalue())


@pytest.mark.parametrize(("kinds", "width"), [((0, 1), 10), ((1, 0, 1), 20), ((1, 1, 2), 30), ((1, 1, 1), 10)])
def test_the_page_counts_whose_smaller_versions_come_first(kinds, width):
    assert decode_image(pages(*kinds)).size == (width, 8)


def jpeg(width, height, **options):
    stream = io.BytesIO()
    draw_gradient(256, 256).resize((width, height)).save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


def raw_file(*previews, orientation=1):
    """A RAW file in the manner of TIFF: sensor data, then previews."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    head = tiff({50706: (1, b"\1\4\0\0"), 274: (3, orientation)})
    noise = np.random.default_rng(0).bytes(200_000)
    return head + noise + b"\xff\xd8\xff\xc3\0\x0b\x0e" + noise + b"".join(previews)


def test_a_raw_file_is_read_by_its_largest_preview():
    data = raw_file(jpeg(160, 120), jpeg(1024, 768), jpeg(640, 480))
    decoded = decode_image(io.BytesIO(data), raw=True)
    assert decoded.size == (1024, 768)
    np.testing.assert_array_equal(decoded, decode_image(io.BytesIO(jpeg(1024, 768))))
    assert decode_image(io.BytesIO(data), raw=True, min_side=100).size == (256, 192)
    for name in ("a.cr3", "a.raf"):
        Path(name).write_bytes(b"FUJIFILMCCD-RAW 0201" + data[200_000:])
        assert decode_image(name, raw=True).size == (1024, 768)
    with pytest.raises(ImageError, match="--raw"):
        decode_image(io.BytesIO(data))


def test_a_preview_is_turned_as_its_raw_file_says():
    turned = Image.Exif()
    turned[0x0112] = 6
    for preview in (jpeg(640, 480), jpeg(640, 480, exif=turned)):
        assert decode_image(io.BytesIO(raw_file(preview, orientation=6)), raw=True).size == (480, 640)
    upright = Image.Exif()
    upright[0x0112] = 1
    assert decode_image(io.BytesIO(raw_file(jpeg(640, 480, exif=upright), orientation=6)), raw=True).size == (640, 480)


@pytest.mark.parametrize("previews", [(), (jpeg(160, 120),), (jpeg(511, 400),), (jpeg(1024, 768)[:100],)])
def test_a_thumbnail_is_no_preview(previews):
    with pytest.raises(ImageError, match="without a preview"):
        decode_image(io.BytesIO(raw_file(*previews)), raw=True)


def test_a_damaged_preview_is_a_refusal():
    data = raw_file(jpeg(1024, 768))
    with pytest.raises(ImageError, match="damaged"):
        decode_image(io.BytesIO(data[:-20_000]), raw=True)


def test_what_only_has_such_a_name_is_decoded():
    PICTURE.save("a.dng", "PNG")
    assert decode_image("a.dng").size == PICTURE.size
    assert decode_image(io.BytesIO(tiff())).size == PICTURE.size
    assert decode_image(io.BytesIO(tiff({254: (4, 0)}))).size == PICTURE.size
