"""Rows as ClickHouse's RowBinary format has them: fixed-width numbers, little-endian, and strings after their length.

Source: https://clickhouse.com/docs/interfaces/formats/RowBinary.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.entries import Entries


def pack_string(value: bytes) -> bytes:
    """Return a String: its length, seven bits a byte from the lowest, and its bytes."""
    length, rest = bytearray(), len(value)
    while rest > 0x7F:
        length.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*length, rest]) + value


def pack_rows(generation: int, first_id: int, codes: NDArray[np.uint8], entries: Entries) -> bytes:
    """Return rows of generation, id, code, path, size, time and inode; the ids count up.

    Args:
        generation: 0..2**64-1.
        first_id: the first row's id.
        codes: (n, code_size) uint8.
        entries: n of them.
    """
    n, size = codes.shape
    lengths = np.diff(entries.offsets)  # (n,)
    n_length_bytes = np.ones(n, np.int64)
    for bits in range(7, int(lengths.max(initial=0)).bit_length(), 7):
        n_length_bytes += lengths >> bits > 0
    head = np.empty((n, 16 + size), np.uint8)
    head[:, :8] = np.frombuffer(generation.to_bytes(8, "little"), np.uint8)
    head[:, 8:16] = np.arange(first_id, first_id + n, dtype="<u8").view(np.uint8).reshape(n, 8)
    head[:, 16:] = codes
    tail = np.stack([entries.sizes, entries.mtimes_ns, entries.inodes.view(np.int64)], axis=1).astype("<i8")  # (n, 3)
    widths = head.shape[1] + n_length_bytes + lengths + 24
    ends = np.cumsum(widths)
    starts = ends - widths
    out = np.empty(int(ends[-1]) if n else 0, np.uint8)
    out[starts[:, np.newaxis] + np.arange(head.shape[1])] = head
    out[ends[:, np.newaxis] - np.arange(24, 0, -1)] = tail.view(np.uint8).reshape(n, 24)
    place, rest, more = starts + head.shape[1], lengths, np.ones(n, np.bool_)
    while more.any():  # once for each byte of the longest length
        following = rest > 0x7F
        out[place[more]] = (rest & 0x7F | following << 7)[more]
        place, rest, more = place + more, rest >> 7, following
    # Each byte of the paths goes to its own place in the paths, moved by what lies between.
    moved = ends - 24 - lengths - entries.offsets[:-1]
    out[np.arange(len(entries.blob)) + np.repeat(moved, lengths)] = np.frombuffer(entries.blob, np.uint8)
    return out.tobytes()
