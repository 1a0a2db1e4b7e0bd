"""Codes for other programs and from them: export a code file, or make one of an array and a list of paths."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.entries import Entries
from drhn_cli.codes.layout import FAISS_MAGIC
from drhn_cli.codes.manifest import IMPORTED_FINGERPRINT, IMPORTED_MODEL, CodeManifest
from drhn_cli.codes.pack import MAX_BITS, code_size, format_hex, pack_bits, padding_mask
from drhn_cli.codes.reader import CodeFile
from drhn_cli.codes.writer import lock_code_file, refuse_foreign_file, write_code_file
from drhn_cli.errors import AnyPath, ConfigError, DrhnError, SourceError, about
from drhn_cli.files import CORRUPT, FileStamp, atomic_write, os_errors, read_head
from drhn_cli.paths import absolute_path, common_folder
from drhn_cli.progress import SILENT, Progress

TEXT_FORMATS = ("tsv", "ndjson")
FORMATS = ("npy", "npz", *TEXT_FORMATS, "parquet")

_PARQUET_ROWS = 1 << 16

ShowPath = Callable[[bytes], bytes]


def export_rows(file: CodeFile, form: str, *, show_path: ShowPath, end: bytes = b"\n") -> Iterator[bytes]:
    r"""Yield a row of text for each code, in the order of paths.

    Args:
        file: an open code file.
        form: ``tsv``: code, size, time in ns and, last, because it may hold a tab, the path; or ``ndjson``: an object
            with the keys code, size, mtime_ns, path.
        show_path: turns an absolute path into what is written.
        end: of each row of ``tsv``.

    Raises:
        CodeFileError: the code file is damaged.
    """
    for code, size, mtime_ns, path in _rows(file, show_path):
        if form == "tsv":
            yield b"%s\t%d\t%d\t%s%s" % (code.encode(), size, mtime_ns, path, end)
        else:
            values = {"code": code, "size": size, "mtime_ns": mtime_ns, "path": os.fsdecode(path)}
            yield json.dumps(values).encode("ascii") + b"\n"


def export_file(file: CodeFile, path: AnyPath, form: str, *, show_path: ShowPath, end: bytes = b"\n") -> None:
    """Write a file of one of ``FORMATS``, whole or not at all.

    ``npy`` holds the packed codes alone, (n, code_size) uint8, in the order of paths. ``npz`` holds the arrays
    ``codes``, ``copy_codes`` (n, 0, 32 or 64) uint8, ``paths`` (n,) bytes, and ``width`` and ``height`` (n,) uint32,
    which are 0 where a picture was not read. ``parquet`` has the columns of ``ndjson``, the code as binary of its
    length.

    Raises:
        ConfigError: parquet without pyarrow, or in the place of a code file or a picture.
        DrhnError: the file cannot be written, or parquet cannot hold a path.
        CodeFileError: the code file is damaged.
    """
    if os.path.exists(path) and os.path.samefile(path, file.path):
        raise ConfigError("the export would replace the code file", path=path, hint="give it another name")
    _require_no_other_kind(path)
    with os_errors(DrhnError, "cannot write the export", path=path), atomic_write(path) as stream:
        if form == "npy":
            np.lib.format.write_array(stream, np.ascontiguousarray(file.codes), allow_pickle=False)
        elif form == "npz":
            _write_npz(file, stream, show_path)
        elif form == "parquet":
            _write_parquet(file, stream, show_path)
        else:
            stream.writelines(export_rows(file, form, show_path=show_path, end=end))


def _rows(file: CodeFile, show_path: ShowPath) -> Iterator[tuple[str, int, int, bytes]]:
    root = os.fsencode(file.root)
    for code, entry in zip(file.codes, file, strict=True):
        yield format_hex(code), entry.stamp.size, entry.stamp.mtime_ns, show_path(os.path.join(root, entry.path))


def _write_npz(file: CodeFile, stream: BinaryIO, show_path: ShowPath) -> None:
    root, entries = os.fsencode(file.root), file.entries()
    paths = [show_path(os.path.join(root, path)) for path in entries.paths()]
    np.savez(
        stream,
        codes=file.codes,
        copy_codes=file.copy_codes,
        paths=np.array(paths, np.bytes_),  # not every name is UTF-8
        width=entries.contents["width"],
        height=entries.contents["height"],
    )


def _write_parquet(file: CodeFile, stream: BinaryIO, show_path: ShowPath) -> None:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        hint = "install it: pip install 'drhn[parquet]'"
        raise ConfigError("parquet needs pyarrow, which is not here", hint=hint) from error
    columns = [("code", arrow.binary(file.codes.shape[1])), ("size", arrow.int64()), ("mtime_ns", arrow.int64())]
    manifest = file.manifest
    notes = {"drhn.bits": str(file.n_bits), "drhn.model": manifest.model, "drhn.fingerprint": manifest.fingerprint}
    schema = arrow.schema([*columns, ("path", arrow.string())], metadata=notes)
    with parquet.ParquetWriter(stream, schema) as writer:
        rows: list[dict[str, Any]] = []
        for code, size, mtime_ns, path in _rows(file, show_path):
            try:
                text = path.decode()
            except UnicodeDecodeError as error:
                hint = "export to .ndjson or .tsv, which hold any name"
                raise DrhnError("parquet holds no path that is not UTF-8", path=path, hint=hint) from error
            rows.append({"code": bytes.fromhex(code), "size": size, "mtime_ns": mtime_ns, "path": text})
            if len(rows) == _PARQUET_ROWS:
                writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
                rows = []
        writer.write_table(arrow.Table.from_pylist(rows, schema=schema))


def _require_no_other_kind(path: AnyPath) -> None:
    if not os.path.isfile(path):
        return
    from drhn_cli.images.formats import picture_suffixes  # Pillow, which is seldom needed

    kind = None
    if read_head(path, "export").startswith(FAISS_MAGIC):
        kind = "another code file"
    elif os.path.splitext(os.fsencode(path))[1].lower() in picture_suffixes():
        kind = "a picture"
    if kind:
        raise ConfigError(f"the export would replace {kind}", path=path, hint="give it another name")


def import_codes(
    array_path: AnyPath, paths: Iterable[bytes], codes_path: AnyPath, n_bits: int | None, progress: Progress = SILENT
) -> tuple[int, int]:
    """Write a code file, replacing one that is there.

    Each path gets the current stamp of its file, so that later changes of the picture are noticed. A path without a
    file is allowed.

    Args:
        array_path: a ``.npy`` file: (n, code_size) uint8, packed as in a code file, or (n, bits) bool.
        paths: n of them, of row i the i-th; relative ones are taken from the working directory.
        codes_path: the code file.
        n_bits: length of a code. None: all columns.
        progress: gets a note when this waits for another run that writes the code file.

    Returns:
        How many codes there are, and the length of a code.

    Raises:
        DrhnError: no such array, another number of paths than of rows, a length that does not fit, bits set beyond it.
        CodeFileError: a path is given twice, or the code file is locked, something else, or cannot be written.
    """
    with about(array_path):
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
    with lock_code_file(codes_path, progress):
        refuse_foreign_file(codes_path)
        write_code_file(codes_path, codes, entries, manifest)
    return len(codes), length


def _stamp_of(path: bytes) -> FileStamp:
    with suppress(OSError, ValueError):
        return FileStamp.of(os.stat(path))
    return FileStamp(size=0, mtime_ns=0)


def _load_codes(path: AnyPath, n_bits: int | None) -> tuple[NDArray[np.uint8], int]:
    """Return (n, code_size) uint8 and the length of a code."""
    array = _open_array(path)
    is_bits, columns = array.dtype == np.bool_, array.shape[1]
    n_columns_bits = columns if is_bits else 8 * columns
    length = n_columns_bits if n_bits is None else n_bits
    if not 1 <= length <= MAX_BITS or (length if is_bits else code_size(length)) != columns:
        found = f"{length} bits, {columns} columns of {array.dtype}"
        raise DrhnError("codes of another length", expected=f"--bits 1..{MAX_BITS} that fit its columns", found=found)
    codes = pack_bits(array) if is_bits else array
    if len(codes) and (codes[:, -1] & padding_mask(length)).any():
        hint = f"bit j of a code is bit j % 8 of byte j / 8, and those from {length} on are zero"
        raise DrhnError("codes have bits set beyond their length", expected=f"{length} bits", hint=hint)
    return codes, length


def _open_array(path: AnyPath) -> NDArray[Any]:
    """Map a ``.npy`` file of codes into memory."""
    problem, expected = "cannot read the codes", "a .npy file"
    if os.path.exists(path) and not os.path.isfile(path):  # opening a FIFO would wait for a writer
        hint, found = "write it to a file first: it is mapped, not read", "a folder, pipe or device"
        raise DrhnError(problem, expected=expected, found=found, hint=hint)
    try:
        # numpy computes the size of more rows than there can be without a check.
        with os_errors(DrhnError, problem, expected=expected), np.errstate(over="ignore"):
            array = np.lib.format.open_memmap(os.fsdecode(path), mode="r")  # no pickles, and no other kind of file
    except CORRUPT as error:
        raise DrhnError(problem, expected=expected, found=" ".join(str(error).split())) from error
    if array.ndim != 2 or array.dtype not in (np.uint8, np.bool_):
        expected, found = "shape (n, bytes) uint8 or (n, bits) bool", f"shape {array.shape} {array.dtype}"
        raise DrhnError("no codes", expected=expected, found=found)
    return array
