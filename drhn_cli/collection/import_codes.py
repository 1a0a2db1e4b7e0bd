"""Make a code file of codes that another program has made."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.entries import Entries
from drhn_cli.codes.lock import lock_code_file
from drhn_cli.codes.manifest import IMPORTED_FINGERPRINT, IMPORTED_MODEL, CodeManifest
from drhn_cli.codes.pack import MAX_BITS, code_size, pack_bits, padding_mask
from drhn_cli.codes.reader import require_code_file
from drhn_cli.codes.writer import write_code_file
from drhn_cli.collection.update import LOCK_TIMEOUT_SECONDS
from drhn_cli.errors import AnyPath, DrhnError, SourceError
from drhn_cli.paths import absolute_path


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
    on_wait: Callable[[], None] = lambda: None,
) -> ImportSummary:
    """Write a code file, replacing one that is there.

    A path whose file is there gets that file's size and time, and a picture that changes later is no longer taken for
    the one that has the code. A path that leads nowhere is as good.

    Args:
        array_path: a ``.npy`` file: (n, code_size) uint8, packed as in a code file, or (n, bits) bool.
        paths: n of them, of row i the i-th; relative ones are taken from the working directory.
        codes_path: the code file.
        n_bits: length of a code. None: all columns.
        on_wait: called once if another run that writes the code file has to be waited for.

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
    try:
        root = os.path.commonpath({os.path.dirname(path) for path in absolute}) if absolute else os.getcwdb()
    except ValueError as error:
        raise SourceError("the paths have no folder in common", hint="make a code file for each drive") from error
    prefix = len(os.path.join(root, b""))
    sizes, mtimes_ns, inodes = zip(*map(_stat, absolute), strict=True) if absolute else ((), (), ())
    entries = Entries.from_columns([path[prefix:] for path in absolute], sizes, mtimes_ns, inodes)
    manifest = CodeManifest(
        root=os.fsdecode(root), n_bits=length, model=IMPORTED_MODEL, fingerprint=IMPORTED_FINGERPRINT
    )
    with lock_code_file(codes_path, LOCK_TIMEOUT_SECONDS, on_wait=on_wait):
        require_code_file(codes_path)
        write_code_file(codes_path, codes, entries, manifest)
    return ImportSummary(n_items=len(codes), n_bits=length)


def _load_codes(path: AnyPath, n_bits: int | None) -> tuple[NDArray[np.uint8], int]:
    """Return (n, code_size) uint8 and the length of a code."""
    if os.path.exists(path) and not os.path.isfile(path):  # opening a FIFO would wait for a writer
        hint, found = "write it to a file first: it is mapped, not read", "a folder, pipe or device"
        raise DrhnError("cannot read the codes", path=path, expected="a .npy file", found=found, hint=hint)
    try:
        with np.errstate(over="ignore"):  # of more rows than there can be
            array = np.lib.format.open_memmap(os.fsdecode(path), mode="r")  # no pickles, and no other kind of file
    except (OSError, ValueError, EOFError, OverflowError) as error:
        found = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        raise DrhnError("cannot read the codes", path=path, expected="a .npy file", found=found) from error
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


def _stat(path: bytes) -> tuple[int, int, int]:
    """Return size, time in ns and inode of a file; zeros where it cannot be looked at."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return 0, 0, 0
    return status.st_size, status.st_mtime_ns, status.st_ino
