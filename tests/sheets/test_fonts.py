"""Characters that the sheet's font lacks are drawn from another font that is installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from drhn_cli.sheets import fonts
from drhn_cli.sheets.fonts import draw_text, text_length

CACHES = (fonts._runs, fonts._path_for, fonts._open, fonts._font, fonts._installed)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home without fonts, on a system without fonts but Pillow's own, which has Latin letters alone."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "WINDIR", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path / "nothing"))
    monkeypatch.setattr(fonts, "_FONTS", ("no such font.ttf",))
    for cached in CACHES:
        cached.cache_clear()
    yield tmp_path
    for cached in CACHES:
        cached.cache_clear()


def install(home: Path, folder: str = ".local/share/fonts/deep") -> None:
    """Put a font of Cyrillic and Greek letters there, beside what only looks like fonts."""
    matplotlib = pytest.importorskip("matplotlib")
    (home / folder).mkdir(parents=True)
    shutil.copy(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), home / folder / "Letters.TTF")
    (home / folder / "aaa.ttf").write_bytes(b"no font")
    (home / folder / "bbb.otf").symlink_to("nowhere")


def drawn(text: str, anchor: str = "la") -> NDArray[np.uint8]:
    canvas = Image.new("RGB", (300, 60), "white")
    draw_text(canvas, (150, 30) if anchor == "mm" else (10, 30), text, "black", 17, anchor)
    return np.asarray(canvas)


@pytest.mark.parametrize("folder", [".local/share/fonts", ".fonts", "Library/Fonts"])
def test_each_character_is_drawn_from_a_font_that_has_it(home: Path, folder: str) -> None:
    install(home, folder)
    for first, second in (("Ж", "Щ"), ("Ω", "Ψ"), ("aЖb", "aЩb")):
        assert (drawn(first) != drawn(second)).any()
    assert text_length("aЖb", 17) > text_length("ab", 17)


def test_what_no_font_has_is_a_box() -> None:
    assert (drawn("Ж") == drawn("Щ")).all()
    assert (drawn("Ж") < 255).any()


@pytest.mark.parametrize("anchor", ["la", "ls", "mm"])
def test_other_letters_stand_on_the_line(home: Path, anchor: str) -> None:
    plain, font = Image.new("RGB", (300, 60), "white"), ImageFont.load_default(17)
    ImageDraw.Draw(plain).text((150, 30) if anchor == "mm" else (10, 30), "Latin", "black", font, anchor=anchor)
    np.testing.assert_array_equal(drawn("Latin", anchor), np.asarray(plain))
    install(home)
    rows, other = (np.flatnonzero((drawn(text, anchor) < 128).any((1, 2))) for text in ("HH", "HЖ"))
    assert abs(int(rows[-1]) - int(other[-1])) <= 1


def test_accents_and_joiners_stay_with_their_letter(home: Path) -> None:
    install(home)
    assert [run.text for run in fonts._runs("aЖ\u0301\u200dЩb\u0301")] == ["a", "Ж\u0301\u200dЩ", "b\u0301"]


def test_glyphs_that_are_pictures_are_scaled(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(home)
    truetype = ImageFont.truetype

    def of_one_size(path: object, size: float, **settings: Any) -> ImageFont.FreeTypeFont:
        if isinstance(path, str) and path.endswith("Letters.TTF") and size != 109:
            raise OSError("invalid pixel size")
        return truetype(path, size, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageFont, "truetype", of_one_size)
    assert (drawn("Ж") != drawn("Щ")).any()
    assert 10 < text_length("Ж", 17) < 25
