"""``drhn compare``."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from drhn_cli.cli import options
from drhn_cli.cli.app import ExitStatus
from drhn_cli.cli.output import write_bytes, write_json
from drhn_cli.errors import ConfigError


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A picture; - is stdin.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another picture; - is stdin.")],
    *,
    max_distance: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="R",
            help="Pictures at most R bits apart are near: exit status 0.  [default: 1 of 64 bits]",
        ),
    ] = None,
    weights: options.Weights = None,
    bits: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Length of the codes.  [default: the network's longest]")
    ] = None,
    tta: options.Tta = None,
    json: options.Json = False,
    quiet: options.Quiet = False,  # noqa: ARG001 - there is nothing to leave out
) -> int:
    """Tell how many bits two pictures are apart.

    drhn compare a.jpg b.jpg --max-distance 4

    if drhn compare old.png new.png >/dev/null; then echo alike; fi

    Prints the distance. The exit status is 0 when the pictures are near, 1 when they are far, 2 when one cannot be
    read.
    """
    from drhn_cli.retrieval.compare import compare_pictures
    from drhn_cli.retrieval.duplicates import near_distance

    if first == second == "-":
        raise ConfigError("both pictures are on stdin", hint="name one of them by its file")
    pictures = [io.BytesIO(sys.stdin.buffer.read()) if path == "-" else path for path in (first, second)]
    found = compare_pictures(pictures[0], pictures[1], weights=weights, n_bits=bits, views=options.n_views(tta))
    near = found.distance <= (near_distance(found.n_bits) if max_distance is None else max_distance)
    if json:
        write_json({"a": first, "b": second, "distance": found.distance, "bits": found.n_bits, "near": near})
    else:
        write_bytes(b"%d\n" % found.distance)
    return ExitStatus.DONE if near else ExitStatus.NOTHING_FOUND
