"""Paths are bytes, and made absolute on input. Where the bundled models and recipes are."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from drhn_cli.errors import AnyPath, DrhnError, SourceError

_PACKAGE = Path(__file__).parent


def absolute_path(path: AnyPath) -> bytes:
    """Return an absolute path without ``.`` and ``..``; symbolic links are kept.

    Links before a ``..`` are resolved only where it matters: ``..`` is the parent of the link's target, and not the
    folder that the link is in.
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
        SourceError: the name is empty, as a shell variable that is not set: that does not mean the working directory.
    """
    if not os.fsencode(folder):
        raise SourceError("not a path", expected="a folder", found="an empty name")
    return absolute_path(folder)


def common_folder(folders: Iterable[bytes], otherwise: DrhnError | None = None) -> bytes:
    """Return the deepest folder that holds all of these, one or more.

    Args:
        folders: absolute paths.
        otherwise: the error if there is none. Default: one about sources.

    Raises:
        DrhnError: they lie on different drives, or not all of them are absolute.
    """
    try:
        return os.path.commonpath(list(folders))
    except ValueError as error:
        hint = "make a code file for each drive"
        raise otherwise or SourceError("the sources have no folder in common", hint=hint) from error


def is_below(path: bytes, folders: Collection[bytes]) -> bool:
    """Return whether an absolute path is one of these folders or inside one, at any depth."""
    while path not in folders:
        parent = os.path.dirname(path)
        if parent == path:
            return False
        path = parent
    return True


def with_folders(paths: Iterable[bytes]) -> set[bytes]:
    """Return absolute paths and all folders above them."""
    known: set[bytes] = set()
    for path in paths:
        while path not in known:
            known.add(path)
            path = os.path.dirname(path)
    return known


def bundled_folder() -> Path:
    """Return the folder of bundled models and recipes: inside an installed package, beside it in a checkout."""
    installed = _PACKAGE / "bundled"
    return installed if installed.is_dir() else _PACKAGE.parent / "weights"


def bundled_names(suffix: str) -> list[str]:
    """Return the names of the bundled models (``.npz``) or recipes (``.toml``), sorted."""
    return sorted(path.stem for path in bundled_folder().glob(f"*{suffix}"))
