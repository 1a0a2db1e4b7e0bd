"""C code and how it is built. It is optional: without the library, numpy does the same more slowly.

``scan.c`` searches codes and ``int8.c`` computes a network in integers, with the kernels of ``int8_kernels.h``;
``build.py`` compiles them while the package is installed; ``load_library`` opens the result.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

LIBRARY = Path(__file__).with_name("libdrhn.so")
VERSION = 2  # the interface of the library: its functions and structures


def load_library() -> ctypes.CDLL | None:
    """Return the compiled library, or None if there is no usable one or ``DRHN_NATIVE=0`` turns it off."""
    return None if os.environ.get("DRHN_NATIVE") == "0" else open_library(LIBRARY)


@cache
def open_library(path: Path) -> ctypes.CDLL | None:
    """Open a library; return None if it is missing, not for this machine, or of another version."""
    try:
        library = ctypes.CDLL(os.fspath(path))
        return library if library.drhn_version() == VERSION else None
    except (OSError, AttributeError):  # AttributeError: it has no such function, so it is another library
        return None
