"""Join code files that were made apart."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from drhn_cli.codes.reader import CodeFile, require_code_file
from drhn_cli.collection.merge_codes import merge_code_files
from drhn_cli.collection.update import LOCK_TIMEOUT_SECONDS
from drhn_cli.errors import AnyPath, CodeFileError, DrhnError, printable
from drhn_cli.files import lock_file
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
    parts: Sequence[AnyPath],
    codes_path: AnyPath,
    *,
    partial: bool = False,
    progress: Progress = SILENT,
) -> MergeSummary:
    """Join code files of one model into one, which is to the byte what hashing all their pictures at once would give.

    Args:
        parts: code files that have no picture in common.
        codes_path: the code file to write; one that is there is replaced, and it may be one of the parts.
        partial: join what there is of the parts of ``drhn hash --shard``, missing and unfinished ones or not.
        progress: is told if another run that writes the code file has to be waited for.

    Raises:
        CodeFileError: a part is missing or damaged, was made with another model or code length than the first, or
            holds a picture that another one holds; of parts that belong together one is missing or not finished, and
            ``partial`` was not asked for; the output is locked, is no code file, or cannot be written.
        DrhnError: no parts.
    """
    clock = time.monotonic()
    if not parts:
        raise DrhnError("nothing to merge", hint="name the code files to join")
    locked = lock_file(codes_path, "code file", CodeFileError, LOCK_TIMEOUT_SECONDS, progress=progress)
    with locked, ExitStack() as stack:
        require_code_file(codes_path)
        files = [stack.enter_context(CodeFile.open(path)) for path in parts]
        for file in files:
            _require_alike(file, files[0])
        if not partial:
            _require_complete(files)
        for file in files:
            # Codes that are taken over get a new checksum, and the merge relies on the order of paths.
            file.verify()
        manifest = merge_code_files(codes_path, files)
        return MergeSummary(
            n_parts=len(files),
            n_items=sum(map(len, files)),
            root=manifest.root,
            seconds=time.monotonic() - clock,
        )


def _require_alike(file: CodeFile, first: CodeFile) -> None:
    if (file.manifest.fingerprint, file.n_bits) != (first.manifest.fingerprint, first.n_bits):
        raise CodeFileError(
            "not of the model or code length of the first part",
            path=file.path,
            expected=_describe(first),
            found=_describe(file),
            hint="hash its pictures again with the weights and --bits of the others",
        )


def _require_complete(files: Sequence[CodeFile]) -> None:
    """Refuse parts of a collection that is not all there."""
    numbers = defaultdict(set)
    for file in files:
        if part := file.manifest.part:
            if not part.finished:
                hint = "run its drhn hash again, where all sources can be read, or merge what there is with --partial"
                raise CodeFileError(f"part {part.number} of {part.count} is not finished", path=file.path, hint=hint)
            numbers[file.root, part.count].add(part.number)
    for (root, count), there in numbers.items():
        if missing := [str(number) for number in range(1, count + 1) if number not in there]:
            shown = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
            hint = "name them, too, or merge what there is with --partial"
            if any(other != root and other_count == count for other, other_count in numbers):
                hint = "there are parts of other sources, too: hash each part again with the same ones"
            raise CodeFileError(
                "parts are missing",
                expected=f"all {count} of {printable(root)}",
                found=f"{len(there)}, without {shown}",
                hint=hint,
            )


def _describe(file: CodeFile) -> str:
    return f"{file.manifest.model} ({file.manifest.fingerprint[:12]}), {file.n_bits} bits"
