"""``drhn merge``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drhn_cli.cli import options
from drhn_cli.cli.output import TerminalProgress, counted, write_summary
from drhn_cli.errors import printable


def merge(
    parts: Annotated[list[str], typer.Argument(metavar="PART...", help="Code files that have no picture in common.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="CODES", help="The code file to make.")],
    partial: Annotated[
        bool, typer.Option("--partial", help="Accept missing or unfinished parts of a hash --shard.")
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Join code files of one model into one.

    drhn merge part-*.bin -o codes.bin

    The result is that of hashing all their pictures at once. A picture that two parts hold is an error.
    """
    from drhn_cli.collection.merge import merge_codes

    summary = merge_codes(parts, output, partial=partial, progress=TerminalProgress(quiet=quiet))
    merged = f"{counted(summary.n_items, 'picture')} of {counted(summary.n_parts, 'code file')}"
    told = f"{printable(output)}: {merged} in {summary.seconds:.1f} s"
    write_summary(summary, told, json=json, quiet=quiet)
