"""Write a code file, whole or not at all, one writer at a time."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes import layout
from drhn_cli.codes.entries import Entries
from drhn_cli.codes.manifest import CodeManifest
from drhn_cli.codes.pack import check_codes, code_size, padding_mask
from drhn_cli.errors import AnyPath, CodeFileError, DrhnError, about, printable
from drhn_cli.files import atomic_write, lock_file, os_errors, read_head
from drhn_cli.progress import Progress

LOCK_TIMEOUT_SECONDS = 10.0
"""How long a writer waits for another one."""

Block = tuple[NDArray[np.uint8], Entries]
"""Codes, (m, code_size) uint8, and their m entries."""


def write_code_file(path: AnyPath, codes: NDArray[np.uint8], entries: Entries, manifest: CodeManifest) -> None:
    """Write a code file in one step: a crash at any moment leaves the old file or the new one.

    Equal content gives equal bytes, whatever the order of the rows. An existing file keeps its permissions, and a
    symbolic link keeps pointing at the file that is written. ``codes`` may be those of the file being replaced. Hold
    its lock meanwhile, or the work of another writer may be lost.

    Args:
        path: of the code file; its folder exists.
        codes: (n, code_size(manifest.n_bits)) uint8, padding bits zero, n >= 0.
        entries: n of them, row i for code i, in any order (they are sorted by path), no path empty or given twice.
        manifest: what made the codes.

    Raises:
        CodeFileError: the file cannot be written (no space, no permission, not a regular file), or two entries have the
            same path.
        DrhnError: codes, entries and manifest do not fit each other.
    """
    check_codes(codes, manifest.n_bits)
    if len(codes) != len(entries):
        raise DrhnError("codes and entries differ in number", expected=str(len(codes)), found=str(len(entries)))
    paths = list(entries.paths())
    order = sorted(range(len(paths)), key=paths.__getitem__)
    previous = None
    for name in map(paths.__getitem__, order):
        if not 0 < len(name) < layout.MAX_PATH_BYTES:
            raise DrhnError("path of no usable length", path=name, found=f"{len(name)} bytes")
        if name == previous:
            raise CodeFileError("two entries have the same path", path=path, found=printable(name))
        previous = name
    # Block by block, so that codes larger than memory pass through.
    blocks = (order[start : start + layout.BLOCK_ROWS] for start in range(0, len(order), layout.BLOCK_ROWS))
    write_blocks(path, ((codes[rows], entries.take(rows)) for rows in blocks), len(codes), manifest)


def write_blocks(path: AnyPath, blocks: Iterable[Block], n_items: int, manifest: CodeManifest) -> None:
    """Write a code file as ``write_code_file`` does, with no more than a block of it in memory.

    Args:
        path: of the code file; its folder exists.
        blocks: ascending by path throughout, ``layout.BLOCK_ROWS`` in each but the last.
        n_items: rows of all blocks.
        manifest: what made the codes.

    Raises:
        CodeFileError: the file cannot be written. What ``blocks`` raises passes through, and leaves the old file.
        DrhnError: codes have padding bits that are set.
    """
    hint = "the old file, if there was one, is unchanged"
    writing = os_errors(CodeFileError, "cannot write the code file", path=path, hint=hint)
    with writing, atomic_write(path) as stream:
        header = layout.pack_header(n_items, code_size(manifest.n_bits))
        stream.write(header)
        padding = padding_mask(manifest.n_bits)
        table = np.zeros(-(-n_items // layout.BLOCK_ROWS), dtype=layout.TABLE_DTYPE)
        entries_offset = len(header) + n_items * code_size(manifest.n_bits)
        codes_end, table_offset, codes_crc = len(header), entries_offset, 0
        for block, (codes, entries) in enumerate(blocks):
            if (codes[:, -1] & padding).any():
                raise DrhnError(f"codes have more than {manifest.n_bits} bits", expected="padding bits of zero")
            # Write both sections in one pass over the blocks, by seeking between them.
            raw = codes.tobytes()
            codes_crc = zlib.crc32(raw, codes_crc)
            stream.seek(codes_end)
            codes_end += stream.write(raw)
            raw = layout.pack_block(entries)
            stream.seek(table_offset)
            table_offset += stream.write(raw)
            table[block] = (table_offset - entries_offset, zlib.crc32(raw))
        text = manifest.to_json(n_items=n_items, format_version=layout.FORMAT_VERSION)
        trailer = layout.Trailer(
            entries_offset=entries_offset,
            table_offset=table_offset,
            manifest_offset=table_offset + table.nbytes,
            block_rows=layout.BLOCK_ROWS,
            header_crc=zlib.crc32(header),
            codes_crc=codes_crc,
            table_crc=zlib.crc32(table.tobytes()),
            manifest_crc=zlib.crc32(text),
        )
        stream.write(table.tobytes() + text + trailer.pack())


def lock_code_file(path: AnyPath, progress: Progress) -> AbstractContextManager[None]:
    """Return a context manager that locks a code file, which need not exist yet.

    Raises:
        CodeFileError: on entering: another writer still holds it, or it cannot be locked.
    """
    return lock_file(path, "code file", CodeFileError, LOCK_TIMEOUT_SECONDS, progress=progress)


def refuse_foreign_file(path: AnyPath) -> None:
    """Refuse to replace a file of another kind; a missing, empty or damaged code file is fine.

    Raises:
        CodeFileError: it does not begin like a code file, cannot be read, or is ``-``.
    """
    if os.fspath(path) in ("-", b"-"):
        raise CodeFileError("a code file cannot go to stdout", hint="name a file, other than -")
    with about(path), os_errors(CodeFileError, "cannot open the code file"), suppress(FileNotFoundError):
        layout.require_regular(os.stat(path), "name another file")
    start = read_head(path, "code file")[: len(layout.FAISS_MAGIC)]
    if start not in (b"", layout.FAISS_MAGIC):
        expected, hint = f"{layout.FAISS_MAGIC.decode()} at its start", "name another file, or remove this one first"
        problem = "not a code file, and it would be overwritten"
        raise CodeFileError(problem, path=path, expected=expected, found=repr(start), hint=hint)
