"""``drhn export``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Literal

import typer

from drhn_cli.cli import options
from drhn_cli.cli.output import counted, path_form, report, shown_path, write_bytes, write_json
from drhn_cli.errors import ConfigError, printable


def export(
    codes: options.Codes,
    *,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE|-", help="The file to make; - is stdout, for text.")
    ] = "-",
    form: Annotated[
        Literal["npy", "tsv", "ndjson", "parquet"] | None,
        typer.Option("--format", help="What to write.  [default: the file's suffix; tsv on stdout]"),
    ] = None,
    null: options.Null = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write codes and paths in formats that other programs read.

    drhn export codes.bin -o codes.parquet

    drhn export codes.bin --format ndjson | jq -r .path

    Rows are in the order of paths. tsv has code, size, time in ns and path; ndjson and parquet have the same; npy has
    the packed codes alone, for numpy and faiss.
    """
    from drhn_cli.codes.reader import CodeFile
    from drhn_cli.collection.export import FORMATS, TEXT_FORMATS, export_file, export_rows

    to_stdout = output == "-"
    chosen = form or _default_format(output, json=json)
    known: Sequence[str] = FORMATS
    if to_stdout:
        known = ["ndjson"] if json else TEXT_FORMATS
    if chosen not in known:
        raise ConfigError(
            "no such format for stdout" if to_stdout else "no such format",
            expected=" or ".join(known),
            found=printable(chosen) or "no suffix",
            hint="write to a file with -o" if chosen in FORMATS else "choose one with --format",
        )
    end = b"\0" if null else b"\n"
    with CodeFile.open(codes) as file:
        if to_stdout:
            for row in export_rows(file, chosen, show_path=path_form(end) if chosen == "tsv" else shown_path, end=end):
                write_bytes(row)
            return
        export_file(file, output, chosen, show_path=shown_path, end=end)
        if json:
            write_json({"n_items": file.n_items, "format": chosen})
        elif not quiet:
            report(f"{printable(output)}: {counted(file.n_items, 'code')}")


def _default_format(output: str, *, json: bool) -> str:
    if output == "-":
        return "ndjson" if json else "tsv"
    return os.path.splitext(output)[1].removeprefix(".").lower()
