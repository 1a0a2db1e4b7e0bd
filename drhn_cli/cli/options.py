"""Options that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from drhn_cli.errors import ConfigError, DrhnError


def _refuse_table(codes: str) -> str:
    from drhn_cli.clickhouse.url import TableAddress, is_table

    if is_table(codes):
        TableAddress.parse(codes)  # refuses a password, and does not repeat it
        hint = "name the code file that was pushed there"
        raise ConfigError(
            "a table answers drhn query and drhn info alone", expected="a code file", found=codes, hint=hint
        )
    return codes


def n_views(tta: bool | None) -> int | None:
    """Return how many views of a picture ``--tta`` asks for."""
    return None if tta is None else 1 + tta


Device = Annotated[str, typer.Option(metavar="NAME", help="Where the network runs: auto, cuda, mps or cpu.")]
Weights = Annotated[
    str | None,
    typer.Option(metavar="NAME|FILE", help="A bundled model (see `drhn weights`) or a weights file."),
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Threads that decode pictures.  [default: one for each processor]"),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")]
Tta = Annotated[
    bool | None,
    typer.Option(
        "--tta/--no-tta",
        help="Average the activations of two views of each picture, one of them mirrored, or not.  "
        "[default: as the weights say]",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary; errors are still reported.")]
Null = Annotated[
    bool,
    typer.Option("--null", "-0", help="Paths end with NUL instead of a newline, in the list read and in the output."),
]
Codes = Annotated[str, typer.Argument(metavar="CODES", help="The code file.", callback=_refuse_table)]
Under = Annotated[list[str] | None, typer.Option(metavar="DIR", help="Only pictures in this folder. Repeatable.")]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB",
        help="Skip files and folders of this name or, with a /, of this path below the source or root. Repeatable.",
    ),
]
FilesFrom = Annotated[
    str | None, typer.Option(metavar="FILE|-", help="Read paths from a file or stdin, one a line (NUL-ended with -0).")
]
DataDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Where torchvision keeps CIFAR-10.  [default: data]")]
Download = Annotated[bool, typer.Option("--download", help="Fetch CIFAR-10 if it is not there.")]


def read_files_from(source: str | None, *, null: bool) -> Iterator[bytes]:
    """Yield the paths in a file, in stdin if it is ``-``, or none if it is None."""
    if source is None:
        return
    from drhn_cli.images.find import read_path_list

    if source == "-":
        yield from read_path_list(sys.stdin.buffer, null=null)
        return
    try:
        with open(source, "rb") as stream:
            yield from read_path_list(stream, null=null)
    except OSError as error:
        raise DrhnError("cannot read the list of files", path=source, found=error.strerror or str(error)) from error
