"""Which codes of a chunk are nearer to queries than a bound, in memory that is used again from chunk to chunk.

Where the package was built with a C compiler ``native`` does it, and else numpy, for which new memory costs more than
what is done in it. Queries share a copy of the chunk as words, which is turned from query to query.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from drhn_cli.search.words import copy_words, count_bits

Hits = tuple[int, NDArray[np.int64], NDArray[np.unsignedinteger]]


class Comparison(Protocol):
    """Compares queries with chunks of codes."""

    def near(self, codes: NDArray[np.uint8], n_rows: int, bounds: dict[int, int]) -> Iterator[Hits]:
        """Find the codes of a chunk that are nearer than the bounds.

        Args:
            codes: contiguous, (n_rows, size) uint8; up to 7 more are not looked at, but make it quicker.
            n_rows: of the chunk.
            bounds: by the number of a query; others are left out.

        Yields:
            The number of a query that has found some, their places, ascending, and their distances. It may come again
            with later places, and what ``top_k`` others come before may be left out.
        """
        ...


def compares_natively() -> bool:
    """Tell whether C compares."""
    from drhn_cli.search import native_scan as native  # here: it takes a millisecond, and many commands search nothing

    return native.load_native() is not None


def choose_comparison(queries: NDArray[np.uint64], n_bits: int, n_rows: int, top_k: int) -> Comparison:
    """Return what is quickest.

    Args:
        queries: (words, q) uint64, as ``copy_words`` gives them.
        n_bits: length of a code.
        n_rows: the most of a chunk.
        top_k: rows that a query needs no more of, 1 or more.
    """
    from drhn_cli.search import native_scan as native

    library = native.load_native()
    if library is not None:
        return native.NativeComparison(library, queries, n_bits, top_k)
    return _NumpyComparison(queries, n_bits, n_rows)


class _NumpyComparison(Comparison):
    def __init__(self, queries: NDArray[np.uint64], n_bits: int, n_rows: int) -> None:
        self._queries, self._n_bits = queries, n_bits
        self._words = np.empty((len(queries), n_rows), dtype=np.uint64)
        self._counts = np.empty(self._words.shape, dtype=np.uint8)

    def near(self, codes: NDArray[np.uint8], n_rows: int, bounds: dict[int, int]) -> Iterator[Hits]:
        words = copy_words(codes, self._n_bits, out=self._words[:, :n_rows])
        turned = np.zeros(len(words), dtype=np.uint64)
        for number, bound in bounds.items():
            query = self._queries[:, number]
            words ^= (turned ^ query)[:, np.newaxis]  # in place, half the memory of differences beside the words
            turned = query
            yield from _below(count_bits(words, self._counts[:, :n_rows]), number, bound)


def _below(distances: NDArray[np.unsignedinteger], number: int, bound: int) -> Iterator[Hits]:
    if distances[distances.argmin()] < bound:  # faster than distances.min()
        hits = np.flatnonzero(distances < bound)
        yield number, hits, distances[hits]
