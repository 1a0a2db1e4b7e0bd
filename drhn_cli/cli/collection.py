"""The commands that make and read code files: hash, merge, export, import, push and info."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option

from drhn_cli.cli import options
from drhn_cli.cli import output as out
from drhn_cli.cli.app import ExitStatus, saving_on_sigterm
from drhn_cli.errors import ConfigError, DrhnError, printable
from drhn_cli.files import os_errors


def hash_(
    sources: Annotated[list[str] | None, Argument(metavar="SOURCE...", help="Folders, files, tar archives.")] = None,
    *,
    output: Annotated[Path, Option("--output", "-o", metavar="CODES", help="The code file to make or update.")],
    weights: options.Weights = None,
    bits: Annotated[
        int | None,
        Option(min=1, metavar="N", help="Length of the codes.  [default: the code file's, or the network's longest]"),
    ] = None,
    tta: options.Tta = None,
    rebuild: Annotated[
        bool, Option("--rebuild", help="Hash everything again and drop what the code file has.")
    ] = False,
    keep_missing: Annotated[bool, Option("--keep-missing", help="Keep the codes of files that are gone.")] = False,
    later: Annotated[
        bool, Option("--later", help="Do not read unchanged pictures again for what an older code file does not note.")
    ] = False,
    shard: Annotated[
        str | None,
        Option(metavar="I/N", help="Hash the I-th of N parts of the pictures, into CODES-I-of-N; see merge."),
    ] = None,
    root: Annotated[
        str | None, Option(metavar="DIR", help="The folder that the code file's root has been moved to.")
    ] = None,
    files_from: options.FilesFrom = None,
    null: options.Null = False,
    exclude: options.Exclude = None,
    hidden: Annotated[bool, Option("--hidden", help="Include names that begin with a dot.")] = False,
    follow: Annotated[bool, Option("--follow", help="Follow symbolic links.")] = False,
    max_pixels: Annotated[
        int | None, Option(min=1, metavar="N", help="Refuse pictures with more pixels.  [default: 300000000]")
    ] = None,
    device: options.Device = "auto",
    batch_size: Annotated[int, Option(min=1, max=65536, metavar="N", help="Pictures at a time.")] = 256,
    workers: options.Workers = None,
    strict: Annotated[bool, Option("--strict", help="Exit with status 2 if a file could not be hashed.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Hash pictures into a code file.

    drhn hash ./photos -o codes.bin

    find . -name '*.jpg' -print0 | drhn hash -0 --files-from - -o codes.bin

    drhn hash photos-{000..099}.tar -o codes.bin

    Run it again to bring the file up to date: unchanged pictures are not decoded again, deleted ones are dropped,
    and nothing is dropped below a source that cannot be read. Pictures that a list of files does not name are kept;
    --rebuild drops them. A run that is stopped resumes where it was.
    """
    from drhn_cli.collection.plan import HashOptions
    from drhn_cli.collection.sources import choose_shard
    from drhn_cli.collection.update import update_collection

    part, starter = choose_shard(shard, os.environ)
    if part is not None:
        output = part.path_of(output)
        if starter and not quiet:
            out.report(f"part {part.number} of {part.count}, as {starter} has it; --shard 1/1 hashes all pictures")
    given = {**locals(), "n_bits": bits, "views": options.n_views(tta), "shard": part, "exclude": exclude or ()}
    all_sources: list[str | bytes] = [*(sources or ()), *options.read_files_from(files_from, null=null)]
    if not all_sources:
        raise DrhnError("nothing to hash", hint="name a folder or file, or a list of them with --files-from")
    again = "run it again without --rebuild" if rebuild else "run the same command again"
    hints = {"hashing": f"what was hashed is kept: {again} to go on"}
    progress = out.TerminalProgress(
        quiet=quiet,
        json=json,
        bar=starter is None,  # processes of torchrun share the terminal
        resume_hint=lambda phase: hints.get(phase, "nothing was changed"),
    )
    with saving_on_sigterm(), progress:
        summary = update_collection(all_sources, output, options.collect(HashOptions, given), progress)
    counts = {name: getattr(summary, name) for name in ("added", "changed", "unchanged", "moved", "removed", "kept")}
    counts["failed"] = progress.n_failed
    changes = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    hashed = f"{out.counted(summary.n_items, 'picture')} ({changes or 'none'})"
    line = f"{printable(output)}: {hashed} in {summary.seconds:.1f} s"
    out.write_summary({**counts, "total": summary.n_items, "seconds": summary.seconds}, line, json=json, quiet=quiet)
    if not (changes or part or json or quiet):
        out.report("no pictures: names with a dot in front need --hidden, links --follow, other suffixes to be named")
    return ExitStatus.ERROR if strict and progress.n_failed else ExitStatus.DONE


