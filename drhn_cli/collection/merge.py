"""Merge code files, a few blocks at a time."""

from __future__ import annotations

import heapq
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from drhn_cli import __version__
from drhn_cli.codes.entries import STAMP_DTYPE, Entries
from drhn_cli.codes.layout import BLOCK_ROWS
from drhn_cli.codes.reader import CodeFile
from drhn_cli.codes.writer import Block, lock_code_file, refuse_foreign_file, write_blocks
from drhn_cli.errors import AnyPath, CodeFileError, DrhnError, printable
from drhn_cli.paths import common_folder
from drhn_cli.progress import SILENT, Progress


@dataclass(frozen=True, kw_only=True)
class MergeSummary:
    """What was joined.

    Attributes:
        n_parts: code files that were read.
        n_items: codes in the file now.
        root: folder that its paths are relative to.
        seconds: wall-clock time.
    """

    n_parts: int
    n_items: int
    root: str
    seconds: float


def merge_codes(
    parts: Sequence[AnyPath], codes_path: AnyPath, *, partial: bool = False, progress: Progress = SILENT
) -> MergeSummary:
    """Join code files of one model. The result has the bytes that hashing all their pictures at once would give.

    Paths become relative to the deepest folder that holds the roots of all. Memory does not grow with the number of
    rows: a block of each file is held.

    Args:
        parts: code files that have no picture in common.
        codes_path: the code file to write; one that is there is replaced, and it may be one of the parts.
        partial: merge the given shards even if others are missing or some are unfinished.
        progress: gets a note when this waits for another run that writes the code file.

    Raises:
        CodeFileError: a part is missing or damaged, was made with another model or code length than the first, or
            holds a picture that another one holds; a shard is missing or not finished, and ``partial`` was not asked
            for; the roots have no folder in common; the output is locked, is no code file, or cannot be written.
        DrhnError: no parts.
    """
    clock = time.monotonic()
    if not parts:
        raise DrhnError("nothing to merge", hint="name the code files to join")
    with lock_code_file(codes_path, progress), ExitStack() as stack:
        refuse_foreign_file(codes_path)
        files = [stack.enter_context(CodeFile.open(path)) for path in parts]
        for file in files:
            _require_alike(file, files[0])
        if not partial:
            _require_complete(files)
        for file in files:
            # The codes get a new checksum, and the merge relies on the order of paths.
            file.verify()
        n_items, last = sum(map(len, files)), files[-1]
        apart = CodeFileError("the parts have no folder in common", path=last.path, found=printable(last.root))
        root = common_folder((os.fsencode(file.root) for file in files), apart)
        # A prefix that all paths of a file have leaves their order as it is.
        rows = heapq.merge(*(_rows(file, root) for file in files), key=itemgetter(0))
        manifest = replace(files[0].manifest, root=os.fsdecode(root), drhn_version=__version__, shard=None)
        write_blocks(codes_path, _blocks(_distinct(rows)), n_items, manifest)
    seconds = time.monotonic() - clock
    return MergeSummary(n_parts=len(parts), n_items=n_items, root=manifest.root, seconds=seconds)


def _require_alike(file: CodeFile, first: CodeFile) -> None:
    if (file.manifest.fingerprint, file.n_bits) != (first.manifest.fingerprint, first.n_bits):
        expected, found = (
            f"{each.manifest.model} ({each.manifest.fingerprint[:12]}), {each.n_bits} bits" for each in (first, file)
        )
        problem = "not of the model or code length of the first part"
        hint = "hash its pictures again with the weights and --bits of the others"
        raise CodeFileError(problem, path=file.path, expected=expected, found=found, hint=hint)


def _require_complete(files: Sequence[CodeFile]) -> None:
    """Refuse unfinished or incomplete sets of shards."""
    numbers = defaultdict(set)
    for file in files:
        if shard := file.manifest.shard:
            if not shard.finished:
                hint = "run its drhn hash again, where all sources can be read, or merge what there is with --partial"
                raise CodeFileError(f"part {shard.number} of {shard.count} is not finished", path=file.path, hint=hint)
            numbers[file.root, shard.count].add(shard.number)
    for (root, count), there in numbers.items():
        if missing := [str(number) for number in range(1, count + 1) if number not in there]:
            shown = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
            hint = "name them, too, or merge what there is with --partial"
            if any(other != root and other_count == count for other, other_count in numbers):
                hint = "there are parts of other sources, too: hash each part again with the same ones"
            expected, found = f"all {count} of {printable(root)}", f"{len(there)}, without {shown}"
            raise CodeFileError("parts are missing", expected=expected, found=found, hint=hint)


_Row = tuple[bytes, AnyPath, NDArray[np.uint8], np.void]  # path, code file, code, stamp


def _rows(file: CodeFile, root: bytes) -> Iterator[_Row]:
    """Yield the rows of a file, with paths relative to a folder above it."""
    prefix = os.path.join(os.fsencode(file.root), b"")[len(os.path.join(root, b"")) :]
    for codes, entries in file.blocks():
        for path, code, stamp in zip(entries.paths(), codes, entries.stamps, strict=True):
            yield prefix + path, file.path, code, stamp


def _distinct(rows: Iterable[_Row]) -> Iterator[_Row]:
    """Yield the rows unchanged; refuse two with the same path."""
    previous: _Row | None = None
    for row in rows:
        if previous and row[0] == previous[0]:
            found = f"{printable(row[0])}, also in {printable(row[1])}"
            hint = "merge parts that have no picture in common"
            raise CodeFileError("two parts hold the same picture", path=previous[1], found=found, hint=hint)
        previous = row
        yield row


def _blocks(rows: Iterator[_Row]) -> Iterator[Block]:
    """Yield rows ``BLOCK_ROWS`` at a time."""
    while block := list(islice(rows, BLOCK_ROWS)):
        paths, _, codes, stamps = zip(*block, strict=True)
        yield (
            np.frombuffer(b"".join(codes), np.uint8).reshape(len(paths), -1),
            Entries.from_stamps(paths, np.frombuffer(b"".join(stamps), STAMP_DTYPE)),
        )
