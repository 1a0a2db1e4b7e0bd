"""``drhn info``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from drhn_cli.cli import options
from drhn_cli.cli.output import format_number, write_bytes, write_json
from drhn_cli.errors import printable

_LONGEST = 240  # characters of a line with several entries


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
    from drhn_cli.cli.describe import describe_file

    description = describe_file(file, verify=verify)
    if json:
        write_json(description)
    else:
        for line in _lines(description):
            write_bytes(f"{line}\n".encode("utf-8", "backslashreplace"))


def _lines(description: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Yield a line for each entry, and an indented one for each entry of what would make too long a line."""
    for name, value in description.items():
        line = f"{indent}{name}: {_on_one_line(value)}"
        if isinstance(value, Mapping) and len(line) > _LONGEST:
            yield f"{indent}{name}:"
            yield from _lines(value, f"{indent}  ")
        else:
            yield line


def _on_one_line(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_on_one_line(inner)}" for name, inner in value.items()) or "-"
    if isinstance(value, list | tuple):
        return " ".join(_on_one_line(inner) for inner in value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return format_number(None) if value is None else printable(str(value))
