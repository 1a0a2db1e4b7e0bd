"""Add to a code file what finds codes fast."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from drhn_cli.codes.index import build_index
from drhn_cli.codes.reader import CodeFile, lock_code_file
from drhn_cli.collection.update import LOCK_TIMEOUT_SECONDS
from drhn_cli.errors import AnyPath


@dataclass(frozen=True, kw_only=True)
class IndexSummary:
    """What was added.

    Attributes:
        n_items: codes in the file.
        n_distinct: entries of the index: codes, or groups of equal ones where that saves a quarter or more.
        widths: bits of the substring that each table sorts by.
        n_bytes: what the index takes in the file.
        seconds: wall-clock time.
    """

    n_items: int
    n_distinct: int
    widths: list[int]
    n_bytes: int
    seconds: float


def index_codes(codes_path: AnyPath, *, on_wait: Callable[[], None] = lambda: None) -> IndexSummary:
    """Add an index to a code file, or make it anew.

    Args:
        codes_path: the code file.
        on_wait: called once if another run that writes the code file has to be waited for.

    Raises:
        CodeFileError: the code file is missing, damaged, locked, or cannot be written.
        DrhnError: 2^32 codes or more.
    """
    clock = time.monotonic()
    with (
        lock_code_file(codes_path, LOCK_TIMEOUT_SECONDS, on_wait=on_wait),
        CodeFile.open(codes_path) as file,
    ):
        # An index of damaged codes would hide the damage.
        file.verify(index=False)
        index = build_index(file.codes, file.n_bits)
        file.add_index(index)
        return IndexSummary(
            n_items=file.n_items,
            n_distinct=len(index.distinct),
            widths=[table.width for table in index.tables],
            n_bytes=sum(array.nbytes for array in index.arrays()),
            seconds=time.monotonic() - clock,
        )
