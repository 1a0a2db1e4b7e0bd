"""Codes as 64-bit words, and the bits in which they differ."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def copy_words(codes: NDArray[np.uint8], n_bits: int, out: NDArray[np.uint64] | None = None) -> NDArray[np.uint64]:
    """Return codes as (words, rows) uint64, or as many as ``out`` has rows: faster if 7 codes are left over."""
    codes = np.ascontiguousarray(codes)
    size = codes.shape[1]
    words = np.empty((-(-size // 8), len(codes)), dtype=np.uint64) if out is None else out
    n_words, n_rows = words.shape
    # A word reaches up to 7 bytes beyond its code: into the next ones, which masking undoes, except at the end of the
    # array. So the last few codes are padded, and no caller has to promise bytes beyond them.
    n_viewed = max(0, min(n_rows, len(codes) - -(-(8 * n_words - size) // size)))
    if n_viewed:
        for index, word in enumerate(words[:, :n_viewed]):
            # Not aligned, as a code of 6 bytes cannot be: copying such an array is fast, computing with it is not.
            word[:] = np.ndarray(word.shape, dtype="<u8", buffer=codes, offset=8 * index, strides=(size,))
    if n_viewed < n_rows:
        padded = np.zeros((n_rows - n_viewed, 8 * n_words), dtype=np.uint8)
        padded[:, :size] = codes[n_viewed:n_rows]
        words[:, n_viewed:] = padded.view("<u8").T
    if n_bits % 64:
        words[-1] &= np.uint64((1 << n_bits % 64) - 1)
    return words


def differing_bits(words: NDArray[np.uint64], query: NDArray[np.uint64]) -> NDArray[np.unsignedinteger]:
    """Return the distance of one query to each of many codes.

    Args:
        words: (words, rows) uint64, as ``copy_words`` gives them.
        query: (words,) uint64.

    Returns:
        (rows,) unsigned integers.
    """
    return count_bits(words ^ query[:, np.newaxis])


def count_bits(words: NDArray[np.uint64], out: NDArray[np.uint8] | None = None) -> NDArray[np.unsignedinteger]:
    """Return how many bits are set in each column of (words, rows), using ``out`` of that shape if given."""
    counts = np.bitwise_count(words, out=out)
    total: NDArray[np.unsignedinteger] = counts[0]
    if len(counts) > 1:
        total = np.add.reduce(counts, dtype=np.uint8 if len(counts) < 4 else np.uint16)
    return total
