"""``drhn index``."""

from __future__ import annotations

from dataclasses import asdict

from drhn_cli.cli import options
from drhn_cli.cli.render import flush, report, write_json
from drhn_cli.errors import display_path


def index(
    codes: options.Codes,
    *,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Add an index to a code file, so that queries look at few of its codes.

    drhn index codes.bin

    Answers stay the same. Worth it from some millions of pictures on. `drhn hash` drops the index when it changes the
    file; run this again afterwards.
    """
    from drhn_cli.jobs.index import index_codes

    summary = index_codes(codes)
    if json:
        write_json({**asdict(summary), "seconds": round(summary.seconds, 3)})
    elif not quiet:
        told = f"{summary.n_distinct} entries in {len(summary.widths)} tables, {summary.n_bytes / 1e6:.1f} MB"
        report(f"{display_path(codes)}: index of {summary.n_items} codes ({told}) in {summary.seconds:.1f} s")
    flush()
