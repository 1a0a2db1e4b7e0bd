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
        tiff({254: (4, 1)}),
        tiff()[:8] + b"CR\x02\0" + tiff()[12:],
    ],
    ids=["DNG", "a thumbnail first", "CR2"],
)
def test_raw_is_known_by_its_content_whatever_its_name(data):
    Path("a.tif").write_bytes(data)
    for source in ("a.tif", io.BytesIO(data)):
        with pytest.raises(ImageError, match=RAW):
            decode_image(source)


def test_what_only_has_such_a_name_is_decoded():
    PICTURE.save("a.dng", "PNG")
    assert decode_image("a.dng").size == PICTURE.size
    assert decode_image(io.BytesIO(tiff())).size == PICTURE.size
    assert decode_image(io.BytesIO(tiff({254: (4, 0)}))).size == PICTURE.size
