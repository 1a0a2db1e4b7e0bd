"""The shell script of ``drhn dups --script``, which a person reads before it removes anything."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING

from drhn_cli.cli import output as out
from drhn_cli.errors import DrhnError, printable
from drhn_cli.files import atomic_write, os_errors, refuse_overwrite

if TYPE_CHECKING:
    from drhn_cli.retrieval.copies import Copy

_SIGNATURE = "#!/bin/sh\n# Removes copies of pictures. Written by drhn dups"


def write_script(path: str, groups: Sequence[Sequence[Copy]]) -> None:
    """Write a script that removes the files of some groups that may go.

    A file is removed only while the one that is kept is still there.

    Raises:
        DrhnError: another file has this name, or it cannot be written.
    """
    refuse_overwrite(path, "script", lambda head: head.startswith(_SIGNATURE.encode()))
    text = "\n".join([*_head(path, groups), *(line for group in groups for line in _lines(group))])
    with os_errors(DrhnError, "cannot write the script", path=path), atomic_write(path) as stream:
        stream.write(os.fsencode(text) + b"\n")


def _head(path: str, groups: Sequence[Sequence[Copy]]) -> Iterator[str]:
    sizes = [copy.picture.entry.stamp.size for group in groups for copy in group if copy.may_go]
    today = date.today().isoformat()
    yield f"{_SIGNATURE} on {today}: {out.counted(len(sizes), 'file')}, {out.format_bytes(sum(sizes))}."
    yield f"# Read it, delete the lines of files that shall stay, then run: sh {printable(shlex.quote(path))}"


def _lines(group: Sequence[Copy]) -> Iterator[str]:
    going = [(copy.picture, copy.verdict) for copy in group if copy.may_go and copy.verdict is not None]
    if not going:
        return
    kept = group[0].picture
    yield ""
    yield f"# keep {printable(kept.path)} ({kept.entry.width}x{kept.entry.height})"
    for picture, verdict in going:
        yield f"# {verdict.words} ({picture.entry.width}x{picture.entry.height}):"
        for path in (picture.path, *picture.aliases):
            yield f"test -f {_quoted(kept.path)} && rm -- {_quoted(path)}"


def _quoted(path: bytes) -> str:
    return shlex.quote(os.fsdecode(path))
