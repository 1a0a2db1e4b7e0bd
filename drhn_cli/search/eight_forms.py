"""Neighbours by DCT signs, in whichever of the eight ways a picture may be turned and mirrored.

Mirroring a picture flips the signs of its odd frequencies in that direction, and transposing it swaps the directions.
So the bits are sorted by the parity of their two frequencies into four words of 64 bits, and four counts of differing
bits give the distances of all four mirrored forms: a word that a form flips differs in 64 minus as many bits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from drhn_cli.errors import DrhnError
from drhn_cli.progress import SILENT, Progress
from drhn_cli.threads import Task, ThreadPool, n_processors

CODE_SIZE = 32

_TILE_ROWS, _TILE_COLUMNS = 256, 1 << 14  # the words of a tile's columns fit the L2 cache, twice
_UNPACKED_ROWS = 1 << 12

Words = NDArray[np.uint64]
_Hits = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]  # rows, columns, distances


def form_distances(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return in how many of 255 bits the signs of two pictures differ, in the form in which they differ least.

    (n, 32) and (n, 32) uint8 -> (n,) uint8.
    """
    straight, transposed = _parity_words(a)
    words, _ = _parity_words(b)
    distances: NDArray[np.uint8] = np.minimum(_nearest_form(straight ^ words), _nearest_form(transposed ^ words))
    return distances


def nearest_pairs(
    signs: NDArray[np.uint8], *, top_k: int, max_distance: int, progress: Progress = SILENT
) -> NDArray[np.int64]:
    """Return the pairs of rows of which one is among the ``top_k`` nearest of the other, within ``max_distance``.

    Exact; memory is linear in the rows, time quadratic: a minute for 100,000 rows on two cores.

    Args:
        signs: (n, 32) uint8, see ``drhn_cli.network.copy_code``.
        top_k: neighbours of each row, 1 or more; ties in order of rows.
        max_distance: bits, in the nearest of the eight forms.
        progress: gets rows compared.

    Returns:
        (p, 2), the smaller row first, sorted.
    """
    straight, transposed = _parity_words(signs)
    n = len(signs)
    nearest = _Nearest(n, top_k)
    progress.phase("comparing", n)
    with ThreadPool(n_processors(), "drhn-forms") as pool:
        strips = _strips(pool, straight, transposed, max_distance)
        for start, found in zip(range(0, n, _TILE_ROWS), strips, strict=True):
            for hits in found:
                nearest.add(*hits)
            progress.advance(min(_TILE_ROWS, n - start))
    return nearest.pairs()


def _strips(pool: ThreadPool, straight: Words, transposed: Words, max_distance: int) -> Iterator[list[_Hits]]:
    """Yield what each strip of rows is near to, with only a few strips under way, as their hits wait in memory."""
    running: deque[Task[list[_Hits]]] = deque()
    for start in range(0, straight.shape[1], _TILE_ROWS):
        running.append(pool.submit(_strip, straight, transposed, start, max_distance))
        if len(running) > n_processors():
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def _strip(straight: Words, transposed: Words, start: int, max_distance: int) -> list[_Hits]:
    """Compare some rows with all rows after them."""
    n = straight.shape[1]
    found = []
    for first in range(start, n, _TILE_COLUMNS):
        columns = straight[:, first : first + _TILE_COLUMNS]
        differing = np.empty_like(columns)
        near_rows, near_columns, near_distances = [], [], []
        for row in range(start, min(start + _TILE_ROWS, n)):
            skipped = max(0, row + 1 - first)
            by_form = []
            for words in (straight, transposed):
                np.bitwise_xor(columns, words[:, row, np.newaxis], out=differing)
                by_form.append(_nearest_form(differing))
            distances = np.minimum(*by_form)
            near = np.flatnonzero(distances[skipped:] <= max_distance) + skipped
            if len(near):
                near_rows.append(np.full(len(near), row))
                near_columns.append(near + first)
                near_distances.append(distances[near])
        if near_rows:
            found.append((np.concatenate(near_rows), np.concatenate(near_columns), np.concatenate(near_distances)))
    return found


def _parity_words(signs: NDArray[np.uint8]) -> tuple[Words, Words]:
    """Return the bits of codes by parity, (4, n), and those of the transposed pictures."""
    if signs.ndim != 2 or signs.shape[1] != CODE_SIZE or signs.dtype != np.uint8:
        raise DrhnError("not DCT signs", expected="(n, 32) uint8", found=f"{signs.shape} {signs.dtype}")
    words = np.empty((2, 4, len(signs)), np.uint64)
    for first in range(0, len(signs), _UNPACKED_ROWS):
        part = slice(first, first + _UNPACKED_ROWS)
        bits = np.unpackbits(signs[part], axis=1, bitorder="little").reshape(-1, 8, 2, 8, 2)
        for form, axes in zip(words, ((0, 2, 4, 1, 3), (0, 4, 2, 3, 1)), strict=True):
            packed = np.packbits(bits.transpose(axes).reshape(-1, 4, 64), axis=2)  # (rows, 4, 8)
            form[:, part] = packed.view(np.uint64)[:, :, 0].T
    return words[0], words[1]


def _nearest_form(differing: Words) -> NDArray[np.uint8]:
    """Return the least distance of the four mirrored forms, (n,), from words of differing bits, (4, n)."""
    even, across, down, odd = np.bitwise_count(differing)  # 0..64 each
    # Not mirrored, and both ways; then one way or the other. All sums are at most 192.
    both = across + down
    both = np.minimum(both, 128 - both) + odd
    one = 128 - odd - (np.maximum(across, down) - np.minimum(across, down))
    distances: NDArray[np.uint8] = even + np.minimum(both, one)
    return distances


@dataclass(eq=False)
class _Nearest:
    """The nearest rows of each row so far."""

    n: int
    top_k: int
    keys: NDArray[np.int64] = field(init=False)  # (n, top_k), distance << 40 | row, ascending

    def __post_init__(self) -> None:
        self.keys = np.full((self.n, self.top_k), np.iinfo(np.int64).max)

    def add(self, rows: NDArray[np.int64], columns: NDArray[np.int64], distances: NDArray[np.uint8]) -> None:
        """Add pairs; each is a neighbour to both of its rows."""
        far = distances.astype(np.int64) << 40
        keys, owners = np.concatenate([far | columns, far | rows]), np.concatenate([rows, columns])
        is_nearer = keys < self.keys[owners, -1]
        keys, owners = keys[is_nearer], owners[is_nearer]
        changed = np.unique(owners)
        owners = np.concatenate([owners, np.repeat(changed, self.top_k)])
        keys = np.concatenate([keys, self.keys[changed].ravel()])
        order = np.lexsort((keys, owners))
        owners, keys = owners[order], keys[order]
        ranks = np.arange(len(owners)) - np.searchsorted(owners, owners)
        kept = ranks < self.top_k
        self.keys[owners[kept], ranks[kept]] = keys[kept]

    def pairs(self) -> NDArray[np.int64]:
        """Return all pairs of neighbours, each once."""
        rows, ranks = np.nonzero(self.keys < np.iinfo(np.int64).max)
        others = self.keys[rows, ranks] & ((1 << 40) - 1)
        pairs = np.stack([np.minimum(rows, others), np.maximum(rows, others)], axis=1)
        return np.unique(pairs, axis=0)
