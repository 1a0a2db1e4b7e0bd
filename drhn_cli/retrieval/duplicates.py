"""Find groups of near-duplicates in a code file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.reader import CodeFile
from drhn_cli.errors import AnyPath
from drhn_cli.retrieval.folders import find_kept, locate_rows
from drhn_cli.search.hamming import hamming_distances
from drhn_cli.search.near_duplicates import find_components

NEAR_SHARE = 64


def near_distance(n_bits: int) -> int:
    """Return how many bits two codes may differ in for their pictures to be near-duplicates, unless told otherwise.

    One bit of 64: the README has what the bundled network finds within that, of changed copies and of other pictures.
    """
    return n_bits // NEAR_SHARE


@dataclass(frozen=True, kw_only=True)
class DuplicateOptions:
    """What counts as a group.

    Attributes:
        max_distance: pictures that differ in at most so many bits belong together, and so do all that are linked so.
            None: ``near_distance``.
        under: only pictures in these folders.
        exclude: globs of pictures and folders that are left out.
        across: only groups in more than one folder: of ``under``, where that names several, else of the pictures' own.
    """

    max_distance: int | None = None
    under: Sequence[AnyPath] = ()
    exclude: Sequence[str] = ()
    across: bool = False


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """One picture of a group.

    Attributes:
        path: absolute.
        size: of the file when it was hashed, in bytes.
        distance: bits that differ from the first picture of the group.
    """

    path: bytes
    size: int
    distance: int


def find_duplicates(file: CodeFile, options: DuplicateOptions) -> Iterator[list[Duplicate]]:
    """Yield groups of two pictures or more, in the order of their first paths; no picture is opened.

    Args:
        file: an open code file.
        options: what counts as a group.

    Yields:
        The pictures of a group: the largest file first, then by size and, where that is equal, path.

    Raises:
        DrhnError: a folder outside of the code file.
        CodeFileError: the code file is damaged.
    """
    folders = locate_rows(file, options.under) if options.under else None
    kept = find_kept(file, options.exclude) if options.exclude else np.ones(file.n_items, np.bool_)
    rows = np.flatnonzero(kept if folders is None else kept & (folders >= 0))
    codes = file.codes if len(rows) == file.n_items else file.codes[rows]
    radius = near_distance(file.n_bits) if options.max_distance is None else options.max_distance
    for members in find_components(codes, file.n_bits, radius):
        group = rows[members]
        if not options.across or _spans_folders(file, group, folders if len(options.under) > 1 else None):
            yield _describe(file, group)


def _spans_folders(file: CodeFile, group: NDArray[np.int64], folders: NDArray[np.int64] | None) -> bool:
    if folders is not None:
        return bool((folders[group] != folders[group[0]]).any())
    first, *others = (os.path.dirname(file.path_bytes(row)) for row in group.tolist())
    return any(folder != first for folder in others)


def _describe(file: CodeFile, group: NDArray[np.int64]) -> list[Duplicate]:
    entries = [file.entry(row) for row in group.tolist()]
    # Stable: rows are in order of paths.
    order = sorted(range(len(group)), key=lambda place: -entries[place].stamp.size)
    codes = file.codes[group[order]]
    (distances,) = hamming_distances(codes[:1], codes)
    root = os.fsencode(file.root)
    return [
        Duplicate(path=os.path.join(root, entries[place].path), size=entries[place].stamp.size, distance=distance)
        for place, distance in zip(order, distances.tolist(), strict=True)
    ]
