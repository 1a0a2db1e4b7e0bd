"""Cards, the pictures that a sheet shows, and a self-contained web page of them: no scripts, nothing fetched."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import BinaryIO

from PIL import Image

MARK = b"drhn sheet"
"""Is in the first bytes of every sheet, of either kind, so that no other file is replaced by one."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A picture on a sheet. All text is one printable line, and not escaped for HTML.

    Attributes:
        name: of the file.
        folder: where it is, relative to the root of the code file if it is below it; may be empty.
        path: absolute, to link to; None if there is no file.
        picture: its thumbnail, a WebP or JPEG file, or the reason why there is none.
        distance: from the query; None for the query itself, and where words alone are looked for.
        probability: that it shows the words that are looked for; None without words.
    """

    name: str
    folder: str
    path: bytes | None
    picture: bytes | str
    distance: int | None = None
    probability: float | None = None

    @property
    def badge(self) -> str:
        """What is written on the picture: the distance, or how likely it shows the words where there is none."""
        if self.distance is not None:
            return str(self.distance)
        return "" if self.probability is None else f"{self.probability:.0%}"


class HtmlSheet:
    """A page that is written card by card, so it is never in memory as a whole.

    Names may be any text: everything is escaped, and the content security policy forbids scripts and other sources.

    Args:
        stream: gets a UTF-8 document.
        codes: the name of what was searched.
        about: a line about it.
    """

    def __init__(self, stream: BinaryIO, codes: str, about: str) -> None:
        self._write = stream.write
        self._n_sections = 0
        self._write(_head(escape(codes), escape(about)).encode())

    def add(self, query: Card, summary: str, matches: Iterator[Card]) -> None:
        """Draw a query, its answer in a line, and the matches, which may be made while they are drawn."""
        self._n_sections += 1
        for part in _section(self._n_sections, query, escape(summary), matches):
            self._write(part.encode())

    def finish(self) -> None:
        """End the page."""
        self._write(b"</main>\n</body>\n</html>\n")


def _head(codes: str, about: str) -> str:
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    style_hash = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"""<!doctype html>
<!-- {MARK.decode()} -->
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'">
<title>Found in {codes}</title>
<style>{style}</style>
</head>
<body>
<header class="about"><h1><bdi>{codes}</bdi></h1><p>{about}</p></header>
<main>
"""


def _section(number: int, query: Card, summary: str, matches: Iterator[Card]) -> Iterator[str]:
    name = _linked(query, f"<bdi>{escape(query.name)}</bdi>")
    yield f"""<section aria-labelledby="q{number}">
<header class="query">
{_tile(query, f"The query: {query.name}")}
<div><p class="kind">Query</p><h2 id="q{number}">{name}</h2>{_folder(query)}
<p class="found">{summary}</p></div>
</header>
<ol>
"""
    for rank, card in enumerate(matches, start=1):
        caption = f'<span class="name"><bdi>{escape(card.name)}</bdi></span>'
        same = " same" if card.distance == 0 else ""
        measure = "probability" if card.distance is None else "distance"
        badge = f'<span class="badge{same}"><span class="spoken">{measure} </span>{card.badge}</span>'
        tile = _tile(card, f"Match {rank}: {card.name}", badge)
        yield f"<li>{_linked(card, f'{tile}{caption}{_folder(card)}')}</li>\n"
    yield "</ol>\n</section>\n"


def _tile(card: Card, alt: str, badge: str = "") -> str:
    if isinstance(card.picture, bytes):
        with Image.open(io.BytesIO(card.picture)) as image:
            size, media_type = f'width="{image.width}" height="{image.height}"', image.get_format_mimetype()
        data = base64.b64encode(card.picture).decode()
        shown = f'<img {size} alt="{escape(alt)}" src="data:{media_type};base64,{data}">'
    else:
        reason = escape(card.picture)
        shown = f'<span class="missing" role="img" aria-label="{escape(alt)}, {reason}">{reason}</span>'
    return f'<span class="tile">{shown}{badge}</span>'


def _folder(card: Card) -> str:
    return f'<span class="folder"><bdi>{escape(card.folder)}</bdi></span>' if card.folder else ""


def _linked(card: Card, content: str) -> str:
    if card.path is None:
        return content
    uri = Path(os.fsdecode(card.path)).as_uri()
    return f'<a href="{escape(uri)}" title="{escape(card.name)}">{content}</a>'
