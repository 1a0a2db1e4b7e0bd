"""Exact search by Hamming distance on a GPU, of codes that fit in its memory.

With bits as +1 and -1, the dot product of two codes is the number of bits that agree minus those that differ, so one
matrix product gives the distances of all queries at once. It is exact: float32 holds every integer up to 2^24.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from drhn_cli.search.hamming import Neighbours, Rows, candidate_rows, check_search

_CHUNK_VALUES = 1 << 24  # bits, or distances, at a time: 64 MB of bits and 128 MB of distances
_MAX_QUERIES = 1 << 7  # at a time
_WORKING_BYTES = 1 << 29  # that a search needs beside the codes


class DeviceSearch:
    """A copy of codes on a device; arguments, results and errors are those of ``hamming.search``."""

    def __init__(self, codes: NDArray[np.uint8], n_bits: int, device: torch.device, rows: Rows | None = None) -> None:
        self._rows = None if rows is None else candidate_rows(rows, len(codes))
        self._codes = torch.tensor(codes if self._rows is None else codes[self._rows], device=device)
        self._n_bits = n_bits

    def search(
        self, queries: NDArray[np.uint8], *, top_k: int | None = None, max_distance: int | None = None
    ) -> list[Neighbours]:
        """Find the codes nearest to each query."""
        check_search(queries, self._n_bits, top_k=top_k, max_distance=max_distance)
        parts = (queries[first : first + _MAX_QUERIES] for first in range(0, len(queries), _MAX_QUERIES))
        return [found for part in parts for found in self._search(part, top_k, max_distance)]

    def _search(self, queries: NDArray[np.uint8], top_k: int | None, max_distance: int | None) -> list[Neighbours]:
        n, device = len(self._codes), self._codes.device
        query_signs = _signs(torch.tensor(queries, device=device), self._n_bits)  # (q, n_bits)
        step = max(1, _CHUNK_VALUES // max(8 * self._codes.shape[1], len(queries)))
        best = torch.empty((len(queries), 0), dtype=torch.int64, device=device)
        # Without top_k there may be more matches than GPU memory beside the codes, so they go to the CPU.
        within: list[list[NDArray[np.int64]]] = [[] for _ in queries]
        end = ((self._n_bits if max_distance is None else max_distance) + 1) * n
        for start in range(0, n, step):
            signs = _signs(self._codes[start : start + step], self._n_bits)  # (rows of the chunk, n_bits)
            distances = (self._n_bits - query_signs @ signs.T) / 2  # (q, rows of the chunk)
            # Distance and row in one integer: sorting these gives the order of the results.
            keys = distances.to(torch.int64) * n + torch.arange(start, start + len(signs), device=device)
            if top_k is None:
                for parts, row in zip(within, keys, strict=True):
                    parts.append(row[row < end].cpu().numpy())
            else:
                best = torch.cat([best, keys], dim=1)
                best = best.topk(min(top_k, best.shape[1]), dim=1, largest=False, sorted=False).values
        results = []
        for nearest, parts in zip(best.cpu().numpy(), within, strict=True):
            found = np.sort(np.concatenate([nearest[nearest < end], *parts]))
            distances_found, places = np.divmod(found, max(n, 1))
            indices = places if self._rows is None else self._rows[places]
            results.append(Neighbours(indices=indices, distances=distances_found.astype(np.int32)))
        return results


def load_on_gpu(
    codes: NDArray[np.uint8], n_bits: int, device: torch.device, rows: Rows | None = None
) -> DeviceSearch | None:
    """Copy codes to a GPU, see ``DeviceSearch``; return None if they do not fit its free memory."""
    free_bytes, _ = torch.cuda.mem_get_info(device)
    if codes.nbytes + _WORKING_BYTES > free_bytes:
        return None
    return DeviceSearch(codes, n_bits, device, rows)


def _signs(codes: torch.Tensor, n_bits: int) -> torch.Tensor:
    """Return the bits of (m, code_size) uint8 as (m, n_bits) float32, +1 or -1."""
    shifts = torch.arange(8, dtype=torch.uint8, device=codes.device)
    bits = (codes[:, :, None] >> shifts & 1).flatten(1)[:, :n_bits]  # (m, code_size, 8) -> (m, n_bits)
    return bits.float() * 2 - 1
