"""The folder of an embedded database, looked at before the engine does: what it does not find there, it makes."""

from __future__ import annotations

import os

from drhn_cli.errors import TableError
from drhn_cli.files import os_errors

_OPENED = {"tmp", "status"}
"""What the engine makes at first, and may have left where it was killed; the first table brings a folder metadata."""

_ELSEWHERE = "name a folder where files can be made"


def require_database(folder: str, url: str) -> None:
    """Refuse a folder that holds no database.

    Raises:
        TableError: it is not there, or something else.
    """
    if _holds_database(folder):
        return
    found = "no folder of that name"
    if os.path.lexists(folder):
        found = "a folder without a database" if os.path.isdir(folder) else "no folder but a file"
    raise TableError("no such table", path=url, found=found, hint="load one with drhn push CODES URL")


def make_place(folder: str, url: str) -> None:
    """Make the folder of a database where there is none, and refuse one with other things in it.

    Raises:
        TableError: it cannot be made or written, or holds files but no database.
    """
    with os_errors(TableError, "no place for a database", path=url, hint=_ELSEWHERE):
        os.makedirs(folder, exist_ok=True)
        holds_others = not _holds_database(folder) and not _OPENED.issuperset(os.listdir(folder))
    if holds_others:
        expected, hint = "a database, or an empty folder", "name a folder of its own"
        raise TableError("no place for a database", path=url, expected=expected, found="other files", hint=hint)
    if not os.access(folder, os.W_OK | os.X_OK):
        found = "a folder that may not be written"
        raise TableError("no place for a database", path=url, found=found, hint=_ELSEWHERE)


def _holds_database(folder: str) -> bool:
    def has(name: str) -> bool:
        return os.path.exists(os.path.join(folder, name))

    return has("metadata") or all(map(has, _OPENED))