def merge(
    parts: Annotated[list[str], Argument(metavar="PART...", help="Code files that have no picture in common.")],
    *,
    output: Annotated[Path, Option("--output", "-o", metavar="CODES", help="The code file to make.")],
    partial: Annotated[bool, Option("--partial", help="Accept missing or unfinished parts of a hash --shard.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Join code files of one model into one.

    drhn merge part-*.bin -o codes.bin

    The result is that of hashing all their pictures at once, but for a bit in millions. A picture that two parts
    hold is an error.
    """
    from drhn_cli.collection.merge import merge_codes

    summary = merge_codes(parts, output, partial=partial, progress=out.TerminalProgress(quiet=quiet))
    merged = f"{out.counted(summary.n_items, 'picture')} of {out.counted(summary.n_parts, 'code file')}"
    line = f"{printable(output)}: {merged} in {summary.seconds:.1f} s"
    out.write_summary(vars(summary), line, json=json, quiet=quiet)


def export(
    codes: options.Codes,
    *,
    output: Annotated[
        str, Option("--output", "-o", metavar="FILE|-", help="The file to make; - is stdout, for text.")
    ] = "-",
    form: Annotated[
        Literal["npy", "npz", "tsv", "ndjson", "parquet"] | None,
        Option("--format", help="What to write.  [default: the file's suffix; tsv on stdout]"),
    ] = None,
    null: options.Null = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write codes and paths in formats that other programs read.

    drhn export codes.bin -o codes.parquet

    drhn export codes.bin --format ndjson | jq -r .path

    Rows are in the order of paths. tsv has code, size, time in ns and path; ndjson and parquet have the same; npy has
    the packed codes alone, for numpy and faiss; npz has codes, copy codes, paths, width and height as arrays.
    """
    from drhn_cli.codes.reader import CodeFile
    from drhn_cli.collection.exchange import FORMATS, TEXT_FORMATS, export_file, export_rows

    to_stdout = output == "-"
    known: Sequence[str] = FORMATS
    if to_stdout:
        known = ["ndjson"] if json else TEXT_FORMATS
    chosen = form or (known[0] if to_stdout else os.path.splitext(output)[1].removeprefix(".").lower())
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
            show_path = out.path_form(end) if chosen == "tsv" else out.shown_path
            for row in export_rows(file, chosen, show_path=show_path, end=end):
                out.write_bytes(row)
            return
        export_file(file, output, chosen, show_path=out.shown_path, end=end)
        line = f"{printable(output)}: {out.counted(file.n_items, 'code')}"
        out.write_summary({"n_items": file.n_items, "format": chosen}, line, json=json, quiet=quiet)


def import_(
    array: Annotated[
        str, Argument(metavar="CODES.npy", help="(n, bytes) uint8, packed, or (n, bits) bool, as numpy saves it.")
    ],
    *,
    files_from: Annotated[
        str, Option(metavar="FILE|-", help="Read the path of each code, one a line (NUL-ended with -0).")
    ],
    output: Annotated[str, Option("--output", "-o", metavar="CODES", help="The code file to make or replace.")],
    bits: Annotated[
        int | None, Option(min=1, metavar="N", help="Length of the codes.  [default: all bits of the columns]")
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
    from drhn_cli.collection.exchange import import_codes

    listed = options.read_files_from(files_from, null=null)
    n_items, n_bits = import_codes(array, listed, output, bits, out.TerminalProgress(quiet=quiet))
    line = f"{printable(output)}: {out.counted(n_items, 'code')} of {out.counted(n_bits, 'bit')}"
    out.write_summary({"n_items": n_items, "n_bits": n_bits}, line, json=json, quiet=quiet)


def push(
    codes: options.Codes,
    url: Annotated[str, Argument(metavar="URL", help="The table: clickhouse://user@host/db.table or chdb:DIR.")],
    *,
    name: Annotated[
        str | None, Option(metavar="NAME", help="Name of the code file in the table.  [default: its absolute path]")
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
    with out.TerminalProgress(quiet=quiet, resume_hint=lambda _: hint) as progress:
        summary = push_codes(codes, url, name=name, progress=progress)
    pushed = f"{out.counted(summary.n_items, 'picture')} ({summary.n_sent:,} sent) in {summary.seconds:.1f} s"
    there = f"{out.counted(summary.n_table, 'picture')} of {out.counted(summary.n_files, 'code file')}"
    out.write_summary(vars(summary), f"{url}: {pushed}; the table holds {there}", json=json, quiet=quiet)


def info(
    file: Annotated[str, Argument(metavar="FILE", help="A code file, a weights file, or a table's URL.")],
    *,
    verify: Annotated[
        bool, Option("--verify", help="Check every byte of a code file against its checksum; count a table's rows.")
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,  # noqa: ARG001 - there is nothing to leave out
) -> None:
    """Say what a code file, a weights file or a table is.

    drhn info codes.bin --verify
    """
    write = out.write_json if json else out.write_description
    write(_describe(file, verify=verify))


def _describe(path: str, *, verify: bool) -> dict[str, Any]:
    """Describe a code file, a weights file or a table."""
    from drhn_cli.clickhouse.connection import is_table

    opened: Any
    if is_table(path):
        from drhn_cli.clickhouse.table import CodeTable

        opened = CodeTable.open(path)
    elif _is_zip(path):
        from drhn_cli.network.model import load_model

        return load_model(Path(path)).describe()
    else:
        from drhn_cli.codes.reader import CodeFile

        opened = CodeFile.open(path)
    with opened as codes:
        if verify:
            codes.verify()
        return {**codes.describe(), "verified": verify}


def _is_zip(path: str) -> bool:
    """Return whether a file is a zip archive, as weights files are."""
    with os_errors(DrhnError, "cannot read the file", path=path, hint="check the path"):
        # Only a regular file is opened: opening a pipe would wait for its writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as stream:
            return stream.read(2) == b"PK"
