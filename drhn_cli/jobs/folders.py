"""Which pictures of a code file lie in which folder."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.file import CodeFile
from drhn_cli.errors import AnyPath, DrhnError


def locate_rows(file: CodeFile, folders: Sequence[AnyPath]) -> NDArray[np.int64]:
    """Return for each row the place in ``folders`` of the innermost that it lies in, or -1: (n_items,) int64.

    Rows are in the order of their paths, so those of a folder follow each other and only its ends are looked for.

    Raises:
        DrhnError: a folder outside of the code file.
        CodeFileError: the code file is damaged.
    """
    root = os.path.join(os.fsencode(file.root), b"")
    prefixes = [os.path.join(os.path.abspath(os.fsencode(folder)), b"") for folder in folders]
    rows = range(file.n_items)
    located = np.full(file.n_items, -1, dtype=np.int64)
    for place in sorted(range(len(folders)), key=lambda place: len(prefixes[place])):
        prefix = prefixes[place]
        if root.startswith(prefix):
            located[:] = place
            continue
        if not prefix.startswith(root):
            raise DrhnError(
                "the folder is outside of the code file", path=folders[place], expected=f"a folder below {file.root}"
            )
        inside = prefix[len(root) :]
        beyond = inside[:-1] + bytes([inside[-1] + 1])
        first, stop = (bisect_left(rows, bound, key=file.path_bytes) for bound in (inside, beyond))
        located[first:stop] = place
    return located
