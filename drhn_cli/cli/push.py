"""``drhn push``."""

from __future__ import annotations

from typing import Annotated

import typer

from drhn_cli.cli import options
from drhn_cli.cli.output import TerminalProgress, counted, write_summary


def push(
    codes: options.Codes,
    url: Annotated[str, typer.Argument(metavar="URL", help="The table: clickhouse://user@host/db.table or chdb:DIR.")],
    *,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the code file in the table.  [default: its absolute path]"),
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Load a code file into a table of ClickHouse.

    drhn push codes.bin clickhouse://me@db.example.org:8123/photos.codes

    drhn push codes.bin chdb:./table

    drhn query then takes the URL instead of a code file. Several code files may share a table; one that is
    pushed again replaces its rows. A push that was stopped resumes where it was. The password is read from the
    variable CLICKHOUSE_PASSWORD, or from the file that CLICKHOUSE_PASSWORD_FILE names.
    """
    from drhn_cli.clickhouse.push import push_codes

    hint = "run the same command again to go on"
    with TerminalProgress(quiet=quiet, resume_hint=lambda _: hint) as progress:
        summary = push_codes(codes, url, name=name, progress=progress)
    pushed = f"{counted(summary.n_items, 'picture')} ({summary.n_sent:,} sent) in {summary.seconds:.1f} s"
    there = f"{counted(summary.n_table, 'picture')} of {counted(summary.n_files, 'code file')}"
    write_summary(summary, f"{url}: {pushed}; the table holds {there}", json=json, quiet=quiet)
