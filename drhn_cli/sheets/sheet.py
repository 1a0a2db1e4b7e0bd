"""Draw answers on a sheet as they come."""

from __future__ import annotations

import io
import os
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from itertools import tee
from pathlib import Path
from typing import BinaryIO

from PIL import Image, features

from drhn_cli.errors import AnyPath, DrhnError, ImageError, printable
from drhn_cli.files import atomic_write, os_errors, refuse_overwrite
from drhn_cli.images.decode import decode_image
from drhn_cli.images.source import archive_of
from drhn_cli.retrieval.gallery import Gallery, Match
from drhn_cli.retrieval.query import Answer, Query, QueryOptions, answer_queries
from drhn_cli.sheets.contact import ContactSheet
from drhn_cli.sheets.html import MARK, Card, HtmlSheet
from drhn_cli.threads import ThreadPool, n_processors

MAX_SIDE = 400
"""Pixels of a thumbnail: two for each pixel of a tile, for dense screens; about 15 kB."""

# WebP takes half of the bytes of a JPEG. Pillow's wheels can write it; a distribution's build may not.
_FORMAT = "WEBP" if features.check("webp") else "JPEG"
_QUALITY = 82
_AHEAD = 64  # thumbnails in memory at a time
_KINDS: dict[str, type[HtmlSheet | ContactSheet]] = {".html": HtmlSheet, ".png": ContactSheet}


def answer_on_sheet(
    path: AnyPath, gallery: Gallery, queries: Iterable[Query], options: QueryOptions
) -> Generator[Answer, None, None]:
    """Yield answers as ``answer_queries`` does, and draw each one when the next is asked for.

    The sheet replaces an earlier one after the last answer; if the generator is closed sooner, nothing is replaced.
    In the place of a picture that is gone or cannot be decoded there is the reason.

    Args:
        path: ends in .html or .png; only an empty file or an earlier sheet is replaced.
        gallery: what is searched.
        queries: streams among them are read twice, so they must be seekable.
        options: how queries are answered.

    Raises:
        DrhnError: another suffix, another file is there, or the sheet cannot be written; see ``answer_queries``.
    """
    kind = _KINDS.get(Path(os.fsdecode(path)).suffix.lower())
    if kind is None:
        raise DrhnError("no kind of sheet", path=path, expected=f"a name that ends in {' or '.join(_KINDS)}")
    refuse_overwrite(path, "sheet", lambda head: MARK in head)
    asked, drawn = tee(queries)
    root, n_bits = gallery.manifest.root, gallery.manifest.n_bits
    codes = printable(os.path.basename(os.path.abspath(os.fsdecode(gallery.path))))
    about = f"{len(gallery):,} picture{'s' * (len(gallery) != 1)} in {printable(root)}, {n_bits}-bit codes"
    writing = os_errors(DrhnError, "cannot write the sheet", path=path)
    with writing, ThreadPool(n_processors(), "drhn-sheet") as pool, atomic_write(path) as stream:
        sheet, cards = kind(stream, codes, about), _Cards(os.path.join(os.fsencode(root), b""), pool)
        for query, answer in zip(drawn, answer_queries(gallery, asked, options), strict=True):
            yield answer
            sheet.add(cards.of_query(query, answer), _summary(answer, n_bits), cards.of_matches(answer.matches))
        sheet.finish()


class _Cards:
    """Makes cards of queries and matches, with thumbnails made by threads."""

    def __init__(self, root: bytes, pool: ThreadPool) -> None:
        self._root, self._pool = root, pool

    def of_query(self, query: Query, answer: Answer) -> Card:
        if query.image is None or answer.by_word:
            reason = "a word, not a picture" if answer.by_word else "a code, not a picture"
            return Card(name=printable(query.name), folder="", path=None, picture=reason)
        picture = answer.error.problem if answer.error else _thumbnail_or_reason(query.image)
        if query.path is None:
            return Card(name="standard input", folder="", path=None, picture=picture)
        return self._card(query.path, picture)  # absolute without "..", which browsers resolve before links

    def of_matches(self, matches: list[Match]) -> Iterator[Card]:
        for start in range(0, len(matches), _AHEAD):
            yield from self._pool.map(self._of_match, matches[start : start + _AHEAD])

    def _of_match(self, match: Match) -> Card:
        card = self._card(match.path, _thumbnail_or_reason(match.path))
        return replace(card, distance=match.distance, probability=match.probability)

    def _card(self, path: bytes, picture: bytes | str) -> Card:
        folder, name = os.path.split(path)
        inside = os.path.join(folder, b"").removeprefix(self._root).rstrip(os.fsencode(os.sep))
        link = path if archive_of(path) is None else None  # no browser opens a file in an archive
        return Card(name=printable(name), folder=printable(inside), path=link, picture=picture)


def _thumbnail_or_reason(source: AnyPath | BinaryIO) -> bytes | str:
    if not isinstance(source, str | bytes | os.PathLike):
        source.seek(0)
    try:
        return make_thumbnail(source)
    except ImageError as error:
        return error.problem


def make_thumbnail(source: AnyPath | BinaryIO) -> bytes:
    """Return a picture as a WebP or JPEG file, no side of which is longer than ``MAX_SIDE``.

    Raises:
        ImageError: see ``decode_image``.
    """
    image = decode_image(source, min_side=MAX_SIDE, rendering=2, raw=True)
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    image.save(encoded, _FORMAT, quality=_QUALITY)
    return encoded.getvalue()


def _summary(answer: Answer, n_bits: int) -> str:
    if answer.error is not None:
        return "not answered"
    if not answer.matches:
        return "nothing found"
    n_matches = f"{len(answer.matches)} match{'es' * (len(answer.matches) != 1)}"
    if answer.by_word:
        values = [match.probability or 0.0 for match in answer.matches]
        return f"{n_matches}, {' to '.join(dict.fromkeys(f'{value:.0%}' for value in (values[0], values[-1])))} likely"
    distances = [match.distance or 0 for match in answer.matches]  # not sorted in asymmetric order
    apart = " to ".join(str(distance) for distance in sorted({min(distances), max(distances)}))
    return f"{n_matches}, {apart} of {n_bits} bits apart"
