"""``drhn import``."""

from __future__ import annotations

from typing import Annotated

import typer

from drhn_cli.cli import options
from drhn_cli.cli.output import TerminalProgress, counted, write_summary
from drhn_cli.errors import printable


def import_(
    array: Annotated[
        str, typer.Argument(metavar="CODES.npy", help="(n, bytes) uint8, packed, or (n, bits) bool, as numpy saves it.")
    ],
    *,
    files_from: Annotated[
        str, typer.Option(metavar="FILE|-", help="Read the path of each code, one a line (NUL-ended with -0).")
    ],
    output: Annotated[str, typer.Option("--output", "-o", metavar="CODES", help="The code file to make or replace.")],
    bits: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Length of the codes.  [default: all bits of the columns]")
    ] = None,
    null: options.Null = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a code file of codes from elsewhere.

    drhn import codes.npy --files-from paths.txt -o codes.bin --bits 48

    Such a file can be searched by code and by the paths in it, but not with other pictures: the network that made its
    codes is not known.
    """
    from drhn_cli.collection.import_codes import import_codes

    listed = options.read_files_from(files_from, null=null)
    summary = import_codes(array, listed, output, bits, progress=TerminalProgress(quiet=quiet))
    told = f"{printable(output)}: {counted(summary.n_items, 'code')} of {counted(summary.n_bits, 'bit')}"
    write_summary(summary, told, json=json, quiet=quiet)
