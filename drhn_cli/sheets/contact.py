"""Answers as one picture, a contact sheet."""

from __future__ import annotations

import io
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from typing import BinaryIO

from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo

from drhn_cli.errors import DrhnError
from drhn_cli.sheets.html import MARK, Card

PAGE, MAT, INK, SOFT, LINE, ACCENT = "#f7f6f3", "#ecebe6", "#1c1b19", "#67645d", "#dddbd4", "#2f55d4"

# In pixels.
TILE, COLUMNS, GAP, MARGIN = 240, 5, 24, 48
WIDTH = 2 * MARGIN + COLUMNS * TILE + (COLUMNS - 1) * GAP
RADIUS, RING = 10, 6
HEAD, CAPTION, SECTION_GAP = 96, 72, 64

MAX_CANVAS_PIXELS = 100_000_000
"""The sheet is in memory while it is drawn: 400 MB."""

# The first one that is installed is used. Pillow's own font (Aileron) has only Latin letters.
_FONTS = (
    "NotoSans-Regular.ttf",
    "segoeui.ttf",
    "Helvetica.ttc",
    "DejaVuSans.ttf",
    "Arial.ttf",
    "LiberationSans-Regular.ttf",
)

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class ContactSheet:
    """A picture that is drawn at the end, when its height is known; until then it keeps the thumbnails.

    Args:
        stream: gets a PNG file.
        codes: the name of what was searched.
        about: a line about it.
    """

    def __init__(self, stream: BinaryIO, codes: str, about: str) -> None:
        self._stream = stream
        self._head = f"{codes}   {about}"
        self._sections: list[tuple[Card, str, list[Card]]] = []
        self._height = HEAD

    def add(self, query: Card, summary: str, matches: Iterator[Card]) -> None:
        """Add a query, its answer in a line, and the matches.

        Raises:
            DrhnError: the sheet would have more than ``MAX_CANVAS_PIXELS``.
        """
        cards: list[Card] = []
        for card in matches:
            cards.append(card)
            self._refuse_longer_than(self._height + _section_height(len(cards)))
        self._height += _section_height(len(cards))
        self._refuse_longer_than(self._height)
        self._sections.append((query, summary, cards))

    def finish(self) -> None:
        """Draw the sheet."""
        canvas = Image.new("RGB", (WIDTH, self._height), PAGE)
        head = _fitting(self._head, _font(18), WIDTH - 2 * MARGIN)
        ImageDraw.Draw(canvas).text((MARGIN, HEAD - 40), head, SOFT, _font(18), anchor="ls")
        top = HEAD
        for query, summary, cards in self._sections:
            _draw_section(canvas, top, query, summary, cards)
            top += _section_height(len(cards))
        mark = PngInfo()
        mark.add_text("Software", MARK.decode())
        canvas.save(self._stream, "PNG", pnginfo=mark)

    @staticmethod
    def _refuse_longer_than(height: int) -> None:
        if height * WIDTH > MAX_CANVAS_PIXELS:
            expected = f"a sheet of {MAX_CANVAS_PIXELS // 1_000_000} megapixels"
            hint = "draw a .html sheet, or lower --top or --max-distance"
            raise DrhnError("too many pictures for one picture", expected=expected, hint=hint)


def _section_height(n_cards: int) -> int:
    n_rows = -(-n_cards // COLUMNS)
    return SECTION_GAP // 2 + TILE + GAP + n_rows * (TILE + CAPTION) + SECTION_GAP // 2


def _draw_section(canvas: Image.Image, top: int, query: Card, summary: str, cards: list[Card]) -> None:
    draw = ImageDraw.Draw(canvas)
    draw.line((MARGIN, top, WIDTH - MARGIN, top), LINE)
    top += SECTION_GAP // 2
    for grown, color in ((RING, ACCENT), (RING - 2, PAGE)):
        side = TILE + 2 * grown
        canvas.paste(color, (MARGIN - grown, top - grown), _rounded(side, side, RADIUS + grown))
    _draw_tile(canvas, MARGIN, top, query)
    left, width = MARGIN + TILE + 36, WIDTH - 2 * MARGIN - TILE - 36
    draw.text((left, top + 76), "QUERY", ACCENT, _font(14))
    draw.text((left, top + 96), _fitting(query.name, _font(28), width), INK, _font(28))
    draw.text((left, top + 134), _fitting(query.folder, _font(17), width), SOFT, _font(17))
    draw.text((left, top + 168), _fitting(summary, _font(17), width), INK, _font(17))
    top += TILE + GAP
    for place, card in enumerate(cards):
        row, column = divmod(place, COLUMNS)
        x, y = MARGIN + column * (TILE + GAP), top + row * (TILE + CAPTION)
        _draw_tile(canvas, x, y, card)
        draw.text((x, y + TILE + 8), _fitting(card.name, _font(17), TILE), INK, _font(17))
        draw.text((x, y + TILE + 32), _fitting(card.folder, _font(14), TILE), SOFT, _font(14))


def _draw_tile(canvas: Image.Image, x: int, y: int, card: Card) -> None:
    tile = Image.new("RGB", (TILE, TILE), MAT)
    if isinstance(card.picture, bytes):
        with Image.open(io.BytesIO(card.picture)) as image:
            fitted = ImageOps.contain(image.convert("RGB"), (TILE, TILE), Image.Resampling.LANCZOS)
        tile.paste(fitted, ((TILE - fitted.width) // 2, (TILE - fitted.height) // 2))
    else:
        reason = _fitting(card.picture, _font(15), TILE - 24)
        ImageDraw.Draw(tile).text((TILE // 2, TILE // 2), reason, SOFT, _font(15), anchor="mm")
    canvas.paste(tile, (x, y), _rounded(TILE, TILE, RADIUS))
    if card.badge:
        fill, ink = (ACCENT, PAGE) if card.distance == 0 else ("white", INK)
        width = max(34, round(_font(15).getlength(card.badge)) + 18)
        canvas.paste(fill, (x + 8, y + 8), _rounded(width, 24, 12))
        ImageDraw.Draw(canvas).text((x + 8 + width / 2, y + 20), card.badge, ink, _font(15), anchor="mm")


def _fitting(text: str, font: _Font, width: int) -> str:
    """Shorten a text to a width in pixels. The middle is cut out, as names differ at their ends."""
    if font.getlength(text) <= width:
        return text

    def without_middle(n_kept: int) -> str:
        return f"{text[: n_kept - n_kept // 2]}…{text[len(text) - n_kept // 2 :]}"

    n_fitting = bisect_left(range(1, len(text)), True, key=lambda n: font.getlength(without_middle(n)) > width)
    return without_middle(n_fitting)


@lru_cache
def _font(size: int) -> _Font:
    for name in _FONTS:
        with suppress(OSError):  # not installed
            return ImageFont.truetype(name, size)
    return ImageFont.load_default(size)


@lru_cache
def _rounded(width: int, height: int, radius: int) -> Image.Image:
    """Return the mask of a rectangle with anti-aliased round corners."""
    large = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(large).rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), 4 * radius, fill=255)
    return large.resize((width, height), Image.Resampling.BOX)
