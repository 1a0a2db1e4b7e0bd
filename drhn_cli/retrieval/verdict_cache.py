"""Verdicts of pairs that were opened before, by the digests of their files, in the user's cache folder."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Self

from drhn_cli.retrieval.verify import RULES, Verdict

_ERRORS = (sqlite3.Error, OSError, ValueError, TypeError, LookupError)

Digests = tuple[bytes, bytes]


def cache_folder() -> Path:
    """Return where this user's programs keep what they can make again."""
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "drhn"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "drhn"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "drhn"
    return Path.home() / ".cache" / "drhn"


class VerdictCache:
    """A context manager; where the folder or its file cannot be used, nothing is kept, and that is no error.

    Args:
        path: of the SQLite file. None: keep nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._connection: sqlite3.Connection | None = None
        if path is None:
            return
        with suppress(*_ERRORS, RuntimeError):  # RuntimeError: there is no home folder
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=10)
            connection.execute(
                "CREATE TABLE IF NOT EXISTS verdicts"
                "(a BLOB, b BLOB, rules INTEGER, verdict TEXT, PRIMARY KEY (a, b, rules)) WITHOUT ROWID"
            )
            self._connection = connection

    @classmethod
    def of_user(cls) -> Self:
        """Open the cache of this user."""
        try:
            return cls(cache_folder() / "verdicts.sqlite")
        except RuntimeError:  # there is no home folder
            return cls(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()

    def get(self, digests: Digests) -> Verdict | None:
        """Return what was found of a pair, if it is known."""
        if self._connection is None:
            return None
        with suppress(*_ERRORS):
            select = "SELECT verdict FROM verdicts WHERE a = ? AND b = ? AND rules = ?"
            row = self._connection.execute(select, (*sorted(digests), RULES)).fetchone()
            if row is not None:
                values = json.loads(row[0])
                pairs = {name: tuple(values[name]) for name in ("box", "lost") if values[name] is not None}
                verdict = Verdict(**values | pairs)
                return verdict if digests[0] <= digests[1] else verdict.reversed()
        return None

    def put(self, verdicts: Iterable[tuple[Digests, Verdict]]) -> None:
        """Keep what was found of some pairs."""
        if self._connection is None:
            return
        rows = [
            (*sorted(digests), RULES, json.dumps(asdict(verdict if digests[0] <= digests[1] else verdict.reversed())))
            for digests, verdict in verdicts
        ]
        with suppress(*_ERRORS), self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?)", rows)
