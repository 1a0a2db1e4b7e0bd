"""Which pictures of a code file lie in which folder, and which are left out."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.reader import CodeFile
from drhn_cli.errors import AnyPath, DrhnError, printable
from drhn_cli.paths import absolute_folder


def locate_rows(file: CodeFile, folders: Sequence[AnyPath]) -> NDArray[np.int64]:
    """Return for each row the place in ``folders`` of the innermost that it lies in, or -1: (n_items,) int64.

    Rows are in the order of their paths, so those of a folder follow each other and only its ends are looked for.

    Raises:
        DrhnError: a folder outside of the code file.
        SourceError: an empty name.
        CodeFileError: the code file is damaged.
    """
    root = os.path.join(os.fsencode(file.root), b"")
    prefixes = [os.path.join(absolute_folder(folder), b"") for folder in folders]
    rows = range(file.n_items)
    located = np.full(file.n_items, -1, dtype=np.int64)
    for place in sorted(range(len(folders)), key=lambda place: len(prefixes[place])):
        prefix = prefixes[place]
        if root.startswith(prefix):
            located[:] = place
            continue
        if not prefix.startswith(root):
            expected = f"a folder below {printable(file.root)}"
            raise DrhnError("the folder is outside of the code file", path=folders[place], expected=expected)
        inside = prefix[len(root) :]
        beyond = inside[:-1] + bytes([inside[-1] + 1])
        first, stop = (bisect_left(rows, bound, key=file.path_bytes) for bound in (inside, beyond))
        located[first:stop] = place
    return located


def find_kept(file: CodeFile, exclude: Sequence[str]) -> NDArray[np.bool_]:
    """Return for each row whether no glob leaves out its picture, nor a folder that it lies in: (n_items,) bool.

    Args:
        file: an open code file; globs with a ``/`` match paths relative to its root.
        exclude: globs, see ``compile_excludes``.

    Raises:
        CodeFileError: the code file is damaged.
    """
    from drhn_cli.images.globs import compile_excludes  # few queries leave something out

    is_excluded = compile_excludes(exclude)
    folders_out = {b"": False}

    def is_folder_out(folder: bytes) -> bool:
        chain = []
        while folder not in folders_out:
            chain.append(folder)
            folder = os.path.dirname(folder)
        out = folders_out[folder]
        for inner in reversed(chain):
            out = folders_out[inner] = out or is_excluded(os.fsdecode(inner), True)
        return out

    paths = (entry.path for entry in file)
    kept = (not (is_folder_out(os.path.dirname(path)) or is_excluded(os.fsdecode(path), False)) for path in paths)
    return np.fromiter(kept, np.bool_, file.n_items)
