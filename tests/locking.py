"""The lock of a code file, as the commands that write one take it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from drhn_cli.errors import AnyPath, CodeFileError
from drhn_cli.files import lock_file


def lock_code_file(path: AnyPath, **settings: Any) -> AbstractContextManager[None]:
    """Return what holds it."""
    return lock_file(path, "code file", CodeFileError, **settings)
