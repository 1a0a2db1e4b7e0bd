"""Fonts of contact sheets: each character is drawn from the first installed font that has it."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from functools import cache, lru_cache
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

# The first one that is installed is the font of the sheet. Pillow's own font (Aileron) has only Latin letters.
_FONTS = (
    "NotoSans-Regular.ttf",
    "segoeui.ttf",
    "Helvetica.ttc",
    "DejaVuSans.ttf",
    "Arial.ttf",
    "LiberationSans-Regular.ttf",
)

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_FONT_SUFFIXES = (".ttf", ".otf", ".ttc")
_MAX_FONTS = 2000
_STYLES = ("bold", "italic", "oblique", "light", "thin", "black", "condensed", "mono", "serif")
# The sizes of fonts whose glyphs are pictures: Noto Color Emoji, and Apple Color Emoji.
_PICTURE_SIZES = (109, 160)
_PROBE_SIZE = 16
_NO_CHARACTER = "\U0010fffe"  # which no font has


class _Run(NamedTuple):
    """Characters of one font; ``path`` is None for the font of the sheet."""

    text: str
    path: str | None


def text_length(text: str, size: int) -> float:
    """Return the width of a text in pixels."""
    return sum(_length(run, size) for run in _runs(text))


def draw_text(
    canvas: Image.Image, place: tuple[float, float], text: str, color: str, size: int, anchor: str = "la"
) -> None:
    """Draw a text as ``ImageDraw.text`` does; ``anchor`` is ``la``, ``ls`` or ``mm``."""
    draw, font = ImageDraw.Draw(canvas), _font(size)
    runs = _runs(text)
    if all(run.path is None for run in runs):
        draw.text(place, text, color, font, anchor=anchor)
        return
    x, y = place
    above, below = font.getmetrics() if isinstance(font, ImageFont.FreeTypeFont) else (size, 0)
    baseline = y + {"la": above, "ls": 0, "mm": (above - below) / 2}[anchor]
    x -= text_length(text, size) / 2 if anchor == "mm" else 0
    for run in runs:
        glyphs, scale = _glyphs(run.path, size)
        if isinstance(glyphs, ImageFont.FreeTypeFont) and scale != 1:
            _draw_pictures(canvas, (x, baseline), run.text, color, glyphs, scale)
        elif glyphs is not None:
            draw.text((x, baseline), run.text, color, glyphs, anchor="ls")
        x += _length(run, size)


def _draw_pictures(
    canvas: Image.Image,
    place: tuple[float, float],
    text: str,
    color: str,
    font: ImageFont.FreeTypeFont,
    scale: float,
) -> None:
    """Draw glyphs that are pictures of a fixed size, scaled."""
    drawn = Image.new("RGBA", (max(1, round(font.getlength(text))), sum(font.getmetrics())))
    above = font.getmetrics()[0]
    ImageDraw.Draw(drawn).text((0, above), text, color, font, anchor="ls", embedded_color=True)
    drawn = drawn.resize(tuple(max(1, round(side * scale)) for side in drawn.size))  # type: ignore[arg-type]
    canvas.paste(drawn, (round(place[0]), round(place[1] - above * scale)), drawn)


def _length(run: _Run, size: int) -> float:
    font, scale = _glyphs(run.path, size)
    return 0.0 if font is None else font.getlength(run.text) * scale


@lru_cache(maxsize=1024)
def _runs(text: str) -> list[_Run]:
    paths: list[str | None] = []
    for character in text:
        joins = unicodedata.category(character) in ("Mn", "Me", "Cf")  # accents, joiners and variation selectors
        paths.append(paths[-1] if joins and paths else _path_for(character))
    parts = groupby(zip(text, paths, strict=True), key=lambda part: part[1])
    return [_Run("".join(character for character, _ in part), path) for path, part in parts]


@lru_cache(maxsize=4096)
def _path_for(character: str) -> str | None:
    """Return the font that has a character; None for that of the sheet, also where none has it."""
    if character.isascii() or _has(_font(_PROBE_SIZE), character):
        return None
    for path in _installed():
        font, _ = _glyphs(path, _PROBE_SIZE)
        if font is not None and _has(font, character):
            return path
    return None


def _has(font: _Font, character: str) -> bool:
    """Whether a font has a character: others are drawn as the glyph for what is missing."""
    try:
        glyph, missing = (font.getmask(text, "L") for text in (character, _NO_CHARACTER))
        return glyph.size != missing.size or bytes(glyph) != bytes(missing)
    except (OSError, ValueError):
        return False


def _glyphs(path: str | None, size: int) -> tuple[_Font | None, float]:
    """Return a font, None if it is damaged, and how to scale it to a size: by 1 unless its glyphs are pictures."""
    if path is None:
        return _font(size), 1.0
    for own_size in (size, *_PICTURE_SIZES):
        if font := _open(path, own_size):
            return font, size / own_size
    return None, 1.0


@cache  # each character that the sheet's font lacks is looked for in all of them: 40 KB each
def _open(path: str, size: int) -> ImageFont.FreeTypeFont | None:
    """Open a font; None if it cannot have this size."""
    with suppress(OSError, ValueError):
        return ImageFont.truetype(path, size)
    return None


@lru_cache
def _font(size: int) -> _Font:
    for name in _FONTS:
        with suppress(OSError):  # not installed
            return ImageFont.truetype(name, size)
    return ImageFont.load_default(size)


@lru_cache(maxsize=1)
def _installed() -> list[str]:
    """Return the installed fonts, upright ones of ordinary weight first."""
    found = (path for folder in _font_folders() for path in _font_files(folder))
    paths = dict.fromkeys(islice(found, _MAX_FONTS))
    return sorted(paths, key=lambda path: (sum(style in path.lower() for style in _STYLES), path))


def _font_files(folder: Path) -> Iterator[str]:
    for root, _, names in os.walk(folder):
        yield from (os.path.join(root, name) for name in names if name.lower().endswith(_FONT_SUFFIXES))


def _font_folders() -> Iterator[Path]:
    with suppress(RuntimeError):  # no home
        home = Path.home()
        yield Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share", "fonts")
        yield from (home / ".fonts", home / "Library/Fonts")
    for folder in (os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":"):
        yield Path(folder, "fonts")
    yield from (Path("/Library/Fonts"), Path("/System/Library/Fonts"))
    if windows := os.environ.get("WINDIR"):
        yield Path(windows, "Fonts")
    if local := os.environ.get("LOCALAPPDATA"):
        yield Path(local, "Microsoft/Windows/Fonts")
