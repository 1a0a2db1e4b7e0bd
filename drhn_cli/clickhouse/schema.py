"""The two tables: one of codes, and one of the code files that they came from.

A push of a code file is a generation: a number, derived from its name and content, and a partition of rows. The table
of files records which generation of each file is live. So readers see a push only when its last row has arrived, and
the rows that it replaces are dropped as a partition.

Rows are inserted in the RowBinary format, https://clickhouse.com/docs/interfaces/formats/RowBinary: fixed-width
numbers, little-endian, and strings after their length.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from drhn_cli.clickhouse.connection import Connection
from drhn_cli.codes.entries import Entries
from drhn_cli.codes.layout import FORMAT_VERSION
from drhn_cli.codes.manifest import CodeManifest
from drhn_cli.codes.pack import code_size
from drhn_cli.errors import TableError

ROW_COLUMNS = ("generation", "id", "code", "path", "size", "mtime_ns", "inode")
FILE_COLUMNS = ("name", "generation", "state", "version", "n_items", "manifest")
LOADING, LIVE, DROPPED = b"loading", b"live", b"dropped"

# The window is how many inserted blocks are recognized when they are sent again. Replicated tables have one by default.
_ROWS = """\
CREATE TABLE IF NOT EXISTS {name} (
    generation UInt64,
    id UInt64 CODEC(Delta, LZ4),
    code FixedString({n_bytes}) CODEC(NONE),
    path String CODEC(ZSTD(1)),
    size UInt64, mtime_ns Int64, inode UInt64,
    INDEX paths path TYPE minmax GRANULARITY 1
) ENGINE = ReplacingMergeTree
PARTITION BY generation ORDER BY (generation, id)
SETTINGS non_replicated_deduplication_window = 10000"""
_FILES = """\
CREATE TABLE IF NOT EXISTS {name} (
    name String, generation UInt64, state String, version UInt64, n_items UInt64, manifest String
) ENGINE = ReplacingMergeTree(version)
ORDER BY (name, generation)"""
_DISTRIBUTED = re.compile(r"Distributed\('([^']+)', '([^']*)', '([^']+)'")


def quote_table(database: str, table: str) -> str:
    """Return a table's name for a statement. ``TableAddress`` allows no names that need escaping."""
    return f"`{database}`.`{table}`"


def quote_bytes(value: bytes) -> str:
    """Return bytes as an expression for a statement."""
    return f"unhex('{value.hex()}')"


@dataclass(frozen=True)
class PushedFile:
    """One push of a code file, as a row of ``FILE_COLUMNS``.

    Attributes:
        name: of the file, unique in the table.
        generation: the number of the push, derived from name and content.
        state: ``LOADING``, ``LIVE`` or ``DROPPED``.
        version: counts the changes of state in the table.
        n_items: codes of the file.
        manifest: of the file.
    """

    name: bytes
    generation: int
    state: bytes
    version: int
    n_items: int
    manifest: CodeManifest

    @property
    def prefix(self) -> bytes:
        """What all absolute paths of the file begin with: its root, with a slash at the end."""
        return os.path.join(os.fsencode(self.manifest.root), b"")


def live_files(pushed: Sequence[PushedFile]) -> list[PushedFile]:
    """Return the push of each name that became live last, sorted by name."""
    in_order = sorted(pushed, key=lambda file: (file.version, file.generation))
    latest = {file.name: file for file in in_order if file.state == LIVE}
    return [latest[name] for name in sorted(latest)]


