"""Paths as the system means them: bytes, and absolute from where they enter."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable

from drhn_cli.errors import AnyPath, DrhnError, SourceError


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


def common_folder(folders: Iterable[bytes], otherwise: DrhnError | None = None) -> bytes:
    """Return the deepest folder that holds all of these, one or more.

    Args:
        folders: absolute paths.
        otherwise: the error where there is none. Default: one that speaks of sources.

    Raises:
        DrhnError: they lie on different drives, or not all of them are absolute.
    """
    try:
        return os.path.commonpath(list(folders))
    except ValueError as error:
        hint = "make a code file for each drive"
        raise otherwise or SourceError("the sources have no folder in common", hint=hint) from error


def is_below(path: bytes, folders: Collection[bytes]) -> bool:
    """Tell whether an absolute path is one of these folders or inside one, at any depth."""
    while path not in folders:
        parent = os.path.dirname(path)
        if parent == path:
            return False
        path = parent
    return True
