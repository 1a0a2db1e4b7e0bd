"""Which code files a table holds."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from drhn_cli.clickhouse.connection import Connection
from drhn_cli.clickhouse.rows import pack_string
from drhn_cli.clickhouse.schema import FILE_COLUMNS, LIVE, Schema
from drhn_cli.codes.layout import FORMAT_VERSION
from drhn_cli.codes.manifest import CodeManifest


@dataclass(frozen=True, kw_only=True)
class PushedFile:
    """One push of a code file.

    Attributes:
        name: what tells the file from others of the table.
        generation: the number of the push, which follows from name and content.
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


class PushedFiles:
    """The table of code files, as it is read and written."""

    def __init__(self, connection: Connection, schema: Schema) -> None:
        self._connection = connection
        self._schema = schema

    def read(self) -> list[PushedFile]:
        """Return all pushes, the latest state of each."""
        rows = self._connection.query(f"SELECT {', '.join(FILE_COLUMNS)} FROM {self._schema.files} FINAL")  # noqa: S608
        return [
            PushedFile(
                name=name,
                generation=generation,
                state=state,
                version=version,
                n_items=n_items,
                manifest=CodeManifest.from_json(manifest)[0],
            )
            for name, generation, state, version, n_items, manifest in rows
        ]

    def write(self, file: PushedFile) -> None:
        """Set the state of a push."""
        manifest = file.manifest.to_json(n_items=file.n_items, format_version=FORMAT_VERSION)
        row = (
            pack_string(file.name)
            + struct.pack("<Q", file.generation)
            + pack_string(file.state)
            + struct.pack("<QQ", file.version, file.n_items)
            + pack_string(manifest)
        )
        self._connection.insert(self._schema.files, FILE_COLUMNS, row, {})


def live_files(pushed: Sequence[PushedFile]) -> list[PushedFile]:
    """Return the push of each name that became live last, in the order of names."""
    latest: dict[bytes, PushedFile] = {}
    for file in sorted(pushed, key=lambda file: (file.version, file.generation)):
        if file.state == LIVE:
            latest[file.name] = file
    return [latest[name] for name in sorted(latest)]
