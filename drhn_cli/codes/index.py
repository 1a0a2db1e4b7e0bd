"""A multi-index over the codes of a file: exact search that looks at few of them.

Equal codes are grouped first: those of a trained network repeat. What is left, the items, stand once for each of m
substrings of their bits, in a table that is sorted by the substring. Codes that differ in at most r = m * s + a bits
(a < m) agree with the query in one of the first a + 1 substrings up to s bits, or in one of the others up to s - 1, so
growing r step by step opens the buckets of one table at a time.

Source: Norouzi, Punjani, Fleet 2012, Fast Search in Hamming Space with Multi-Index Hashing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.pack import check_codes
from drhn_cli.errors import DrhnError

MAX_ITEMS = (1 << 32) - 1
MAX_WIDTH = 28  # bits of a substring: its 2^28 + 1 offsets take a gigabyte
_MIN_WIDTH = 8
_GROUPED_SHARE = 0.75  # grouping has to save a quarter of the codes to be worth a second place to look

Rows = NDArray[np.uint32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """The items in order of one substring.

    Attributes:
        first_bit: where the substring begins.
        width: its bits, 1..28.
        starts: (2^width + 1,) uint32; the items of substring v are ``items[starts[v]:starts[v + 1]]``.
        items: (n_distinct,) uint32, ascending within a bucket.
    """

    first_bit: int
    width: int
    starts: Rows
    items: Rows


@dataclass(frozen=True, kw_only=True, eq=False)
class CodeIndex:
    """The codes of a file and what finds them fast. ``probe`` has the search.

    Attributes:
        n_bits: length of a code.
        distinct: (n_distinct, code_size) uint8, the items, in order of the first row that has each; where few codes
            repeat they are not grouped, and these are all codes as they are.
        groups: of which rows each item stands for, or None where item i is row i: (n_distinct + 1,) uint32 starts and
            (n,) uint32 rows, ascending within a group.
        tables: one for each substring.
    """

    n_bits: int
    distinct: NDArray[np.uint8]
    groups: tuple[Rows, Rows] | None
    tables: tuple[Table, ...]

    def arrays(self) -> Iterator[NDArray[Any]]:
        """Yield what the file does not have yet, in the order of ``index_shapes``."""
        if self.groups is not None:
            yield self.distinct
            yield from self.groups
        for table in self.tables:
            yield table.starts
            yield table.items

    @classmethod
    def from_arrays(
        cls, codes: NDArray[np.uint8], n_bits: int, n_tables: int, arrays: Sequence[NDArray[Any]]
    ) -> CodeIndex:
        """Undo ``arrays``: take the arrays as ``index_shapes`` describes them, without reading them."""
        grouped = len(arrays) > 2 * n_tables
        distinct, groups = (arrays[0], (arrays[1], arrays[2])) if grouped else (codes, None)
        rest = arrays[3 if grouped else 0 :]
        tables = tuple(
            Table(first_bit=first, width=last - first, starts=starts, items=items)
            for (first, last), starts, items in zip(_substrings(n_bits, n_tables), rest[::2], rest[1::2], strict=True)
        )
        return cls(n_bits=n_bits, distinct=distinct, groups=groups, tables=tables)


def index_shapes(n_items: int, size: int, n_bits: int, n_distinct: int, n_tables: int) -> list[tuple[str, int, int]]:
    """Return dtype, rows and columns of each array of an index, in order.

    Args:
        n_items: codes in the file.
        size: bytes of a code.
        n_bits: length of a code.
        n_distinct: items of the index; ``n_items`` where codes are not grouped.
        n_tables: substrings.

    Raises:
        ValueError: numbers that no index has.

    Source: ours.
    """
    if not 1 <= n_tables <= n_bits or not n_distinct <= n_items <= MAX_ITEMS or -(-n_bits // n_tables) > MAX_WIDTH:
        raise ValueError(f"{n_distinct} items in {n_tables} tables")
    groups = [("u1", n_distinct, size), ("<u4", n_distinct + 1, 1), ("<u4", n_items, 1)]
    shapes = groups if n_distinct < n_items else []
    for first, last in _substrings(n_bits, n_tables):
        shapes += [("<u4", (1 << (last - first)) + 1, 1), ("<u4", n_distinct, 1)]
    return shapes


def build_index(codes: NDArray[np.uint8], n_bits: int) -> CodeIndex:
    """Group equal codes and sort what is left by each substring.

    Substrings are about as long as the logarithm of the number of items, so that a bucket holds about one. Takes about
    30 bytes of memory for each code, and a few seconds for ten million.

    Args:
        codes: (n, code_size(n_bits)) uint8, n < 2^32, padding bits zero.
        n_bits: length of a code, 1..4096.

    Raises:
        DrhnError: an array of another shape or dtype, or too many codes.

    Source: Norouzi, Punjani, Fleet 2012, section 3; grouping is ours.
    """
    check_codes(codes, n_bits)
    if len(codes) > MAX_ITEMS:
        raise DrhnError("too many codes for an index", expected=f"at most {MAX_ITEMS}", found=str(len(codes)))
    distinct, groups = _group(codes)
    longest = min(max(_MIN_WIDTH, len(distinct).bit_length() - 1), MAX_WIDTH)
    tables = []
    for first, last in _substrings(n_bits, math.ceil(n_bits / longest)):
        keys = substring(distinct, first, last - first)
        starts = np.zeros((1 << (last - first)) + 1, dtype=np.uint32)
        np.cumsum(np.bincount(keys, minlength=len(starts) - 1), out=starts[1:])
        items = _stable_order(keys[:, np.newaxis].view(np.uint16), last - first).astype(np.uint32)
        tables.append(Table(first_bit=first, width=last - first, starts=starts, items=items))
    return CodeIndex(n_bits=n_bits, distinct=distinct, groups=groups, tables=tuple(tables))


def substring(codes: NDArray[np.uint8], first_bit: int, width: int) -> NDArray[np.uint32]:
    """Return bits ``first_bit`` to ``first_bit + width``, 1..28 of them, of each code as a number: (n,) uint32."""
    first_byte, shift = divmod(first_bit, 8)
    values = np.zeros(len(codes), dtype=np.uint64)
    for place in range((shift + width + 7) // 8):
        values |= codes[:, first_byte + place].astype(np.uint64) << np.uint64(8 * place)
    values >>= np.uint64(shift)
    return (values & np.uint64((1 << width) - 1)).astype(np.uint32)


def _substrings(n_bits: int, n_tables: int) -> Iterator[tuple[int, int]]:
    """Yield where each substring begins and ends: lengths that differ by one bit at most."""
    return pairwise(n_bits * table // n_tables for table in range(n_tables + 1))


def _group(codes: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], tuple[Rows, Rows] | None]:
    """Return the items and the rows that each stands for; see ``CodeIndex``."""
    n, size = codes.shape
    if not n:
        return codes, None
    padded = codes if size % 2 == 0 else np.pad(codes, ((0, 0), (0, 1)))
    columns = np.ascontiguousarray(padded).view("<u2")  # (n, ceil(size / 2))
    order = _stable_order(columns)
    is_new = np.zeros(n, dtype=np.bool_)
    is_new[0] = True
    for column in columns.T:
        ordered = column[order]
        is_new[1:] |= ordered[1:] != ordered[:-1]
    first_rows = order[is_new]  # of each group: the order is stable
    n_distinct = len(first_rows)
    if n_distinct > _GROUPED_SHARE * n:
        return codes, None
    by_first_row = np.argsort(first_rows)
    rank = np.empty(n_distinct, dtype=np.uint32)
    rank[by_first_row] = np.arange(n_distinct, dtype=np.uint32)
    item_of_row = np.empty(n, dtype=np.uint32)
    item_of_row[order] = rank[np.cumsum(is_new) - 1]
    starts = np.zeros(n_distinct + 1, dtype=np.uint32)
    np.cumsum(np.bincount(item_of_row, minlength=n_distinct), out=starts[1:])
    rows = _stable_order(item_of_row[:, np.newaxis].view(np.uint16)).astype(np.uint32)
    return codes[first_rows[by_first_row]], (starts, rows)


def _stable_order(columns: NDArray[np.uint16], n_used_bits: int | None = None) -> NDArray[np.int64]:
    """Sort rows of 16-bit digits, (n, digits), the last digit first in rank; equal rows stay in order.

    A radix sort: numpy sorts 16 bits so, and larger numbers by comparing, which takes several times as long.
    """
    n_digits = columns.shape[1] if n_used_bits is None else -(-n_used_bits // 16)
    order = np.argsort(columns[:, 0], kind="stable")
    for digit in range(1, n_digits):
        order = order[np.argsort(columns[order, digit], kind="stable")]
    return order
