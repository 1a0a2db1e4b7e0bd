"""``drhn info``."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from drhn_cli.cli import options
from drhn_cli.cli.output import format_number, write_bytes, write_json
from drhn_cli.errors import DrhnError, printable
from drhn_cli.files import os_errors

_LONGEST = 240  # characters of a line with several entries


def info(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A code file, a weights file, or a table's URL.")],
    *,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Check every byte of a code file against its checksum; count a table's rows."),
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,  # noqa: ARG001 - there is nothing to leave out
) -> None:
    """Say what a code file, a weights file or a table is.

    drhn info codes.bin --verify
    """
    description = _describe(file, verify=verify)
    if json:
        write_json(description)
    else:
        for line in _lines(description):
            write_bytes(f"{line}\n".encode("utf-8", "backslashreplace"))


def _describe(path: str, *, verify: bool) -> dict[str, Any]:
    """Return what a code file, a weights file or a table says of itself."""
    from drhn_cli.clickhouse.url import is_table

    if is_table(path):
        from drhn_cli.clickhouse.table import CodeTable

        with CodeTable.open(path) as table:
            if verify:
                table.verify()
            return {**table.describe(), "verified": verify}
    if _is_zip(path):
        from drhn_cli.network.model import load_model

        return load_model(Path(path)).describe()
    from drhn_cli.codes.reader import CodeFile

    with CodeFile.open(path) as file:
        if verify:
            file.verify()
        return {**file.describe(), "verified": verify}


def _is_zip(path: str) -> bool:
    """Tell whether a file begins as weights files do."""
    with os_errors(DrhnError, "cannot read the file", path=path, hint="check the path"):
        # Only a regular file is opened: opening a pipe would wait for its writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as stream:
            return stream.read(2) == b"PK"


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
