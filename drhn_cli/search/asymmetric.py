"""Exact search by asymmetric distance: the query is real-valued, the stored codes are bits.

The score of a code is ``sum(|p_i - bit_i|)``, with p_i the query's probability that bit i is 1: the Hamming distance
expected of a query whose bits are drawn with these probabilities. Squared differences would give the same order:
``|p - b| = p + b (1 - 2 p)`` and ``(p - b)**2 = p**2 + b (1 - 2 p)`` differ by a constant of the query.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.pack import check_codes, pack_bits
from drhn_cli.errors import DrhnError
from drhn_cli.search.hamming import Nearest, Neighbours, Rows, candidate_rows, check_search, cut, hamming_distances

_CHUNK_ROWS = 1 << 15  # whose scores fit the L2 cache
_BYTES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, np.newaxis], axis=1, bitorder="little")  # (256, 8)


def search_asymmetric(
    codes: NDArray[np.uint8],
    probabilities: NDArray[np.float64],
    *,
    top_k: int | None = None,
    max_distance: int | None = None,
    rows: Rows | None = None,
) -> Neighbours:
    """Find the codes nearest to one query by score, ties in order of rows.

    The query is the probability of a 1 in each bit, (n_bits,) in 0..1. Its code, from which Hamming distances are
    measured, has a 1 where that is above 1/2. The other arguments and the errors are those of ``hamming.search``.

    Source: after Gordo et al., Asymmetric distances for binary embeddings, PAMI 2014. The lookup tables, a partial sum
        for each value of each byte, are those of product quantization (Jegou et al., PAMI 2011).
    """
    if probabilities.ndim != 1:
        raise DrhnError("not one query", expected="shape (n_bits,)", found=f"shape {probabilities.shape}")
    n_bits = len(probabilities)
    check_codes(codes, n_bits)
    query = pack_bits(probabilities[np.newaxis] > 0.5)
    check_search(query, n_bits, top_k=top_k, max_distance=max_distance)
    candidates = None if rows is None else candidate_rows(rows, len(codes))
    tables = _lookup_tables(probabilities)
    n_rows = len(codes) if candidates is None else len(candidates)
    nearest = Nearest(n_rows if top_k is None else top_k, np.inf)
    for start in range(0, n_rows, _CHUNK_ROWS):
        chunk = slice(start, start + _CHUNK_ROWS)
        part = codes[chunk] if candidates is None else codes[candidates[chunk]]
        scores = _score(part, tables)
        hits = np.flatnonzero(scores < nearest.bound)
        if max_distance is not None:
            hits = hits[hamming_distances(query, part[hits])[0] <= max_distance]
        nearest.add(scores[hits], start + hits if candidates is None else candidates[start + hits])
    scores, indices = cut([nearest])
    distances = hamming_distances(query, codes[indices])[0].astype(np.int32)
    return Neighbours(indices=indices, distances=distances, scores=scores)


def _lookup_tables(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what each value of each byte adds to the score: (code_size, 256)."""
    padded = np.zeros(-(-len(probabilities) // 8) * 8)  # padding bits are 0 and add nothing
    padded[: len(probabilities)] = probabilities
    tables: NDArray[np.float64] = np.abs(padded.reshape(-1, 1, 8) - _BYTES).sum(axis=2)
    return tables


def _score(codes: NDArray[np.uint8], tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the score of each code: (m, code_size) -> (m,)."""
    scores = np.zeros(len(codes))
    for table, column in zip(tables, np.ascontiguousarray(codes.T), strict=True):
        scores += table.take(column, mode="clip")  # no byte is out of range; "clip" is faster than the check
    return scores
