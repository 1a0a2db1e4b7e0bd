"""Make a code file of codes that another program has made."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.entries import Entries
from drhn_cli.codes.manifest import IMPORTED_FINGERPRINT, IMPORTED_MODEL, CodeManifest
from drhn_cli.codes.pack import MAX_BITS, code_size, pack_bits, padding_mask
from drhn_cli.codes.reader import require_code_file
from drhn_cli.codes.writer import write_code_file
from drhn_cli.collection.update import LOCK_TIMEOUT_SECONDS
from drhn_cli.errors import AnyPath, CodeFileError, DrhnError, SourceError
from drhn_cli.files import CORRUPT, FileStamp, lock_file, os_errors
from drhn_cli.paths import absolute_path, common_folder
from drhn_cli.progress import SILENT, Progress


@dataclass(frozen=True, kw_only=True)
class ImportSummary:
    """What was imported.

    Attributes:
        n_items: codes.
        n_bits: length of a code.
    """

    n_items: int
    n_bits: int


def import_codes(
    array_path: AnyPath,
    paths: Iterable[bytes],
    codes_path: AnyPath,
    n_bits: int | None,
    *,
    progress: Progress = SILENT,
) -> ImportSummary:
    """Write a code file, replacing one that is there.

    A path whose file is there gets that file's size and time, and a picture that changes later is no longer taken for
    the one that has the code. A path that leads nowhere is as good.

    Args:
        array_path: a ``.npy`` file: (n, code_size) uint8, packed as in a code file, or (n, bits) bool.
        paths: n of them, of row i the i-th; relative ones are taken from the working directory.
        codes_path: the code file.
        n_bits: length of a code. None: all columns.
        progress: is told if another run that writes the code file has to be waited for.

    Raises:
        DrhnError: no such array, another number of paths than of rows, a length that does not fit, bits set beyond it.
        CodeFileError: a path is given twice, or the code file is locked, something else, or cannot be written.
    """
    codes, length = _load_codes(array_path, n_bits)
    absolute = [absolute_path(path) for path in paths]
    if len(absolute) != len(codes):
        found = f"{len(absolute)} paths"
        raise DrhnError("a path is needed for each code", path=array_path, expected=str(len(codes)), found=found)
    if not all(map(os.path.basename, absolute)):
        raise DrhnError("no picture has this path", path=os.sep, hint="remove it from the list, and its code")
    apart = SourceError("the paths have no folder in common", hint="make a code file for each drive")
    root = common_folder({os.path.dirname(path) for path in absolute}, apart) if absolute else os.getcwdb()
    prefix = len(os.path.join(root, b""))
    entries = Entries.from_stamps([path[prefix:] for path in absolute], list(map(_stamp_of, absolute)))
    manifest = CodeManifest(
        root=os.fsdecode(root), n_bits=length, model=IMPORTED_MODEL, fingerprint=IMPORTED_FINGERPRINT
    )
    with lock_file(codes_path, "code file", CodeFileError, LOCK_TIMEOUT_SECONDS, progress=progress):
        require_code_file(codes_path)
        write_code_file(codes_path, codes, entries, manifest)
    return ImportSummary(n_items=len(codes), n_bits=length)


def _load_codes(path: AnyPath, n_bits: int | None) -> tuple[NDArray[np.uint8], int]:
    """Return (n, code_size) uint8 and the length of a code."""
    if os.path.exists(path) and not os.path.isfile(path):  # opening a FIFO would wait for a writer
        hint, found = "write it to a file first: it is mapped, not read", "a folder, pipe or device"
        raise DrhnError("cannot read the codes", path=path, expected="a .npy file", found=found, hint=hint)
    problem, expected = "cannot read the codes", "a .npy file"
    try:
        with os_errors(DrhnError, problem, path=path, expected=expected), np.errstate(over="ignore"):
            array = np.lib.format.open_memmap(os.fsdecode(path), mode="r")  # no pickles, and no other kind of file
    except CORRUPT as error:
        raise DrhnError(problem, path=path, expected=expected, found=" ".join(str(error).split())) from error
    if array.ndim != 2 or array.dtype not in (np.uint8, np.bool_):
        found = f"shape {array.shape} {array.dtype}"
        raise DrhnError("no codes", path=path, expected="shape (n, bytes) uint8 or (n, bits) bool", found=found)
    columns = array.shape[1]
    n_columns_bits = columns if array.dtype == np.bool_ else 8 * columns
    length = n_columns_bits if n_bits is None else n_bits
    if not 1 <= length <= MAX_BITS or (length != columns if array.dtype == np.bool_ else code_size(length) != columns):
        raise DrhnError(
            "codes of another length",
            path=path,
            expected=f"--bits 1..{MAX_BITS} that fit its columns",
            found=f"{length} bits, {columns} columns of {array.dtype}",
        )
    codes = pack_bits(array) if array.dtype == np.bool_ else array
    if len(codes) and (codes[:, -1] & padding_mask(length)).any():
        hint = f"bit j of a code is bit j % 8 of byte j / 8, and those from {length} on are zero"
        raise DrhnError("codes have bits set beyond their length", path=path, expected=f"{length} bits", hint=hint)
    return codes, length


def _stamp_of(path: bytes) -> FileStamp:
    """Return the stamp of a file; zeros where it cannot be looked at."""
    try:
        return FileStamp.of(os.stat(path))
    except (OSError, ValueError):
        return FileStamp(size=0, mtime_ns=0)
