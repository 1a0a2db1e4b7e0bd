"""Opening what may not be a regular file."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

from drhn_cli.errors import AnyPath


def open_nonblocking(path: AnyPath) -> int:
    """Return a file descriptor for reading; a FIFO gives one at once, where ``open`` would wait for a writer.

    Raises:
        OSError: as ``os.open``.
    """
    return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))


def open_regular(path: AnyPath) -> BinaryIO | None:
    """Return a regular file opened for reading, or None for a pipe or a device.

    Raises:
        OSError: as ``open``, which refuses folders.
    """
    stream = os.fdopen(open_nonblocking(path), "rb")
    if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        return stream
    stream.close()
    return None
