"""Many code files made into one, a few blocks at a time."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from drhn_cli.codes.entries import Entries
from drhn_cli.codes.layout import BLOCK_ROWS
from drhn_cli.codes.manifest import CodeManifest
from drhn_cli.codes.reader import CodeFile
from drhn_cli.codes.writer import Block, write_blocks
from drhn_cli.errors import AnyPath, CodeFileError, printable
from drhn_cli.paths import common_folder


def merge_code_files(path: AnyPath, files: Sequence[CodeFile]) -> CodeManifest:
    """Write the rows of several code files into one, as if they had been hashed together.

    Paths become relative to the deepest folder that holds the roots of all. Memory does not grow with the number of
    rows: two blocks or so of each file are held. ``path`` may be one of the files. Hold its lock meanwhile.

    Args:
        path: of the code file to write.
        files: one or more, open and verified (their paths ascend), of the same model and code length.

    Returns:
        The manifest of the merged file.

    Raises:
        CodeFileError: two files hold the same picture, have no folder in common, or the file cannot be written; the
            old file is as it was.
    """
    roots = [os.fsencode(file.root) for file in files]
    found = printable(files[-1].root)
    root = common_folder(roots, CodeFileError("the parts have no folder in common", path=files[-1].path, found=found))
    first = files[0].manifest
    manifest = CodeManifest(
        root=os.fsdecode(root),
        n_bits=first.n_bits,
        model=first.model,
        fingerprint=first.fingerprint,
        preprocessing=first.preprocessing,
    )
    inner = [each[len(os.path.join(root, b"")) :] for each in roots]
    rows = _merge([_Part(*both) for both in zip(files, inner, strict=True) if both[0].n_items])
    write_blocks(path, _in_blocks(rows), sum(map(len, files)), manifest)
    return manifest


class _Part:
    """The rows of one file that are still to be merged: what is left of one block, and the blocks after it."""

    def __init__(self, file: CodeFile, folder: bytes) -> None:
        self.path = file.path
        self._folder = folder  # of its root, below the common one
        self._blocks = file.blocks()
        self.refill()

    def refill(self) -> bool:
        """Make sure that there is a row; return whether there is."""
        block = next(self._blocks, None)
        if block is None:
            return False
        self._codes, self._entries = block
        if self._folder:
            # The same in front of each: they ascend as before.
            paths = [os.path.join(self._folder, path) for path in self._entries.paths()]
            columns = (self._entries.sizes, self._entries.mtimes_ns, self._entries.inodes)
            self._entries = Entries.from_columns(paths, *columns)
        return True

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def last(self) -> bytes:
        return self._entries.path(len(self) - 1)

    def take(self, bound: bytes) -> Block:
        """Return and forget the rows up to a path."""
        end = bisect_right(range(len(self)), bound, key=self._entries.path)
        taken = self._codes[:end], self._entries.part(0, end)
        self._codes, self._entries = self._codes[end:], self._entries.part(end, len(self))
        return taken


def _merge(parts: list[_Part]) -> Iterator[Block]:
    """Yield the rows of all parts in order of paths, however many at a time."""
    while parts:
        # Every row up to the nearest end of a block is in memory, so equal paths meet here.
        bound = min(part.last for part in parts)
        codes, entries = zip(*(part.take(bound) for part in parts), strict=True)
        owners = np.repeat(np.arange(len(parts)), [len(taken) for taken in entries]).tolist()
        joined = Entries.concatenate(entries)
        names = list(joined.paths())
        order = sorted(range(len(names)), key=names.__getitem__)
        for row, following in pairwise(order):
            if names[row] == names[following]:
                raise CodeFileError(
                    "two parts hold the same picture",
                    path=parts[owners[row]].path,
                    found=f"{printable(names[row])}, also in {printable(parts[owners[following]].path)}",
                    hint="merge parts that have no picture in common",
                )
        columns = (joined.sizes[order], joined.mtimes_ns[order], joined.inodes[order])
        yield np.concatenate(codes)[order], Entries.from_columns([names[row] for row in order], *columns)
        parts = [part for part in parts if len(part) or part.refill()]


def _in_blocks(rows: Iterator[Block]) -> Iterator[Block]:
    """Yield the same rows, ``BLOCK_ROWS`` at a time."""
    held_codes: list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]] = []
    held: list[Entries] = []
    for more_codes, more in rows:
        held_codes.append(more_codes)
        held.append(more)
        if sum(map(len, held)) >= BLOCK_ROWS:
            codes, entries = np.concatenate(held_codes), Entries.concatenate(held)
            end = len(entries) - len(entries) % BLOCK_ROWS
            for start in range(0, end, BLOCK_ROWS):
                yield codes[start : start + BLOCK_ROWS], entries.part(start, start + BLOCK_ROWS)
            held_codes, held = [codes[end:]], [entries.part(end, len(entries))]
    if sum(map(len, held)):
        yield np.concatenate(held_codes), Entries.concatenate(held)
