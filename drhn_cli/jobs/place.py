"""Look at the place of a file before it is written."""

from __future__ import annotations

import os

from drhn_cli.errors import AnyPath, DrhnError

_HEAD_BYTES = 2048


def refuse_foreign(path: AnyPath, mark: bytes, what: str) -> None:
    """Refuse to replace a file of another kind: a photograph, perhaps. Nothing and an empty file may be replaced.

    Args:
        path: what is going to be written.
        mark: stands in the first 2,048 bytes of every file of the right kind.
        what: the right kind, for people.

    Raises:
        DrhnError: another file is there, or it cannot be read; or there is no such folder.
    """
    head = read_head(path, what)
    if head and mark not in head:
        hint = "remove it, or choose another name"
        raise DrhnError(f"another file is in the place of the {what}", path=path, hint=hint)


def read_head(path: AnyPath, what: str) -> bytes:
    """Return the first 2,048 bytes of the file that would be replaced; none where there is no file.

    Args:
        path: what is going to be written.
        what: what that is, for people.

    Raises:
        DrhnError: the file cannot be read, or there is no folder for it.
    """
    folder = os.path.dirname(os.fsencode(path)) or b"."
    if not os.path.isdir(folder):
        raise DrhnError(f"cannot write the {what}", path=path, found="no such folder", hint="make the folder first")
    if not os.path.isfile(path):
        return b""
    try:
        with open(path, "rb") as stream:
            return stream.read(_HEAD_BYTES)
    except OSError as error:
        raise DrhnError(f"cannot write the {what}", path=path, found=error.strerror or str(error)) from error
