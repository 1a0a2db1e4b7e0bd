"""``drhn hash``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from drhn_cli.cli import options
from drhn_cli.cli.app import ExitStatus, saving_on_sigterm
from drhn_cli.cli.output import (
    TerminalProgress,
    counted,
    discard,
    report,
    shown_path,
    write_json,
)
from drhn_cli.errors import DrhnError, printable


class _JsonProgress(TerminalProgress):
    """Tells of failures on stdout, too."""

    def failure(self, error: DrhnError) -> None:
        super().failure(error)
        path = None if error.path is None else os.fsdecode(shown_path(os.fsencode(error.path)))
        try:
            write_json({"path": path, "error": error.reason, "failed": True})
        except BrokenPipeError:  # whoever reads no further still wants the pictures hashed
            discard(sys.stdout)


def hash_(
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="SOURCE...", help="Folders, files, tar archives.")
    ] = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="CODES", help="The code file to make or update.")],
    weights: options.Weights = None,
    bits: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Length of the codes.  [default: the code file's, or the network's longest]"
        ),
    ] = None,
    tta: options.Tta = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Hash everything again and drop what the code file has.")
    ] = False,
    keep_missing: Annotated[
        bool, typer.Option("--keep-missing", help="Keep the codes of files that are gone.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Hash the I-th of N parts of the pictures, into CODES-I-of-N; see merge."),
    ] = None,
    root: Annotated[
        str | None, typer.Option(metavar="DIR", help="The folder that the code file's root has been moved to.")
    ] = None,
    files_from: options.FilesFrom = None,
    null: options.Null = False,
    exclude: options.Exclude = None,
    hidden: Annotated[bool, typer.Option("--hidden", help="Include names that begin with a dot.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Follow symbolic links.")] = False,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Refuse pictures with more pixels.  [default: 300000000]")
    ] = None,
    device: options.Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1, max=65536, metavar="N", help="Pictures at a time.")] = 256,
    workers: options.Workers = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with status 2 if a file could not be hashed.")] = False,
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
    from drhn_cli.collection.shard import choose_shard
    from drhn_cli.collection.update import HashOptions, hash_pictures
    from drhn_cli.images.decode import MAX_PIXELS

    part = choose_shard(shard, os.environ)
    if part is not None:
        output = part.path_of(output)
        if part.told_by and not quiet:
            report(f"part {part.number} of {part.count}, as {part.told_by} has it; --shard 1/1 hashes all pictures")
    hash_options = HashOptions(
        weights=weights,
        n_bits=bits,
        views=options.n_views(tta),
        rebuild=rebuild,
        keep_missing=keep_missing,
        shard=part,
        root=root,
        exclude=exclude or (),
        hidden=hidden,
        follow=follow,
        device=device,
        batch_size=batch_size,
        workers=workers,
        max_pixels=max_pixels or MAX_PIXELS,
    )
    all_sources: list[str | bytes] = [*(sources or ()), *options.read_files_from(files_from, null=null)]
    if not all_sources:
        raise DrhnError("nothing to hash", hint="name a folder or file, or a list of them with --files-from")

    shares_terminal = part is not None and part.told_by is not None  # with other processes of torchrun

    def resume_hint(phase: str) -> str:
        if phase != "hashing":
            return "nothing was changed"
        again = "run it again without --rebuild" if rebuild else "run the same command again"
        return f"what was hashed is kept: {again} to go on"

    kind = _JsonProgress if json else TerminalProgress
    with saving_on_sigterm(), kind(quiet=quiet, bar=not shares_terminal, resume_hint=resume_hint) as progress:
        summary = hash_pictures(all_sources, output, hash_options, progress)
    n_failed = progress.n_failed
    counts = {name: getattr(summary, name) for name in ("added", "changed", "unchanged", "moved", "removed", "kept")}
    if json:
        write_json({**counts, "failed": n_failed, "total": summary.n_items, "seconds": round(summary.seconds, 3)})
    elif not quiet:
        told = ", ".join(f"{count:,} {name}" for name, count in {**counts, "failed": n_failed}.items() if count)
        n_pictures = counted(summary.n_items, "picture")
        report(f"{printable(output)}: {n_pictures} ({told or 'none'}) in {summary.seconds:.1f} s")
        if not told and part is None:
            report("no pictures: names with a dot in front need --hidden, links --follow, other suffixes to be named")
    return ExitStatus.ERROR if strict and n_failed else ExitStatus.DONE
