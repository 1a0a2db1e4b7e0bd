"""Near-duplicates: groups of them in a code file, and how far two pictures are apart."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.reader import CodeFile
from drhn_cli.errors import AnyPath
from drhn_cli.retrieval.gallery import FileGallery, Match
from drhn_cli.search.hamming import hamming_distances
from drhn_cli.search.near_duplicates import connected_components


def near_distance(n_bits: int) -> int:
    """Return the distance up to which two pictures are near-duplicates by default: one bit of 64.

    weights/README.md has what the bundled network finds within it, of edited copies and of other pictures.
    """
    return n_bits // 64


def find_duplicates(
    gallery: FileGallery, max_distance: int | None = None, *, across: bool = False
) -> Iterator[list[Match]]:
    """Yield groups of two pictures or more, in the order of their first paths; no picture is opened.

    The largest file of a group comes first, files of one size in the order of paths. A file that has several paths
    counts once.

    Args:
        gallery: what is searched.
        max_distance: pictures at this distance or nearer are linked; groups are connected components. None:
            ``near_distance``.
        across: only groups that span several folders: of ``gallery.under`` if it has several, else the folders of the
            pictures.
    """
    file = gallery.file
    rows = gallery.searched
    codes = file.codes if len(rows) == file.n_items else file.codes[rows]
    radius = near_distance(file.n_bits) if max_distance is None else max_distance
    for members in connected_components(codes, file.n_bits, radius):
        group = _one_row_a_file(file, rows[members])
        if len(group) > 1 and (not across or gallery.spans_folders(group)):
            yield _matches(file, group)


def _one_row_a_file(file: CodeFile, group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first row of each file: hard links, and paths through linked folders, are no copies of each other."""
    first_rows: dict[object, int] = {}
    for row in group.tolist():
        first_rows.setdefault(file.entry(row).stamp.identity or row, row)
    return np.array(list(first_rows.values()), np.int64)


def _matches(file: CodeFile, group: NDArray[np.int64]) -> list[Match]:
    """Return the pictures of a group, largest file first; the sort is stable, and rows are in the order of paths."""
    entries = sorted(((file.entry(row), row) for row in group.tolist()), key=lambda pair: -pair[0].stamp.size)
    codes = file.codes[[row for _, row in entries]]
    (distances,) = hamming_distances(codes[:1], codes)
    root = os.fsencode(file.root)
    return [
        Match(path=os.path.join(root, entry.path), distance=distance, size=entry.stamp.size)
        for (entry, _), distance in zip(entries, distances.tolist(), strict=True)
    ]


def compare_pictures(
    pictures: Sequence[AnyPath | BinaryIO],
    *,
    weights: str | None = None,
    n_bits: int | None = None,
    views: int | None = None,
) -> tuple[int, int]:
    """Return in how many bits the codes of two pictures differ, and how many bits they have.

    The options are those of ``load_model`` and ``choose_bits``.

    Raises:
        ImageError: a picture cannot be read.
        WeightsError: the weights cannot be read.
        ConfigError: the network makes no codes of that length.
    """
    from drhn_cli.images.load import load_image  # groups need neither Pillow nor the network
    from drhn_cli.network.encoder import Encoder
    from drhn_cli.network.model import choose_bits, load_model

    model = load_model(weights, views=views)
    n_bits = choose_bits(n_bits, model)
    pixels = np.stack([load_image(image, model.preprocessing) for image in pictures])  # (2, views * s, s, 3)
    codes = Encoder(model, device="cpu", n_threads=1).codes(pixels, n_bits)
    return int(hamming_distances(codes[:1], codes[1:])[0, 0]), n_bits
