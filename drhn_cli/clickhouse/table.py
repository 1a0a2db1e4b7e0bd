"""Search in a table of codes.

A query takes two statements. The first counts the codes at each distance, which gives the smallest radius with enough
of them, and shows whether all rows are there; the second fetches the rows within it, in order. So only results are
fetched, and ties are cut as in a code file.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from drhn_cli.clickhouse.connection import PUSH_HINT, Connection, TableAddress
from drhn_cli.clickhouse.schema import PushedFile, Schema, live_files, quote_bytes
from drhn_cli.codes.entries import Entry
from drhn_cli.errors import AnyPath, DrhnError, TableError, about, printable
from drhn_cli.files import FileStamp
from drhn_cli.paths import absolute_folder, common_folder
from drhn_cli.search.hamming import check_search

_Result = TypeVar("_Result")


class CodeTable:
    """A table of codes, open for reading; see ``CodeTable.open``.

    Attributes:
        path: its URL.
        manifest: of the code files; its root is the deepest folder that all their roots have in common.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._schema = Schema(connection)
        self._rows = self._schema.rows
        self.path = str(connection.address)
        self._files: list[PushedFile] = []
        self._read_files()
        roots = [os.fsencode(file.manifest.root) for file in self._files]
        problem, found = "the code files of the table have no folder in common", ", ".join(map(printable, roots))
        hint = "push the code files of each drive to a table of their own"
        apart = TableError(problem, path=self.path, found=found, hint=hint)
        self.manifest = replace(self._files[0].manifest, root=os.fsdecode(common_folder(roots, apart)))

    @classmethod
    @contextmanager
    def open(cls, url: str) -> Iterator[Self]:
        """Connect to a table.

        Raises:
            ConfigError: not a URL, or packages are missing.
            TableError: no answer, there is no such table, it is empty, or it holds codes of several models.
        """
        with Connection(TableAddress.parse(url)) as connection:
            yield cls(connection)

    def __len__(self) -> int:
        return sum(file.n_items for file in self._files)

    def describe(self) -> dict[str, Any]:
        """Return what ``drhn info`` shows of the table, JSON-ready."""
        files = {os.fsdecode(file.name): file.n_items for file in self._files}
        return {"kind": "table", "n_items": len(self), **self.manifest.describe(), "files": files}

    def verify(self) -> None:
        """Count the rows of each code file.

        Raises:
            TableError: some are missing, or there twice.
        """
        self._retry_after_push(self._verify)

    def find(self, path: bytes) -> tuple[Entry, NDArray[np.uint8]] | None:
        """Return the entry and the code, (code_size,) uint8, of an absolute path; or None."""
        where = " OR ".join(
            f"generation = {file.generation} AND path = {quote_bytes(path[len(file.prefix) :])}"
            for file in self._files
            if path.startswith(file.prefix)
        )
        statement = f"SELECT path, code, size, mtime_ns, inode FROM {self._rows} WHERE {where} ORDER BY id LIMIT 1"
        for found, code, *stamp in self._connection.query(statement) if where else ():
            return Entry(path=found, stamp=FileStamp(*stamp)), np.frombuffer(code, np.uint8)
        return None

    def search(
        self,
        query: NDArray[np.uint8],
        *,
        top_k: int | None = None,
        max_distance: int | None = None,
        under: Sequence[AnyPath] = (),
    ) -> list[tuple[int, bytes]]:
        """Return distances and absolute paths of the codes nearest to a query; arguments as in ``hamming.search``.

        Nearest first, ties in the order of paths; only pictures in the folders ``under``, if there are any.

        Raises:
            DrhnError: a query of another shape or dtype, or a folder that holds no root and lies in none.
            ConfigError: a number out of its range.
            TableError: a statement failed, or rows are missing.
        """
        check_search(query, self.manifest.n_bits, top_k=top_k, max_distance=max_distance)
        return self._retry_after_push(lambda: self._search(query, top_k, max_distance, under))

    def _verify(self) -> None:
        there = self._schema.count_rows("generation", self._where(()))
        for file in self._files:
            self._require(there.get(file.generation, 0), file.n_items)

    def _search(
        self, query: NDArray[np.uint8], top_k: int | None, max_distance: int | None, under: Sequence[AnyPath]
    ) -> list[tuple[int, bytes]]:
        distance = f"bitHammingDistance(code, toFixedString({quote_bytes(query.tobytes())}, {query.shape[1]}))"
        where = self._where(under)
        statement = f"SELECT {distance} AS distance, count() FROM {self._rows} WHERE {where} GROUP BY distance"
        if under:  # the rows of a folder are not known in advance, so all are counted too, which takes no scan
            statement += f" UNION ALL SELECT NULL, count() FROM {self._rows} WHERE {self._where(())}"
        counts = self._connection.query(statement)
        self._require(sum(count for each, count in counts if (each is None) == bool(under)), len(self))
        if under and all(each is None for each, _ in counts):
            expected = f"a folder that has pictures below {printable(self.manifest.root)}"
            raise DrhnError("no picture of the code file is in this folder", path=under[0], expected=expected)
        limit = self.manifest.n_bits if max_distance is None else max_distance
        near = sorted((each, count) for each, count in counts if each is not None and each <= limit)
        totals = list(accumulate((count for _, count in near), initial=0))
        wanted = totals[-1] if top_k is None else min(top_k, totals[-1])
        if not wanted:
            return []
        radius = near[bisect_left(totals, wanted) - 1][0]
        root, order = self._order()
        found = self._connection.query(
            f"SELECT {distance} AS distance, {root} AS root, path FROM {self._rows} "
            f"WHERE ({where}) AND distance <= {radius} ORDER BY distance, {order} LIMIT {wanted}"
        )
        self._require(len(found), wanted)
        return [(each, root + path) for each, root, path in found]

    def _order(self) -> tuple[str, str]:
        """Return expressions for the root of a row and for the order of absolute paths."""
        # Within a file that is the order of ids, which are cheaper to read; the paths of several files may interleave.
        if len(self._files) == 1:
            return quote_bytes(self._files[0].prefix), "id"
        generations = ", ".join(str(file.generation) for file in self._files)
        roots = ", ".join(quote_bytes(file.prefix) for file in self._files)
        return f"transform(generation, [{generations}], [{roots}], '')", "concat(root, path), generation"

    def _where(self, under: Sequence[AnyPath]) -> str:
        """Return the condition that a row is live and in one of the folders, if there are any."""
        if not under:
            return f"generation IN ({', '.join(str(file.generation) for file in self._files)})"
        conditions: list[str] = []
        for folder in under:
            prefix = os.path.join(absolute_folder(folder), b"")
            files = [file for file in self._files if file.prefix.startswith(prefix) or prefix.startswith(file.prefix)]
            if not files:
                expected = f"a folder below {printable(self.manifest.root)}"
                raise DrhnError("the folder is outside of the table", path=folder, expected=expected)
            for file in files:
                rest = prefix[len(file.prefix) :]  # empty where the whole file lies in the folder
                inside = f" AND startsWith(path, {quote_bytes(rest)})" if rest else ""
                conditions.append(f"(generation = {file.generation}{inside})")
        return " OR ".join(conditions)

    def _retry_after_push(self, task: Callable[[], _Result]) -> _Result:
        """Run a task; once more if it fails and a push has replaced rows since the files were read."""
        try:
            return task()
        except TableError:
            generations = [file.generation for file in self._files]
            self._read_files()
            if generations == [file.generation for file in self._files]:
                raise
            return task()

    def _require(self, found: int, expected: int) -> None:
        if found != expected:
            problem = "the table does not hold what was pushed"
            hint = "push the code files again; on a cluster, see first whether a replica lags behind"
            raise TableError(problem, path=self.path, expected=f"{expected} rows", found=str(found), hint=hint)

    def _read_files(self) -> None:
        with about(self.path):
            if not self._schema.exists():
                raise TableError("no such table", hint=PUSH_HINT)
            files = live_files(self._schema.read_files())
            if not files:
                raise TableError("no code file has been pushed here to its end", hint=PUSH_HINT)
            models = {(each.manifest.fingerprint, each.manifest.n_bits): each.manifest for each in self._files + files}
            if len(models) > 1:
                problem = "the table holds codes of several models, which cannot be compared"
                found = ", ".join(f"{each.model} ({each.fingerprint[:12]})" for each in models.values())
                hint = "push the code files of one model to a table of their own"
                raise TableError(problem, found=found, hint=hint)
        self._files = files
