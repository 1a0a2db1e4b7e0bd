"""The two tables: one of codes, and beside it one of the code files that they came from.

A push of a code file is a generation: a number that follows from its name and content, and a partition of its rows. The
table of files says which generation of each file is live. So a push shows at once and whole, when its last row is in,
and what it replaces is dropped as a partition, without a trace in the other rows.
"""

from __future__ import annotations

import re

from drhn_cli.clickhouse.connection import Connection
from drhn_cli.codes.pack import code_size
from drhn_cli.errors import TableError

ROW_COLUMNS = ("generation", "id", "code", "path", "size", "mtime_ns", "inode")
FILE_COLUMNS = ("name", "generation", "state", "version", "n_items", "manifest")
LOADING, LIVE, DROPPED = b"loading", b"live", b"dropped"

# Blocks that were inserted already are known again, as replicated tables know them by default.
_KNOWN_BLOCKS = 10_000
_ROWS = """\
CREATE TABLE IF NOT EXISTS {name} (
    generation UInt64,
    id UInt64 CODEC(Delta, LZ4),
    code FixedString({n_bytes}) CODEC(NONE),
    path String CODEC(ZSTD(1)),
    size UInt64,
    mtime_ns Int64,
    inode UInt64,
    INDEX paths path TYPE minmax GRANULARITY 1
) ENGINE = ReplacingMergeTree
PARTITION BY generation ORDER BY (generation, id)
SETTINGS non_replicated_deduplication_window = {known_blocks}"""
_FILES = """\
CREATE TABLE IF NOT EXISTS {name} (
    name String, generation UInt64, state String, version UInt64, n_items UInt64, manifest String
) ENGINE = ReplacingMergeTree(version)
ORDER BY (name, generation)"""
_DISTRIBUTED = re.compile(r"Distributed\('([^']+)', '([^']*)', '([^']+)'")


def quote_table(database: str, table: str) -> str:
    """Return the name of a table as a statement has it; addresses have only names that need no more."""
    return f"`{database}`.`{table}`"


def quote_bytes(value: bytes) -> str:
    """Return bytes as an expression of a statement."""
    return f"unhex('{value.hex()}')"


class Schema:
    """Names the tables, makes them where they are missing, and refuses others in their places.

    Attributes:
        rows, files: the tables' names for statements.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        address = connection.address
        self._path = str(address)
        self._database, self._table = address.database, address.table
        self.rows = quote_table(address.database, address.table)
        self.files = quote_table(address.database, f"{address.table}_files")

    def exists(self) -> bool:
        """Tell whether there is a table of codes with its table of files.

        Raises:
            TableError: only one of the two, or others of their names.
        """
        rows, files = self._columns(self._table), self._columns(f"{self._table}_files")
        if not rows and not files:
            return False
        fits = tuple(rows) == ROW_COLUMNS and tuple(files) == FILE_COLUMNS
        if not fits or not rows["code"].startswith("FixedString("):
            raise TableError(
                "not a table of codes",
                path=self._path,
                expected=f"columns {' '.join(ROW_COLUMNS)}, and beside it {self._table}_files",
                found=" ".join(rows) or "the table of files alone",
                hint="name another table, or drop both and push again",
            )
        return True

    def create(self, n_bits: int) -> None:
        """Make the tables where they are missing.

        Raises:
            TableError: there are others of their names, or codes of another length.
        """
        if not self.exists():
            n_bytes = code_size(n_bits)
            self._connection.command(_ROWS.format(name=self.rows, n_bytes=n_bytes, known_blocks=_KNOWN_BLOCKS))
            self._connection.command(_FILES.format(name=self.files))
            self.exists()
        found, expected = self._columns(self._table)["code"], f"FixedString({code_size(n_bits)})"
        if found != expected:
            raise TableError(
                "the table is for codes of another length", path=self._path, expected=expected, found=found
            )

    def drop_generation(self, generation: int) -> None:
        """Drop the rows of a push, on all shards where the table is a Distributed one."""
        found = self._connection.query(
            f"SELECT engine_full FROM system.tables WHERE {self._where(self._table, 'name')}"  # noqa: S608
        )
        distributed = _DISTRIBUTED.match(found[0][0].decode()) if found else None
        where = self.rows
        if distributed:
            cluster, database, table = distributed.groups()
            where = f"{quote_table(database or self._database, table)} ON CLUSTER '{cluster}'"
        self._connection.command(f"ALTER TABLE {where} DROP PARTITION ID '{generation}'")

    def _columns(self, table: str) -> dict[str, str]:
        """Return the types of a table's columns; nothing where there is no table."""
        statement = f"SELECT name, type FROM system.columns WHERE {self._where(table, 'table')} ORDER BY position"  # noqa: S608
        return {name.decode(): kind.decode() for name, kind in self._connection.query(statement)}

    def _where(self, table: str, column: str) -> str:
        return f"database = '{self._database}' AND {column} = '{table}'"
