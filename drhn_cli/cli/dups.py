"""``drhn dups``."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from drhn_cli.cli import options
from drhn_cli.cli.app import ExitStatus
from drhn_cli.cli.output import path_form, report, shown_path, write_bytes, write_json


def dups(
    codes: options.Codes,
    *,
    max_distance: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="R", help="Pictures at most R bits apart belong together.  [default: 1 of 64 bits]"
        ),
    ] = None,
    across: Annotated[
        bool,
        typer.Option(
            "--across", help="Only groups in more than one folder: of --under, if it names several, else of any."
        ),
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
    was hashed; the code file knows no pixel counts). A group is what hangs together: each of its pictures is at most R
    bits from another one of it, and pictures at its ends may be further apart. No picture is opened. The exit status is
    1 when nothing is found.

    Codes that are alike, even equal ones, are no proof of equal pictures: look before you delete.
    """
    from drhn_cli.codes.reader import CodeFile
    from drhn_cli.retrieval.duplicates import DuplicateOptions, find_duplicates

    end = b"\0" if null else b"\n"
    shown = path_form(end)
    found = False
    with CodeFile.open(codes) as file:
        wanted = DuplicateOptions(max_distance=max_distance, under=under or (), exclude=exclude or (), across=across)
        for group in find_duplicates(file, wanted):
            if json:
                pictures = [
                    {"path": os.fsdecode(shown_path(one.path)), "size": one.size, "distance": one.distance}
                    for one in group
                ]
                write_json({"pictures": pictures})
            else:
                write_bytes(end if found else b"")
                write_bytes(b"".join(shown(one.path) + end for one in group))
            found = True
    if not found:
        if not quiet:
            report("nothing found")
        return ExitStatus.NOTHING_FOUND
    return ExitStatus.DONE
