"""``drhn query``."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Option

from drhn_cli.cli import options
from drhn_cli.cli import output as out
from drhn_cli.cli.app import ExitStatus
from drhn_cli.errors import ConfigError, DrhnError, about, printable

if TYPE_CHECKING:
    from drhn_cli.retrieval.gallery import Match
    from drhn_cli.retrieval.query import Answer, Query

STDIN = "-"


def query(
    paths: Annotated[
        list[str],
        Argument(
            metavar="PATH...",
            help="Pictures, and last the code file or table; - is a picture on stdin. What is no file is a word.",
        ),
    ],
    *,
    top: Annotated[
        int | None,
        Option(
            min=1,
            metavar="N",
            help="Matches for each query.  [default: 10, or all within --max-distance or --min-probability]",
        ),
    ] = None,
    word: options.Words = None,
    not_word: options.NotWords = None,
    min_probability: Annotated[
        float | None,
        Option(
            min=0,
            max=1,
            metavar="P",
            help="Only pictures that show the words this likely.  [default: 0.1 with a picture]",
        ),
    ] = None,
    max_distance: Annotated[int | None, Option(min=0, metavar="R", help="Only matches at most R bits away.")] = None,
    code: Annotated[
        list[str] | None, Option(metavar="HEX", help="Look up a code instead of a picture. Repeatable.")
    ] = None,
    order: Annotated[
        Literal["hamming", "asymmetric"],
        Option(help="Order of the matches; asymmetric: bits that the network is unsure of count less."),
    ] = "hamming",
    under: options.Under = None,
    exclude: options.Exclude = None,
    not_self: Annotated[bool, Option("--not-self", help="Leave the query picture itself out of its matches.")] = False,
    files_from: options.FilesFrom = None,
    null: options.Null = False,
    only_paths: Annotated[bool, Option("--paths", help="Print the paths alone.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    sheet: Annotated[
        str | None,
        Option(metavar="FILE", help="Also draw the answers with thumbnails, as a page (.html) or a picture (.png)."),
    ] = None,
    weights: options.Weights = None,
    device: options.Device = "cpu",
) -> int:
    """Find the pictures most like one, or those of a word.

    drhn query img.jpg codes.bin --top 10

    drhn query --word dog --word beach codes.bin

    curl -s https://example.org/cat.jpg | drhn query - codes.bin

    drhn query img.jpg clickhouse://me@db.example.org:8123/photos.codes

    On a terminal the answer is a table; in a pipe it is a line for each match, `distance<TAB>path`, with the query in
    front when there are several. Nearest first; equal distances in the order of paths. A picture that is in the code
    file is looked up there. The exit status is 1 when nothing is found.

    Words are told from the codes alone, the likeliest picture first, with the probability in the place of the
    distance; beside a picture they leave out what does not show them. `drhn words` lists those that are understood.
    """
    from drhn_cli.retrieval.gallery import open_gallery
    from drhn_cli.retrieval.query import Query, QueryOptions, answer_queries

    *images, codes_path = paths
    n_sources = len(images) + len(code or ())
    if not n_sources and files_from is None and not word:
        hint = "name a picture before the code file, or use --word, --code or --files-from"
        raise ConfigError("nothing to look up", hint=hint)
    if [*images, files_from].count(STDIN) > 1:
        raise ConfigError("two things are read from stdin", hint="name one of them by its file")
    top_k = 10 if top is max_distance is min_probability is None else top
    words, not_words = tuple(word or ()), tuple(not_word or ())
    query_options = options.collect(QueryOptions, {**locals(), "asymmetric": order == "asymmetric"})
    several = n_sources > 1 or files_from is not None
    write = _writer(json=json, only_paths=only_paths, end=b"\0" if null else b"\n", several=several)
    with open_gallery(codes_path, under or (), exclude or ()) as gallery:
        queries = _queries(images, code or (), options.read_files_from(files_from, null=null))
        if not n_sources and files_from is None:
            queries = iter([Query(name=" ".join(words).encode())])
        if sheet is None:
            given = answer_queries(gallery, queries, query_options)
        else:
            from drhn_cli.sheets.sheet import answer_on_sheet  # imports Pillow

            given = answer_on_sheet(sheet, gallery, queries, query_options)
        with closing(given) as answers:
            return _write_answers(answers, write, json=json, quiet=quiet)


def _queries(images: list[str], codes: list[str] | tuple[()], listed: Iterator[bytes]) -> Iterator[Query]:
    from drhn_cli.retrieval.query import Query

    for image in images:
        yield Query(name=os.fsencode(image), image=picture_of(image))
    for code in codes:
        yield Query(name=code.encode(), code=code)
    for path in listed:
        yield Query(name=path, image=path)


def picture_of(path: str) -> str | io.BytesIO:
    """Return a path, or for ``-`` what is on stdin."""
    if path != STDIN:
        return path
    from drhn_cli.images.decode import read_stream  # Pillow, which neither a code nor a stored picture needs

    with about(STDIN):
        return io.BytesIO(read_stream(sys.stdin.buffer))


def _write_answers(
    answers: Iterable[Answer], write: Callable[[Answer], None], *, json: bool, quiet: bool
) -> ExitStatus:
    """Write each answer as it comes, and return the exit status."""
    found = failed = False
    noted: dict[str, None] = {}  # what is to be said of a word is said once
    for answer in answers:
        for note in answer.notes:
            if not quiet and note not in noted:
                out.report(note)
        noted |= dict.fromkeys(answer.notes)
        if answer.error is None:
            write(answer)
        else:
            _write_failure(answer.query, answer.error, json=json)
        out.flush()
        found |= bool(answer.matches)
        failed |= answer.error is not None
    return ExitStatus.ERROR if failed else found_status(found, quiet=quiet)


def found_status(found: bool, *, quiet: bool) -> ExitStatus:
    """Return the exit status, and report when nothing was found."""
    if not found and not quiet:
        out.report("nothing found")
    return ExitStatus.DONE if found else ExitStatus.NOTHING_FOUND


def _write_failure(query: bytes, error: DrhnError, *, json: bool) -> None:
    if error.path is None:
        out.report(f"{printable(query)}: {error.message}")
    else:
        out.report_error(error)
    if json:
        out.write_json({"query": os.fsdecode(query), "error": error.reason, "path": out.json_path(error.path)})


def _writer(*, json: bool, only_paths: bool, end: bytes, several: bool) -> Callable[[Answer], None]:
    """Return the function that writes answers in the form that is asked for, on this terminal or into this pipe."""
    if json:
        return _write_json
    if only_paths:
        form = out.path_form(end)
        return lambda answer: out.write_bytes(b"".join(form(match.path) + end for match in answer.matches))
    if sys.stdout.isatty() and end == b"\n":
        return partial(_draw, several=several)
    return partial(_write_lines, end=end, several=several)


def _write_json(answer: Answer) -> None:
    for rank, match in enumerate(answer.matches, start=1):
        fractions = {"score": match.score, "probability": match.probability}
        known = {name: round(value, 4) for name, value in fractions.items() if value is not None}
        distance = {} if match.distance is None else {"distance": match.distance}
        ranked = {"query": os.fsdecode(answer.query), "rank": rank, **distance}
        out.write_json({**ranked, "path": out.json_path(match.path), **known})


def _write_lines(answer: Answer, *, end: bytes, several: bool) -> None:
    prefix = answer.query + b"\t" if several else b""
    for match in answer.matches:
        number = out.format_number(match.probability) if match.distance is None else str(match.distance)
        out.write_bytes(b"%s%s\t%s%s" % (prefix, number.encode(), out.shown_path(match.path), end))


def _draw(answer: Answer, *, several: bool) -> None:
    rows = [_cells(match) for match in answer.matches]
    nothing = "" if rows else ": nothing found"
    title = f"{out.terminal_text(answer.query)}{nothing}" if several else ""
    headers = list(rows[0]) if rows else []
    out.draw_table(headers, [list(row.values()) for row in rows], text_column="path", title=title)


def _cells(match: Match) -> dict[str, str]:
    """Return what a table says of a match; the number that gives the order comes first."""
    return {
        **({} if match.score is None else {"score": out.format_number(match.score)}),
        **({} if match.distance is None else {"distance": str(match.distance)}),
        **({} if match.probability is None else {"probability": out.format_number(match.probability)}),
        "path": os.fsdecode(out.shown_path(match.path)),
    }
