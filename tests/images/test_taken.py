import io

import pytest
from PIL import ExifTags, Image

from drhn_cli.images.decode import decode_reduced
from tests.drawing import draw_gradient

ORIGINAL, DIGITIZED = ExifTags.Base.DateTimeOriginal, ExifTags.Base.DateTimeDigitized
FRACTION = ExifTags.Base.SubsecTimeOriginal
DAY_NS = 86_400 * 10**9


def taken_ns(fields, codec="JPEG"):
    exif = Image.Exif()
    exif[ExifTags.IFD.Exif] = fields
    stream = io.BytesIO()
    draw_gradient(8, 8).save(stream, codec, exif=exif.tobytes())
    stream.seek(0)
    return decode_reduced(stream).taken_ns


@pytest.mark.parametrize("codec", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_time_is_that_of_the_clock_of_the_camera(codec):
    assert taken_ns({ORIGINAL: "1970:01:02 00:00:01"}, codec) == DAY_NS + 10**9


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({ORIGINAL: "1970:01:02 00:00:00", DIGITIZED: "1970:01:03 00:00:00"}, DAY_NS),
        ({ORIGINAL: "    :  :     :  :  ", DIGITIZED: "1970:01:03 00:00:00"}, 2 * DAY_NS),
        ({ORIGINAL: "1969:12:31 00:00:00"}, -DAY_NS),
        ({ORIGINAL: "1970:01:01 00:00:00", FRACTION: "25"}, 250_000_000),
        ({ORIGINAL: "1970:01:01 00:00:00", FRACTION: "xy"}, 0),
        ({ORIGINAL: "1970-01-02T00:00:00"}, DAY_NS),
        ({ORIGINAL: "0000:00:00 00:00:00"}, None),
        ({ORIGINAL: "2023:13:41 00:00:00"}, None),
        ({ORIGINAL: "2023:01:01 00:00:60"}, None),
        ({ORIGINAL: "9999:01:01 00:00:00"}, None),
        ({ORIGINAL: "0001:01:01 00:00:00"}, None),
        ({ORIGINAL: "yesterday"}, None),
    ],
)
def test_dates_that_are_there_and_dates_that_are_none(fields, expected):
    assert taken_ns(fields) == expected


def test_corrupt_exif_data_is_no_reason_to_refuse_a_picture():
    stream = io.BytesIO()
    draw_gradient(8, 8).save(
        stream, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\1\xff\xff\xff\xff"
    )
    stream.seek(0)
    assert decode_reduced(stream).taken_ns is None
