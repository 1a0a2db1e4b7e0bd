"""Files that are replaced whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from drhn_cli.errors import AnyPath


@contextlib.contextmanager
def atomic_write(path: AnyPath) -> Iterator[BinaryIO]:
    """Yield a stream whose content takes the place of ``path`` when the block ends, and vanishes when it raises.

    A crash at any moment leaves the old file or the new one. A symbolic link keeps pointing at the file that is
    written, and a file that is replaced keeps its permissions.

    Args:
        path: the file to write; its folder exists.

    Yields:
        A binary stream, open for writing and seeking.

    Raises:
        OSError: no space, no permission, not a regular file; the old file is as it was.

    Source: ours; the steps are those of SQLite's atomic commit (https://sqlite.org/atomiccommit.html).
    """
    target = Path(os.path.realpath(os.fsdecode(path)))
    mode = _existing_mode(target)
    temporary = target.with_name(_temporary_name(target, os.urandom(8).hex()))
    try:
        # os.open and not tempfile: a new file gets the permissions that the umask gives, not those of a secret.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(temporary, flags, 0o666), "w+b") as stream:
            if mode is not None:
                temporary.chmod(mode)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        # Gone already if all went well; Ctrl-C comes by here too. An error of its own would hide the one that matters.
        with contextlib.suppress(OSError):
            temporary.unlink()
    _sync_directory(target.parent)


def remove_leftovers(path: AnyPath) -> None:
    """Remove the temporary files of writers of ``path`` that were killed. Only for who knows that no other is writing.

    Source: ours.
    """
    target = Path(os.path.realpath(os.fsdecode(path)))
    for leftover in target.parent.glob(_temporary_name(target, "*")):
        with contextlib.suppress(OSError):  # it is in nobody's way
            leftover.unlink()


def _temporary_name(target: Path, token: str) -> str:
    """Return a hidden name that tells the target, in few bytes: the target's may have all the 255 that a name can."""
    return f".drhn-{zlib.crc32(os.fsencode(target.name)):08x}-{token}.tmp"


def _existing_mode(target: Path) -> int | None:
    """Return the permissions of a file that will be replaced, or None where there is none."""
    try:
        status = target.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise OSError(None, "a folder, pipe or device is in its place")
    return stat.S_IMODE(status.st_mode)


def _sync_directory(directory: Path) -> None:
    """Make the rename itself survive a power cut, where the system can: Windows cannot open a folder."""
    # Too late to fail: the new file is in place, and a caller told otherwise would believe in the old one.
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
