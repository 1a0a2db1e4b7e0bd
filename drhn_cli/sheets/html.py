"""Answers as one self-contained web page: it has no scripts, and fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from html import escape
from importlib import resources
from pathlib import Path
from typing import BinaryIO

from drhn_cli.sheets.card import MARK, About, Card, Section, Thumbnail


class HtmlSheet:
    """A page that is written card by card, so it is never in memory as a whole.

    Names may be any text: everything is escaped, and the content security policy forbids scripts and other sources.

    Args:
        stream: gets a UTF-8 document.
        about: the head of the page.
    """

    def __init__(self, stream: BinaryIO, about: About) -> None:
        self._write = stream.write
        self._n_sections = 0
        self._write(_head(about).encode())

    def add(self, section: Section) -> None:
        """Draw a query and its answer."""
        self._n_sections += 1
        for part in _section(self._n_sections, section):
            self._write(part.encode())

    def finish(self) -> None:
        """End the page."""
        self._write(b"</main>\n</body>\n</html>\n")


def _head(about: About) -> str:
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    style_hash = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    codes = escape(about.codes)
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
<header class="about"><h1><bdi>{codes}</bdi></h1><p>{escape(about.summary)}</p></header>
<main>
"""


def _section(number: int, section: Section) -> Iterator[str]:
    query = section.query
    name = _linked(query, f"<bdi>{escape(query.name)}</bdi>")
    yield f"""<section aria-labelledby="q{number}">
<header class="query">
{_tile(query, f"The query: {query.name}")}
<div><p class="kind">Query</p><h2 id="q{number}">{name}</h2>{_folder(query)}
<p class="found">{escape(section.summary)}</p></div>
</header>
<ol>
"""
    for rank, card in enumerate(section.matches, start=1):
        caption = f'<span class="name"><bdi>{escape(card.name)}</bdi></span>'
        same = " same" if card.distance == 0 else ""
        badge = f'<span class="badge{same}"><span class="spoken">distance </span>{card.distance}</span>'
        tile = _tile(card, f"Match {rank}: {card.name}", badge)
        yield f"<li>{_linked(card, f'{tile}{caption}{_folder(card)}')}</li>\n"
    yield "</ol>\n</section>\n"


def _tile(card: Card, alt: str, badge: str = "") -> str:
    picture = card.picture
    if isinstance(picture, Thumbnail):
        data = base64.b64encode(picture.data).decode()
        size = f'width="{picture.width}" height="{picture.height}"'
        shown = f'<img {size} alt="{escape(alt)}" src="data:{picture.media_type};base64,{data}">'
    else:
        reason = escape(picture)
        shown = f'<span class="missing" role="img" aria-label="{escape(alt)}, {reason}">{reason}</span>'
    return f'<span class="tile">{shown}{badge}</span>'


def _folder(card: Card) -> str:
    return f'<span class="folder"><bdi>{escape(card.folder)}</bdi></span>' if card.folder else ""


def _linked(card: Card, content: str) -> str:
    if card.path is None:
        return content
    uri = Path(os.fsdecode(card.path)).as_uri()
    return f'<a href="{escape(uri)}" title="{escape(card.name)}">{content}</a>'
