"""Entries of columns, as tests have them at hand."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from drhn_cli.codes.entries import STAMP_DTYPE, Entries


def entries_of(paths: Sequence[bytes], sizes: ArrayLike, mtimes_ns: ArrayLike, inodes: ArrayLike = 0) -> Entries:
    """Return entries of n paths and n integers for each other column, or one for all rows."""
    stamps = np.zeros(len(paths), STAMP_DTYPE)
    stamps["size"], stamps["mtime_ns"], stamps["inode"] = sizes, mtimes_ns, inodes
    return Entries.from_stamps(paths, stamps)
