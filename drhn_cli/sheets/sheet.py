"""Put answers on a sheet while they are given."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from functools import partial
from itertools import islice, tee
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from drhn_cli.errors import AnyPath, DrhnError, ImageError, printable
from drhn_cli.files import atomic_write, os_errors, refuse_overwrite
from drhn_cli.images.source import archive_of
from drhn_cli.paths import absolute_path
from drhn_cli.retrieval.query import Answer, Match, Query, QueryOptions, answer_queries
from drhn_cli.sheets.contact import ContactSheet
from drhn_cli.sheets.content import MARK, About, Card, Section, Thumbnail
from drhn_cli.sheets.html import HtmlSheet
from drhn_cli.sheets.thumbnail import make_thumbnail
from drhn_cli.threads import ThreadPool, n_processors

if TYPE_CHECKING:
    from drhn_cli.retrieval.gallery import Codes

_AHEAD = 64  # thumbnails that are made at a time, and held


class _Sheet(Protocol):
    def __init__(self, stream: BinaryIO, about: About) -> None: ...
    def add(self, section: Section) -> None: ...
    def finish(self) -> None: ...


_KINDS: dict[str, type[_Sheet]] = {".html": HtmlSheet, ".png": ContactSheet}


def answer_on_sheet(
    path: AnyPath, codes: Codes, queries: Iterable[Query], options: QueryOptions
) -> Generator[Answer, None, None]:
    """Answer each query as ``answer_queries`` does, and draw each answer once it has been taken.

    The sheet takes its place when the last answer has been taken; a caller that stops sooner leaves what was there. A
    picture that is gone, or cannot be decoded, is drawn as the reason.

    Args:
        path: ends in .html or .png. Either nothing is there, or an earlier sheet, or an empty file.
        codes: an open code file or table.
        queries: streams among them are read twice, so they can seek.
        options: what is asked.

    Yields:
        An answer for each query, in order.

    Raises:
        DrhnError: another suffix, another file in the place, the sheet cannot be written; see ``answer_queries``.
    """
    kind = _KINDS.get(Path(os.fsdecode(path)).suffix.lower())
    if kind is None:
        raise DrhnError("no kind of sheet", path=path, expected=f"a name that ends in {' or '.join(_KINDS)}")
    refuse_overwrite(path, "sheet", lambda head: MARK in head)
    asked, drawn = tee(queries)
    writing = os_errors(DrhnError, "cannot write the sheet", path=path)
    with writing, ThreadPool(n_processors(), "drhn-sheet") as pool, atomic_write(path) as stream:
        sheet = kind(stream, _about(codes))
        for query, answer in zip(drawn, answer_queries(codes, asked, options), strict=True):
            yield answer
            sheet.add(_section(codes, query, answer, pool))
        sheet.finish()


def _about(codes: Codes) -> About:
    name = os.path.basename(os.path.abspath(os.fsdecode(codes.path)))
    n_items = f"{len(codes):,} picture{'s' * (len(codes) != 1)}"
    return About(codes=printable(name), summary=f"{n_items} in {printable(codes.root)}, {codes.n_bits}-bit codes")


def _section(codes: Codes, query: Query, answer: Answer, pool: ThreadPool) -> Section:
    cards = _cards(partial(_match_card, os.fsencode(codes.root)), answer.matches, pool)
    return Section(query=_query_card(codes, query, answer), summary=_summary(answer, codes.n_bits), matches=cards)


def _cards(draw: partial[Card], matches: Iterable[Match], pool: ThreadPool) -> Iterator[Card]:
    rest = iter(matches)
    while some := list(islice(rest, _AHEAD)):
        yield from pool.map(draw, some)


def _match_card(root: bytes, match: Match) -> Card:
    name, folder = _name_and_folder(match.path, root)
    picture = _picture(match.path)
    return Card(name=name, folder=folder, path=_link(match.path), picture=picture, distance=match.distance)


def _query_card(codes: Codes, query: Query, answer: Answer) -> Card:
    if query.image is None:
        return Card(name=printable(query.name), folder="", path=None, picture="a code, not a picture")
    if not isinstance(query.image, str | bytes | os.PathLike):
        name, folder, path = "standard input", "", None
    else:
        path = absolute_path(query.image)  # browsers take "link/.." for nothing
        name, folder = _name_and_folder(path, os.fsencode(codes.root))
        path = _link(path)
    return Card(
        name=name, folder=folder, path=path, picture=answer.error.problem if answer.error else _picture(query.image)
    )


def _link(path: bytes) -> bytes | None:
    """Return the path that a card links to: no browser opens a file in an archive."""
    return path if archive_of(path) is None else None


def _name_and_folder(path: bytes, root: bytes) -> tuple[str, str]:
    folder, name = os.path.split(path)
    inside = os.path.join(folder, b"").removeprefix(os.path.join(root, b""))
    return printable(name), printable(inside.rstrip(os.fsencode(os.sep))) if inside else ""


def _picture(source: AnyPath | BinaryIO) -> Thumbnail | str:
    if not isinstance(source, str | bytes | os.PathLike):
        source.seek(0)
    try:
        return make_thumbnail(source)
    except ImageError as error:
        return error.problem


def _summary(answer: Answer, n_bits: int) -> str:
    if answer.error is not None:
        return "not answered"
    if not answer.matches:
        return "nothing found"
    distances = [match.distance for match in answer.matches]  # in another order by asymmetric rank
    nearest, farthest = min(distances), max(distances)
    apart = f"{nearest} to {farthest}" if nearest != farthest else f"{nearest}"
    n_matches = f"{len(answer.matches)} match{'es' * (len(answer.matches) != 1)}"
    return f"{n_matches}, {apart} of {n_bits} bits apart"
