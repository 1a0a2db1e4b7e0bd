"""Paths as the system means them."""

from __future__ import annotations

import os

from drhn_cli.errors import AnyPath, SourceError


def absolute_path(path: AnyPath) -> bytes:
    """Return a path from the root on, without ``.`` and ``..``; links stay in it.

    Except for a ``..`` behind a link: that is the folder above the link's target and not the one that the link lies in,
    so what comes before is resolved where the two differ.
    """
    raw = os.fsencode(path)
    plain = os.path.abspath(raw)
    parts = raw.split(os.fsencode(os.sep))
    if b".." not in parts or b"\0" in raw:
        return plain
    n_before = len(parts) - parts[::-1].index(b"..")
    before = os.fsencode(os.sep).join(parts[:n_before])
    try:
        if os.path.samefile(before, os.path.abspath(before)):
            return plain
    except OSError:  # one of them is not there
        return plain
    return os.path.normpath(os.path.join(os.path.realpath(before), *parts[n_before:]))


def absolute_folder(folder: AnyPath) -> bytes:
    """Return the absolute path of a folder.

    Raises:
        SourceError: the name is empty, as that of a shell variable that is not set: it is not the working directory.
    """
    if not os.fsencode(folder):
        raise SourceError("not a path", expected="a folder", found="an empty name")
    return absolute_path(folder)
