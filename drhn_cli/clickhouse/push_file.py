"""Load a code file into a table."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from drhn_cli.clickhouse.connection import Connection
from drhn_cli.clickhouse.push import load_codes
from drhn_cli.clickhouse.url import TableAddress
from drhn_cli.codes.reader import CodeFile
from drhn_cli.errors import AnyPath
from drhn_cli.progress import SILENT, Progress


@dataclass(frozen=True, kw_only=True)
class PushSummary:
    """What was pushed.

    Attributes:
        name: what tells the code file from others of the table, bytes that are not UTF-8 as surrogates.
        n_items: codes of the file.
        n_sent: rows that were sent; the others were there.
        n_files: code files in the table now.
        n_table: codes in the table now.
        seconds: wall-clock time.
    """

    name: str
    n_items: int
    n_sent: int
    n_files: int
    n_table: int
    seconds: float


def push_codes(
    codes_path: AnyPath,
    url: str,
    *,
    name: str | None = None,
    progress: Progress = SILENT,
) -> PushSummary:
    """Make a table hold a code file, in the place of what was pushed under the same name before.

    Args:
        codes_path: the code file.
        url: of the table, which is made where there is none.
        name: what tells the code file from others of the table. None: its absolute path.
        progress: is told of the rows that are there ("pushing").

    Raises:
        CodeFileError: the code file cannot be read, or is damaged.
        ConfigError: not a table's URL, or packages are missing.
        TableError: the table does not answer, is foreign, or holds codes of another model.
    """
    clock = time.monotonic()
    address = TableAddress.parse(url)
    name = os.path.abspath(os.fsdecode(codes_path)) if name is None else name
    with CodeFile.open(codes_path) as file:
        # Codes that are taken over lose their checksum.
        file.verify(index=False)
        with Connection(address, may_create=True) as connection:
            loaded = load_codes(file, connection, os.fsencode(name), progress)
        return PushSummary(
            name=name,
            n_items=len(file),
            n_sent=loaded.n_sent,
            n_files=loaded.n_files,
            n_table=loaded.n_table,
            seconds=time.monotonic() - clock,
        )
