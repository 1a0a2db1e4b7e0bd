"""``drhn query``."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from drhn_cli.cli import options
from drhn_cli.cli.app import ExitStatus
from drhn_cli.cli.output import (
    flush,
    format_number,
    path_form,
    print_table,
    report,
    report_error,
    shown_path,
    terminal_text,
    write_bytes,
    write_json,
)
from drhn_cli.errors import ConfigError, printable

if TYPE_CHECKING:
    from drhn_cli.retrieval.query import Answer, Query

STDIN = "-"


def query(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Pictures, and last the code file or table; - is a picture on stdin."),
    ],
    *,
    top: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Matches for each query.  [default: 10, or all within --max-distance]"),
    ] = None,
    max_distance: Annotated[
        int | None, typer.Option(min=0, metavar="R", help="Only matches at most R bits away.")
    ] = None,
    code: Annotated[
        list[str] | None, typer.Option(metavar="HEX", help="Look up a code instead of a picture. Repeatable.")
    ] = None,
    rank: Annotated[
        Literal["hamming", "asymmetric"],
        typer.Option(help="The order of matches; asymmetric: by how sure the network is of each bit."),
    ] = "hamming",
    under: options.Under = None,
    exclude: options.Exclude = None,
    not_self: Annotated[
        bool, typer.Option("--not-self", help="Leave the query picture's own entry out of its matches.")
    ] = False,
    files_from: options.FilesFrom = None,
    null: options.Null = False,
    only_paths: Annotated[bool, typer.Option("--paths", help="Print the paths alone.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    sheet: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Draw the answers with thumbnails, too: a page (.html) or a picture (.png)."),
    ] = None,
    weights: options.Weights = None,
    device: options.Device = "cpu",
) -> int:
    """Find the pictures most like one.

    drhn query img.jpg codes.bin --top 10

    curl -s https://example.org/cat.jpg | drhn query - codes.bin

    drhn query img.jpg clickhouse://me@db.example.org:8123/photos.codes

    On a terminal the answer is a table; in a pipe it is a line for each match, `distance<TAB>path`, with the query in
    front when there are several. Nearest first; equal distances in the order of paths. A picture that is in the code
    file is looked up there. The exit status is 1 when nothing is found.
    """
    from drhn_cli.retrieval.gallery import open_codes
    from drhn_cli.retrieval.query import QueryOptions, answer_queries

    *images, codes_path = paths
    n_sources = len(images) + len(code or ())
    if not n_sources and files_from is None:
        raise ConfigError(
            "nothing to look up", hint="name a picture before the code file, or use --code or --files-from"
        )
    if [*images, files_from].count(STDIN) > 1:
        raise ConfigError("two things are read from stdin", hint="name one of them by its file")
    query_options = QueryOptions(
        top_k=top if top is not None or max_distance is not None else 10,
        max_distance=max_distance,
        asymmetric=rank == "asymmetric",
        under=under or (),
        exclude=exclude or (),
        not_self=not_self,
        weights=weights,
        device=device,
    )
    several = n_sources > 1 or files_from is not None
    output = _Output(json=json, only_paths=only_paths, end=b"\0" if null else b"\n", several=several)
    found = failed = False
    with open_codes(codes_path) as codes:
        queries = _queries(images, code or (), options.read_files_from(files_from, null=null))
        if sheet is None:
            given = answer_queries(codes, queries, query_options)
        else:
            from drhn_cli.sheets.sheet import answer_on_sheet  # brings Pillow

            given = answer_on_sheet(sheet, codes, queries, query_options)
        with closing(given) as answers:
            for answer in answers:
                if answer.error is not None:
                    failed = True
                    if answer.error.path is None:
                        report(f"{printable(answer.query)}: {answer.error.message}")
                    else:
                        report_error(answer.error)
                    continue
                found = found or bool(answer.matches)
                output.write(answer)
                flush()
    if failed:
        return ExitStatus.ERROR
    if not found:
        if not quiet:
            report("nothing found")
        return ExitStatus.NOTHING_FOUND
    return ExitStatus.DONE


def _queries(images: list[str], codes: list[str] | tuple[()], listed: Iterator[bytes]) -> Iterator[Query]:
    from drhn_cli.retrieval.query import Query

    for image in images:
        if image == STDIN:
            yield Query(name=STDIN.encode(), image=io.BytesIO(sys.stdin.buffer.read()))
        else:
            yield Query(name=os.fsencode(image), image=image)
    for code in codes:
        yield Query(name=code.encode(), code=code)
    for path in listed:
        yield Query(name=path, image=path)


@dataclass(frozen=True, kw_only=True)
class _Output:
    """The form of the answers."""

    json: bool
    only_paths: bool
    end: bytes
    several: bool

    def write(self, answer: Answer) -> None:
        if self.json:
            for match in answer.matches:
                write_json(
                    {
                        "query": os.fsdecode(answer.query),
                        "rank": match.rank,
                        "distance": match.distance,
                        "path": os.fsdecode(shown_path(match.path)),
                        **({} if match.score is None else {"score": round(match.score, 4)}),
                    }
                )
        elif self.only_paths:
            form = path_form(self.end)
            for match in answer.matches:
                write_bytes(form(match.path) + self.end)
        elif sys.stdout.isatty() and self.end == b"\n":
            self._draw(answer)
        else:
            prefix = answer.query + b"\t" if self.several else b""
            for match in answer.matches:
                write_bytes(b"%s%d\t%s%s" % (prefix, match.distance, shown_path(match.path), self.end))

    def _draw(self, answer: Answer) -> None:
        from rich.table import Table
        from rich.text import Text

        has_scores = any(match.score is not None for match in answer.matches)
        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in ("score", "distance") if has_scores else ("distance",):  # what gave the order comes first
            table.add_column(name, justify="right")
        table.add_column("path", overflow="fold")
        for match in answer.matches:
            score = [format_number(match.score)] if has_scores else []
            table.add_row(*score, str(match.distance), Text(terminal_text(shown_path(match.path))))
        nothing = "" if answer.matches else ": nothing found"
        print_table(table, title=f"{terminal_text(answer.query)}{nothing}" if self.several else "")
