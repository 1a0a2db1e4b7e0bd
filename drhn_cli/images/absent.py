"""The way out where a path leads nowhere because it is none."""

from __future__ import annotations

import os
import re

from drhn_cli.errors import AnyPath

_URL = re.compile(rb"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)


def hint_for_absent(path: AnyPath) -> str | None:
    """Return what to do about a path of which there is no file: a URL, or the ``-`` of other programs; else None."""
    raw = os.fsencode(path)
    if raw == b"-":
        return "a list of paths on stdin is read with --files-from -"
    if raw.lower().startswith(b"file:/"):
        return "leave file:// out"
    return "download it first: nothing is fetched from URLs" if _URL.match(raw) else None
