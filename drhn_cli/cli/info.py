"""``drhn info``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from drhn_cli.cli import options
from drhn_cli.cli.render import format_number, write_bytes, write_json
from drhn_cli.errors import display_path


def info(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A code file, a weights file, or a table's URL.")],
    *,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Check every byte of a code file against its checksum; count a table's rows."),
    ] = False,
    json: options.Json = False,
) -> None:
    """Say what a code file, a weights file or a table is.

    drhn info codes.bin --verify
    """
    from drhn_cli.jobs.describe import describe_file

    description = describe_file(file, verify=verify)
    if json:
        write_json(description)
    else:
        for name, value in description.items():
            write_bytes(f"{name}: {_on_one_line(value)}\n".encode("utf-8", "backslashreplace"))


def _on_one_line(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_on_one_line(inner)}" for name, inner in value.items()) or "-"
    if isinstance(value, list | tuple):
        return " ".join(_on_one_line(inner) for inner in value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return format_number(None) if value is None else display_path(str(value))
