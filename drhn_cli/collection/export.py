"""Write the codes and entries of a code file in forms that other programs read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from drhn_cli.codes.entries import Entry
from drhn_cli.codes.layout import FAISS_MAGIC
from drhn_cli.codes.pack import format_hex
from drhn_cli.codes.reader import CodeFile
from drhn_cli.errors import AnyPath, ConfigError, DrhnError
from drhn_cli.files import atomic_write, os_errors, refuse_overwrite

TEXT_FORMATS = ("tsv", "ndjson")
FORMATS = ("npy", *TEXT_FORMATS, "parquet")

_PARQUET_ROWS = 1 << 16

ShowPath = Callable[[bytes], bytes]


def export_rows(file: CodeFile, form: str, *, show_path: ShowPath, end: bytes = b"\n") -> Iterator[bytes]:
    r"""Yield a row of text for each code, in the order of paths.

    Args:
        file: an open code file.
        form: ``tsv``: code, size, time in ns and, last, because it may hold a tab, the path; or ``ndjson``: an object
            with the keys code, size, mtime_ns, path.
        show_path: makes of an absolute path what is written.
        end: of each row of ``tsv``.

    Raises:
        CodeFileError: the code file is damaged.
    """
    for code, entry, path in _rows(file, show_path):
        if form == "tsv":
            yield b"%s\t%d\t%d\t%s%s" % (code.encode(), entry.size, entry.mtime_ns, path, end)
        else:
            values = {"code": code, "size": entry.size, "mtime_ns": entry.mtime_ns, "path": os.fsdecode(path)}
            yield json.dumps(values).encode("ascii") + b"\n"


def export_file(file: CodeFile, path: AnyPath, form: str, *, show_path: ShowPath, end: bytes = b"\n") -> None:
    """Write a file of one of ``FORMATS``, whole or not at all.

    ``npy`` holds the packed codes alone, (n, code_size) uint8, in the order of paths. ``parquet`` has the columns of
    ``ndjson``, the code as binary of its length.

    Raises:
        ConfigError: parquet without pyarrow, or in the place of a code file or a picture.
        DrhnError: the file cannot be written, or parquet cannot hold a path.
        CodeFileError: the code file is damaged.
    """
    if os.path.exists(path) and os.path.samefile(path, file.path):
        raise ConfigError("the export would replace the code file", path=path, hint="give it another name")
    _require_no_other_kind(path)
    if form == "parquet":
        _import_pyarrow()
    with os_errors(DrhnError, "cannot write the export", path=path), atomic_write(path) as stream:
        if form == "npy":
            np.lib.format.write_array(stream, np.ascontiguousarray(file.codes), allow_pickle=False)
        elif form == "parquet":
            _write_parquet(file, stream, show_path)
        else:
            stream.writelines(export_rows(file, form, show_path=show_path, end=end))


def _rows(file: CodeFile, show_path: ShowPath) -> Iterator[tuple[str, Entry, bytes]]:
    root = os.fsencode(file.root)
    for code, entry in zip(file.codes, file, strict=True):
        yield format_hex(code), entry, show_path(os.path.join(root, entry.path))


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        hint = "install it: pip install 'drhn[parquet]'"
        raise ConfigError("parquet needs pyarrow, which is not here", hint=hint) from error
    return pyarrow, pyarrow.parquet


def _write_parquet(file: CodeFile, stream: BinaryIO, show_path: ShowPath) -> None:
    arrow, parquet = _import_pyarrow()
    columns = [("code", arrow.binary(file.codes.shape[1])), ("size", arrow.int64()), ("mtime_ns", arrow.int64())]
    manifest = file.manifest
    notes = {"drhn.bits": str(file.n_bits), "drhn.model": manifest.model, "drhn.fingerprint": manifest.fingerprint}
    schema = arrow.schema([*columns, ("path", arrow.string())], metadata=notes)
    with parquet.ParquetWriter(stream, schema) as writer:
        rows: list[dict[str, Any]] = []
        for code, entry, path in _rows(file, show_path):
            try:
                text = path.decode()
            except UnicodeDecodeError as error:
                hint = "export to .ndjson or .tsv, which hold any name"
                raise DrhnError("parquet holds no path that is not UTF-8", path=path, hint=hint) from error
            rows.append({"code": bytes.fromhex(code), "size": entry.size, "mtime_ns": entry.mtime_ns, "path": text})
            if len(rows) == _PARQUET_ROWS:
                writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
                rows = []
        writer.write_table(arrow.Table.from_pylist(rows, schema=schema))


def _require_no_other_kind(path: AnyPath) -> None:
    if not os.path.isfile(path):
        return
    from drhn_cli.images.formats import picture_suffixes  # Pillow, which is seldom needed

    def refusal(kind: str) -> ConfigError:
        return ConfigError(f"the export would replace {kind}", path=path, hint="give it another name")

    no_codes = lambda head: not head.startswith(FAISS_MAGIC)  # noqa: E731
    refuse_overwrite(path, "export", no_codes, lambda _: refusal("another code file"))
    if os.path.splitext(os.fsencode(path))[1].lower() in picture_suffixes():
        raise refusal("a picture")
