"""Merge code files, a few blocks at a time."""

from __future__ import annotations

import heapq
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain, islice
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drhn_cli import __version__
from drhn_cli.codes.entries import CONTENT_DTYPE, NOT_READ, STAMP_DTYPE, Entries
from drhn_cli.codes.layout import BLOCK_ROWS
from drhn_cli.codes.manifest import CopyCodes, LastRun
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
        CodeFileError: a part is missing or damaged, was made with another model or code length than the first, has copy
            codes of another kind, or holds a picture that another one holds; a shard is missing or not finished, and
            ``partial`` was not asked for; the roots have no folder in common; the output is locked, is no code file,
            or cannot be written.
        DrhnError: no parts.
    """
    clock = time.monotonic()
    if not parts:
        raise DrhnError("nothing to merge", hint="name the code files to join")
    with lock_code_file(codes_path, progress), ExitStack() as stack:
        refuse_foreign_file(codes_path)
        files = [stack.enter_context(CodeFile.open(path)) for path in parts]
        copy_codes = next((file.manifest.copy_codes for file in files if file.manifest.copy_codes), None)
        for file in files:
            _require_alike(file, files[0], copy_codes)
        if not partial:
            _require_complete(files)
        for file in files:
            # The codes get a new checksum, and the merge relies on the order of paths.
            file.verify()
        n_items, last = sum(map(len, files)), files[-1]
        apart = CodeFileError("the parts have no folder in common", path=last.path, found=printable(last.root))
        root = common_folder((os.fsencode(file.root) for file in files), apart)
        # A prefix that all paths of a file have leaves their order as it is.
        made_by = replace(files[0].manifest, copy_codes=copy_codes, drhn_version=__version__, shard=None)
        manifest = replace(made_by, root=os.fsdecode(root), last_run=_joined_run(files))
        rows = heapq.merge(*(_rows(file, root, manifest.copy_code_size) for file in files), key=itemgetter(0))
        write_blocks(codes_path, _blocks(_distinct(rows)), n_items, manifest)
    seconds = time.monotonic() - clock
    return MergeSummary(n_parts=len(parts), n_items=n_items, root=manifest.root, seconds=seconds)


def _joined_run(files: Sequence[CodeFile]) -> LastRun | None:
    """Return the run that would make the whole, if the parts were made with equal options."""
    runs = [run for file in files if (run := file.manifest.last_run)]
    sources = [run.sources for run in runs if run.sources is not None]
    if len(sources) < len(files) or any(run.options != runs[0].options for run in runs):
        return None
    return LastRun(sources=list(dict.fromkeys(chain.from_iterable(sources))), options=runs[0].options)


def _require_alike(file: CodeFile, first: CodeFile, copy_codes: CopyCodes | None) -> None:
    if file.manifest.copy_codes not in (None, copy_codes):
        expected, found = (
            f"version {kind.dct}, {(kind.head and kind.head[:12]) or 'no head'}"
            for kind in (copy_codes, file.manifest.copy_codes)
            if kind
        )
        hint = "hash its pictures again with this version of drhn"
        raise CodeFileError("copy codes of another kind", path=file.path, expected=expected, found=found, hint=hint)
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
        if n_missing := count - len(there):
            # The count is what a file says: a list of all could be of any length.
            missing = islice((str(number) for number in range(1, count + 1) if number not in there), 10)
            shown = ", ".join(missing) + (", ..." if n_missing > 10 else "")
            hint = "name them, too, or merge what there is with --partial"
            if any(other != root and other_count == count for other, other_count in numbers):
                hint = "there are parts of other sources, too: hash each part again with the same ones"
            expected, found = f"all {count} of {printable(root)}", f"{len(there)}, without {shown}"
            raise CodeFileError("parts are missing", expected=expected, found=found, hint=hint)


class _Row(NamedTuple):
    path: bytes
    file: AnyPath  # the code file that it is from
    code: NDArray[np.uint8]
    stamp: np.void
    content: np.void
    copy_code: NDArray[np.uint8]


def _rows(file: CodeFile, root: bytes, copy_code_size: int) -> Iterator[_Row]:
    """Yield the rows of a file, with paths relative to a folder above it, and copy codes of this size."""
    prefix = os.path.join(os.fsencode(file.root), b"")[len(os.path.join(root, b"")) :]
    for codes, entries, copy_codes in file.blocks():
        contents = entries.contents
        if copy_codes.shape[1] != copy_code_size:  # the file has none, so its pictures count as not read
            copy_codes = np.zeros((len(codes), copy_code_size), np.uint8)
            contents = np.full(len(codes), NOT_READ)
        columns = codes, entries.stamps, contents, copy_codes
        for path, *row in zip(entries.paths(), *columns, strict=True):
            yield _Row(prefix + path, file.path, *row)


def _distinct(rows: Iterable[_Row]) -> Iterator[_Row]:
    """Yield the rows unchanged; refuse two with the same path."""
    previous: _Row | None = None
    for row in rows:
        if previous and row.path == previous.path:
            found = f"{printable(row.path)}, also in {printable(row.file)}"
            hint = "merge parts that have no picture in common"
            raise CodeFileError("two parts hold the same picture", path=previous.file, found=found, hint=hint)
        previous = row
        yield row


def _blocks(rows: Iterator[_Row]) -> Iterator[Block]:
    """Yield rows ``BLOCK_ROWS`` at a time."""
    while block := list(islice(rows, BLOCK_ROWS)):
        paths, _, codes, stamps, contents, copy_codes = zip(*block, strict=True)
        columns = np.frombuffer(b"".join(stamps), STAMP_DTYPE), np.frombuffer(b"".join(contents), CONTENT_DTYPE)
        yield Block(_joined(codes), Entries.from_stamps(paths, *columns), _joined(copy_codes))


def _joined(rows: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(map(bytes, rows)), np.uint8).reshape(len(rows), len(rows[0]))
