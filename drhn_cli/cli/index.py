"""``drhn index``."""

from __future__ import annotations

from drhn_cli.cli import options
from drhn_cli.cli.output import counted, telling_to_wait, write_summary
from drhn_cli.errors import display_path


def index(
    codes: options.Codes,
    *,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Add an index to a code file, for faster queries.

    drhn index codes.bin

    Answers stay the same, but few of the codes are looked at. Worth it from some millions of pictures on. `drhn hash`
    drops the index when it changes the file; run this again afterwards.
    """
    from drhn_cli.jobs.index import index_codes

    summary = index_codes(codes, on_wait=telling_to_wait(codes, quiet=quiet))
    tables = f"{len(summary.widths)} tables of {summary.n_distinct:,} entries, {summary.n_bytes:,} bytes"
    told = f"{display_path(codes)}: index of {counted(summary.n_items, 'code')} ({tables}) in {summary.seconds:.1f} s"
    write_summary(summary, told, json=json, quiet=quiet)