class Schema:
    """The two tables: creates them, and refuses other tables with their names. Errors do not name the address.

    Attributes:
        rows, files: the tables' names for statements.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        address = connection.address
        self._database, self._table = address.database, address.table
        self.rows = quote_table(address.database, address.table)
        self.files = quote_table(address.database, f"{address.table}_files")

    def exists(self) -> bool:
        """Return whether there are the two tables. Only one, or tables with other columns, are a ``TableError``."""
        rows, files = self._columns(self._table), self._columns(f"{self._table}_files")
        if not rows and not files:
            return False
        fits = tuple(rows) == ROW_COLUMNS and tuple(files) == FILE_COLUMNS
        if not fits or not rows["code"].startswith("FixedString("):
            expected = f"columns {' '.join(ROW_COLUMNS)}, and beside it {self._table}_files"
            found, hint = (
                " ".join(rows) or "the table of files alone",
                "name another table, or drop both and push again",
            )
            raise TableError("not a table of codes", expected=expected, found=found, hint=hint)
        return True

    def create(self, n_bits: int) -> None:
        """Create the tables if they are missing. A table for codes of another length is a ``TableError``."""
        if not self.exists():
            self.connection.command(_ROWS.format(name=self.rows, n_bytes=code_size(n_bits)))
            self.connection.command(_FILES.format(name=self.files))
            self.exists()
        found, expected = self._columns(self._table)["code"], f"FixedString({code_size(n_bits)})"
        if found != expected:
            raise TableError("the table is for codes of another length", expected=expected, found=found)

    def read_files(self) -> list[PushedFile]:
        """Return all pushes, each with its latest state."""
        rows = self.connection.query(f"SELECT {', '.join(FILE_COLUMNS)} FROM {self.files} FINAL")
        return [
            PushedFile(name, generation, state, version, n_items, CodeManifest.from_json(manifest)[0])
            for name, generation, state, version, n_items, manifest in rows
        ]

    def write_file(self, file: PushedFile) -> None:
        """Set the state of a push."""
        manifest = file.manifest.to_json(n_items=file.n_items, format_version=FORMAT_VERSION)
        row = pack_string(file.name) + struct.pack("<Q", file.generation) + pack_string(file.state)
        row += struct.pack("<QQ", file.version, file.n_items) + pack_string(manifest)
        self.connection.insert(self.files, FILE_COLUMNS, row, {})

    def count_rows(self, group: str, where: str) -> dict[int, int]:
        """Return how many rows there are for each value of an expression."""
        statement = f"SELECT {group} AS value, count() FROM {self.rows} WHERE {where} GROUP BY value"
        return {int(value): int(count) for value, count in self.connection.query(statement)}

    def drop_generation(self, generation: int) -> None:
        """Drop the rows of a push, on all shards of a Distributed table."""
        statement = f"SELECT engine_full FROM system.tables WHERE {self._where(self._table, 'name')}"
        ((engine,),) = self.connection.query(statement)
        where = self.rows
        if distributed := _DISTRIBUTED.match(engine.decode()):
            cluster, database, table = distributed.groups()
            where = f"{quote_table(database or self._database, table)} ON CLUSTER '{cluster}'"
        self.connection.command(f"ALTER TABLE {where} DROP PARTITION ID '{generation}'")

    def _columns(self, table: str) -> dict[str, str]:
        """Return the types of a table's columns, none if there is no table."""
        statement = f"SELECT name, type FROM system.columns WHERE {self._where(table, 'table')} ORDER BY position"
        return {name.decode(): kind.decode() for name, kind in self.connection.query(statement)}

    def _where(self, table: str, column: str) -> str:
        return f"database = '{self._database}' AND {column} = '{table}'"


def pack_string(value: bytes) -> bytes:
    """Return a String: its length as LEB128, and its bytes."""
    length, rest = bytearray(), len(value)
    while rest > 0x7F:
        length.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*length, rest]) + value


def pack_rows(generation: int, first_id: int, codes: NDArray[np.uint8], entries: Entries) -> bytes:
    """Return n rows of ``ROW_COLUMNS``, with ids from ``first_id`` on, of (n, code_size) codes and n entries."""
    n, size = codes.shape
    ids = np.stack([np.full(n, generation, "<u8"), np.arange(first_id, first_id + n, dtype="<u8")], axis=1)
    heads = np.concatenate([ids.view(np.uint8), codes], axis=1)  # (n, 16 + size)
    stamps = np.stack([entries.stamps[name].view("<u8") for name in ROW_COLUMNS[-3:]], axis=1)  # (n, 3)
    # Void items become bytes in a list.
    columns = heads.view(f"V{16 + size}")[:, 0].tolist(), stamps.view("V24")[:, 0].tolist()
    rows = zip(columns[0], map(pack_string, entries.paths()), columns[1], strict=True)
    return b"".join(chain.from_iterable(rows))
