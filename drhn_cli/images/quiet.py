"""Keep Pillow and the libraries under it off stderr, where they would stand between the lines that a user reads.

What they have to say about damaged files reaches the user as an ImageError, or does not matter.
"""

from __future__ import annotations

import ctypes
import logging
import re
import warnings

from PIL import _imaging

_PILLOW = r"PIL\."
_IGNORE_PILLOW = ("ignore", None, Warning, re.compile(_PILLOW), 0)


def ignore_pillow_warnings() -> None:
    """Silence Pillow's warnings, which are about odd metadata.

    ``warnings.catch_warnings`` cannot do it: it restores a list that all threads share. Adding one filter once is
    safe. It is looked for each time, as the program around may have reset the list.
    """
    if _IGNORE_PILLOW not in warnings.filters:
        warnings.filterwarnings("ignore", module=_PILLOW)


def _ignore_libtiff_messages() -> None:
    """Take away libtiff's message handlers, which print to stderr from C.

    Asking the extension module for the function finds the libtiff that it is linked with; where that is hidden inside
    it (some platforms' wheels), the messages stay.
    """
    library = ctypes.CDLL(_imaging.__file__)
    for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        set_handler = getattr(library, name, None)
        if set_handler is not None:
            set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            set_handler(None)


# Pillow logs some damage as errors, which Python prints if nobody has set up logging.
logging.getLogger("PIL").addHandler(logging.NullHandler())
_ignore_libtiff_messages()
