import io

import numpy as np
import pytest
from PIL import Image, ImageColor

from drhn_cli.errors import DrhnError
from drhn_cli.sheets import contact, fonts
from drhn_cli.sheets.contact import ACCENT, COLUMNS, GAP, HEAD, INK, MARGIN, PAGE, TILE, WIDTH, ContactSheet
from drhn_cli.sheets.html import MARK, Card
from drhn_cli.sheets.sheet import make_thumbnail

FIRST_ROW = HEAD + contact.SECTION_GAP // 2 + TILE + GAP


@pytest.fixture
def thumbnail(tmp_path):
    def call(colour, size=(60, 60)):
        Image.new("RGB", size, colour).save(tmp_path / "a.png")
        return make_thumbnail(tmp_path / "a.png")

    return call


def card(picture="gone", distance=None, name="name.png"):
    return Card(name=name, folder="folder", path=b"/" + name.encode(), picture=picture, distance=distance)


def drawn(*sections):
    """Return the bytes of a sheet of (query, matches)."""
    stream = io.BytesIO()
    sheet = ContactSheet(stream, "codes.bin", "8 pictures")
    for query, matches in sections:
        sheet.add(query, "found", iter(matches))
    sheet.finish()
    return stream.getvalue()


def pixels_of(*sections):
    return np.asarray(Image.open(io.BytesIO(drawn(*sections))), dtype=np.int64)


def colour_of(tile, colour):
    return bool((np.abs(tile[TILE // 2, TILE // 2] - ImageColor.getrgb(colour)) < 12).all())


def tile_at(pixels, place, top=FIRST_ROW):
    row, column = divmod(place, COLUMNS)
    x, y = MARGIN + column * (TILE + GAP), top + row * (TILE + contact.CAPTION)
    return pixels[y : y + TILE, x : x + TILE]


def has(part, colour):
    return bool((part == ImageColor.getrgb(colour)).all(axis=-1).any())


def test_every_picture_stands_in_its_place(thumbnail):
    colours = ["#c00000", "#00a000", "#0000c0", "#c0c000", "#00c0c0", "#c000c0"]
    pixels = pixels_of((card(thumbnail("#804000")), [card(thumbnail(c), i) for i, c in enumerate(colours)]))
    assert pixels.shape[1] == WIDTH
    assert colour_of(tile_at(pixels, 0, top=HEAD + contact.SECTION_GAP // 2), "#804000")
    assert all(colour_of(tile_at(pixels, place), colour) for place, colour in enumerate(colours))
    assert has(tile_at(pixels, 0), ACCENT)  # a distance of 0 stands out
    assert not has(tile_at(pixels, 1), ACCENT)


def test_the_whole_picture_is_shown_whatever_its_shape(thumbnail):
    pixels = pixels_of((card(), [card(thumbnail("#c00000", (300, 100)), 1), card(thumbnail("#c00000", (100, 300)), 1)]))
    wide, tall = tile_at(pixels, 0), tile_at(pixels, 1)
    assert colour_of(wide, "#c00000")
    assert colour_of(tall, "#c00000")
    assert (wide[-20, TILE // 2] == ImageColor.getrgb(contact.MAT)).all()
    assert (tall[TILE // 2, -20] == ImageColor.getrgb(contact.MAT)).all()


def test_corners_are_round(thumbnail):
    tile = tile_at(pixels_of((card(), [card(thumbnail("#c00000"), 1)])), 0)
    assert (tile[0, 0] == ImageColor.getrgb(PAGE)).all()


def test_a_reason_stands_in_the_place_of_a_picture():
    with_reason, without = (tile_at(pixels_of((card(), [card(reason, 1)])), 0) for reason in ("no such file", ""))
    assert (with_reason != without).any()
    assert np.array_equal(with_reason[:40], without[:40])


def test_sections_follow_each_other_and_the_sheet_is_as_long_as_they_are(thumbnail):
    one = (card(), [card(thumbnail("#c00000"), 1)])
    single, double, empty = (len(pixels_of(*sections)) for sections in ([one], [one, one], [(card(), [])]))
    assert double - single == single - HEAD
    assert single - empty == TILE + contact.CAPTION


@pytest.mark.parametrize("name", ["n" * 255, "\\udcff<b>" * 30, "שלום " * 40, "i" * 30 + "W" * 100])
def test_a_long_name_keeps_its_ends_and_its_place(name):
    fitting = contact._fitting(name, 17, TILE)
    assert fonts.text_length(fitting, 17) <= TILE
    start, end = fitting.split("…")
    assert name.startswith(start)
    assert name.endswith(end)
    assert 0 <= len(start) - len(end) <= 1
    pixels = pixels_of((card(name=name), [card(distance=1, name=name)]))
    assert not has(pixels[:, : MARGIN - contact.RING - 1], INK)
    assert not has(pixels[FIRST_ROW:, MARGIN + TILE + 2 :], INK)


def test_a_short_name_is_whole():
    assert contact._fitting("a.png", 17, TILE) == "a.png"


def test_without_installed_fonts_there_is_one_still(monkeypatch):
    fonts._font.cache_clear()
    monkeypatch.setattr(fonts, "_FONTS", ("no such font.ttf",))
    assert has(pixels_of((card(), [])), INK)
    fonts._font.cache_clear()


def test_equal_answers_give_equal_sheets_that_say_what_they_are(thumbnail):
    section = (card(thumbnail("#c00000")), [card(distance=3)])
    assert drawn(section) == drawn(section)
    assert MARK in drawn(section)[:512]


def test_a_sheet_too_large_for_memory_is_refused_before_all_thumbnails_are_made(monkeypatch):
    monkeypatch.setattr(contact, "MAX_CANVAS_PIXELS", 2_000_000)
    made = []

    def endless():
        while True:
            made.append(1)
            yield card(distance=1)

    with pytest.raises(DrhnError, match=r"too many pictures for one picture .*; draw a \.html sheet"):
        drawn((card(), endless()))
    assert len(made) < 50
    with pytest.raises(DrhnError, match="too many pictures"):
        drawn(*[(card(), [])] * 20)
