"""``drhn index``."""

from __future__ import annotations

from dataclasses import asdict

from drhn_cli.cli import options
from drhn_cli.cli.render import counted, flush, report, write_json
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

    summary = index_codes(codes)
    if json:
        write_json({**asdict(summary), "seconds": round(summary.seconds, 3)})
    elif not quiet:
        told = f"{len(summary.widths)} tables of {summary.n_distinct:,} entries, {summary.n_bytes:,} bytes"
        report(
            f"{display_path(codes)}: index of {counted(summary.n_items, 'code')} ({told}) in {summary.seconds:.1f} s"
        )
    flush()
