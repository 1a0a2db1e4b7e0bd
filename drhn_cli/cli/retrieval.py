"""``drhn query``, ``drhn dups`` and ``drhn compare``."""

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
    """Find the pictures most like one, or those that show what a word says.

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
        yield Query(name=os.fsencode(image), image=_picture(image))
    for code in codes:
        yield Query(name=code.encode(), code=code)
    for path in listed:
        yield Query(name=path, image=path)


def _picture(path: str) -> str | io.BytesIO:
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
    return ExitStatus.ERROR if failed else _status(found, quiet=quiet)


def _status(found: bool, *, quiet: bool) -> ExitStatus:
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


def dups(
    codes: options.Codes,
    *,
    max_distance: Annotated[
        int | None,
        Option(min=0, metavar="R", help="Pictures at most R bits apart belong together.  [default: 1 of 64 bits]"),
    ] = None,
    across: Annotated[
        bool,
        Option("--across", help="Only groups with pictures in more than one folder (of those of --under, if several)."),
    ] = False,
    under: options.Under = None,
    exclude: options.Exclude = None,
    null: options.Null = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Find groups of near-duplicates.

    drhn dups codes.bin

    drhn dups codes.bin --across --json | jq -r '.pictures[1:][].path'

    One path a line, a blank line between groups, the largest file of each group first (by its size in bytes when it
    was hashed; the code file knows no pixel counts). Groups are connected: each picture is at most R bits
    from another one of its group, so two pictures of a group can be further apart than that. No picture is opened. The
    exit status is 1 when nothing is found.

    Codes that are alike, even equal ones, are no proof of equal pictures: look before you delete.
    """
    from drhn_cli.codes.reader import CodeFile
    from drhn_cli.retrieval.duplicates import find_duplicates
    from drhn_cli.retrieval.gallery import FileGallery

    end = b"\0" if null else b"\n"
    shown = out.path_form(end)
    found = False
    with CodeFile.open(codes) as file:
        gallery = FileGallery(file, under or (), exclude or ())
        for group in find_duplicates(gallery, max_distance, across=across):
            if json:
                pictures = [
                    {"path": out.json_path(each.path), "size": each.size, "distance": each.distance} for each in group
                ]
                out.write_json({"pictures": pictures})
            else:
                out.write_bytes(end if found else b"")
                out.write_bytes(b"".join(shown(match.path) + end for match in group))
            found = True
    return _status(found, quiet=quiet)


def compare(
    first: Annotated[str, Argument(metavar="A", help="A picture; - is stdin.")],
    second: Annotated[str, Argument(metavar="B", help="Another picture; - is stdin.")],
    *,
    max_distance: Annotated[
        int | None,
        Option(
            min=0, metavar="R", help="Pictures at most R bits apart are near: exit status 0.  [default: 1 of 64 bits]"
        ),
    ] = None,
    weights: options.Weights = None,
    bits: Annotated[
        int | None, Option(min=1, metavar="N", help="Length of the codes.  [default: the network's longest]")
    ] = None,
    tta: options.Tta = None,
    json: options.Json = False,
    quiet: options.Quiet = False,  # noqa: ARG001 - there is nothing to leave out
) -> int:
    """Tell how many bits two pictures are apart.

    drhn compare a.jpg b.jpg --max-distance 4

    if drhn compare old.png new.png >/dev/null; then echo alike; fi

    Prints the distance. The exit status is 0 when the pictures are near, 1 when they are far, 2 when one cannot be
    read.
    """
    from drhn_cli.retrieval.duplicates import compare_pictures, near_distance

    if first == second == STDIN:
        raise ConfigError("both pictures are on stdin", hint="name one of them by its file")
    pictures = [_picture(path) for path in (first, second)]
    distance, n_bits = compare_pictures(pictures, weights=weights, n_bits=bits, views=options.n_views(tta))
    near = distance <= (near_distance(n_bits) if max_distance is None else max_distance)
    if json:
        out.write_json({"a": first, "b": second, "distance": distance, "bits": n_bits, "near": near})
    else:
        out.write_bytes(b"%d\n" % distance)
    return ExitStatus.DONE if near else ExitStatus.NOTHING_FOUND
