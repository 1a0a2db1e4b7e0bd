"""One writer at a time for each code file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from drhn_cli.errors import AnyPath, CodeFileError
from drhn_cli.lock import lock_file


def lock_code_file(
    path: AnyPath, timeout_seconds: float = 0.0, *, on_wait: Callable[[], None] = lambda: None
) -> AbstractContextManager[None]:
    """Return what holds the lock of a code file, which need not exist yet: see ``lock_file``.

    Raises:
        CodeFileError: on entering: another writer still holds it, or the lock file cannot be made beside the code file.
    """
    return lock_file(path, "code file", CodeFileError, timeout_seconds, on_wait=on_wait)
