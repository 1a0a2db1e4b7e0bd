"""Opening what may not be a regular file."""

from __future__ import annotations

import os

from drhn_cli.errors import AnyPath


def open_nonblocking(path: AnyPath) -> int:
    """Return a file descriptor for reading; a FIFO gives one at once, where ``open`` would wait for a writer.

    Raises:
        OSError: as ``os.open``.
    """
    return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
