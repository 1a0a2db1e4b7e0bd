"""Write a code file, whole or not at all, one writer at a time."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from typing import NamedTuple

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


class Block(NamedTuple):
    """Some rows of a code file.

    Attributes:
        codes: (m, code_size) uint8.
        entries: m of them.
        copy_codes: (m, manifest.copy_code_size) uint8; zeros where the content of an entry is not known.
    """

    codes: NDArray[np.uint8]
    entries: Entries
    copy_codes: NDArray[np.uint8]


def write_code_file(
    path: AnyPath,
    codes: NDArray[np.uint8],
    entries: Entries,
    manifest: CodeManifest,
    copy_codes: NDArray[np.uint8] | None = None,
) -> None:
    """Write a code file in one step: a crash at any moment leaves the old file or the new one.

    Equal content gives equal bytes, whatever the order of the rows. Permissions and symbolic links are kept as
    ``atomic_write`` keeps them. ``codes`` may be those of the file being replaced. Hold its lock meanwhile, or the work
    of another writer may be lost.

    Args:
        path: of the code file; its folder exists.
        codes: (n, code_size(manifest.n_bits)) uint8, padding bits zero, n >= 0.
        entries: n of them, row i for code i, in any order (they are sorted by path), no path empty or given twice.
        manifest: what made the codes.
        copy_codes: (n, manifest.copy_code_size) uint8; None: there are none, or none is known.

    Raises:
        CodeFileError: the file cannot be written (no space, no permission, not a regular file), or two entries have the
            same path.
        DrhnError: codes, entries and manifest do not fit each other.
    """
    check_codes(codes, manifest.n_bits)
    if len(codes) != len(entries):
        raise DrhnError("codes and entries differ in number", expected=str(len(codes)), found=str(len(entries)))
    if copy_codes is None:
        copy_codes = np.zeros((len(codes), manifest.copy_code_size), np.uint8)
    elif copy_codes.shape != (len(codes), manifest.copy_code_size):
        expected = f"shape {(len(codes), manifest.copy_code_size)}"
        raise DrhnError("copy codes do not fit the codes", expected=expected, found=f"shape {copy_codes.shape}")
    paths = list(entries.paths())
    order = sorted(range(len(paths)), key=paths.__getitem__)
    previous = None
    for name in map(paths.__getitem__, order):
        if name == previous:
            raise CodeFileError("two entries have the same path", path=path, found=printable(name))
        previous = name
    # Block by block, so that codes larger than memory pass through.
    blocks = (order[start : start + layout.BLOCK_ROWS] for start in range(0, len(order), layout.BLOCK_ROWS))
    parts = (Block(codes[rows], entries.take(rows), copy_codes[rows]) for rows in blocks)
    write_blocks(path, parts, len(codes), manifest)


def write_blocks(path: AnyPath, blocks: Iterable[Block], n_items: int, manifest: CodeManifest) -> None:
    """Write a code file as ``write_code_file`` does, with no more than a block of it in memory.

    Args:
        path: of the code file; its folder exists.
        blocks: ascending by path throughout, ``layout.BLOCK_ROWS`` in each but the last.
        n_items: rows of all blocks.
        manifest: what made the codes.

    Raises:
        CodeFileError: the file cannot be written. What ``blocks`` raises passes through, and leaves the old file.
        DrhnError: codes have padding bits that are set, or a path is none below a root.
    """
    hint = "the old file, if there was one, is unchanged"
    writing = os_errors(CodeFileError, "cannot write the code file", path=path, hint=hint)
    with writing, atomic_write(path) as stream:
        header = layout.pack_header(n_items, code_size(manifest.n_bits))
        stream.write(header)
        copy_offset = len(header) + n_items * code_size(manifest.n_bits)
        entries_offset = copy_offset + n_items * manifest.copy_code_size
        table = np.zeros(-(-n_items // layout.BLOCK_ROWS), dtype=layout.TABLE_DTYPE)
        ends, codes_crc = [len(header), copy_offset, entries_offset], 0
        for number, block in enumerate(blocks):
            parts = _packed(block, manifest.n_bits)
            # Write all three sections in one pass over the blocks, by seeking between them.
            for section, raw in enumerate(parts):
                stream.seek(ends[section])
                ends[section] += stream.write(raw)
            codes_crc = zlib.crc32(parts[0], codes_crc)
            table[number] = (ends[2] - entries_offset, zlib.crc32(parts[2]), zlib.crc32(parts[1]))
        text = manifest.to_json(n_items=n_items, format_version=layout.FORMAT_VERSION)
        trailer = layout.Trailer(
            entries_offset=entries_offset,
            table_offset=ends[2],
            manifest_offset=ends[2] + table.nbytes,
            block_rows=layout.BLOCK_ROWS,
            header_crc=zlib.crc32(header),
            codes_crc=codes_crc,
            table_crc=zlib.crc32(table.tobytes()),
            manifest_crc=zlib.crc32(text),
        )
        stream.seek(ends[2])
        stream.write(table.tobytes() + text + trailer.pack())


def _packed(block: Block, n_bits: int) -> tuple[bytes, bytes, bytes]:
    """Return the bytes of codes, copy codes and entries."""
    if (block.codes[:, -1] & padding_mask(n_bits)).any():
        raise DrhnError(f"codes have more than {n_bits} bits", expected="padding bits of zero")
    if problem := layout.find_problem(block.entries):
        raise DrhnError(f"a code file cannot hold {problem}", expected="paths of pictures below a folder")
    return block.codes.tobytes(), block.copy_codes.tobytes(), layout.pack_block(block.entries)


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
