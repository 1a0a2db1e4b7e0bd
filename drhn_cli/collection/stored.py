"""What a code file holds before it is brought up to date, and the model that made it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.entries import Entries
from drhn_cli.codes.manifest import Shard
from drhn_cli.codes.pack import code_size
from drhn_cli.codes.reader import CodeFile
from drhn_cli.codes.writer import refuse_foreign_file
from drhn_cli.collection.options import HashOptions
from drhn_cli.errors import AnyPath, CodeFileError, ConfigError, SourceError, printable
from drhn_cli.images.source import is_there
from drhn_cli.network.model import Model, choose_bits, load_model, model_of
from drhn_cli.paths import absolute_folder


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """What a code file holds, with absolute paths, and what goes on with it. ``in`` is for pictures and their folders.

    Attributes:
        root: folder that its paths are relative to, where it lies now; empty if there is no file yet.
        codes: (n, code_size) uint8.
        entries: of the n rows.
        model: that made the codes.
        n_bits: length of a code.
        shard: that the file holds; None: not one of several.
        is_new: whether there is no file, or what it holds is to be forgotten.
    """

    root: bytes
    codes: NDArray[np.uint8]
    entries: Entries
    model: Model
    n_bits: int
    shard: Shard | None = None
    is_new: bool = False

    @cached_property
    def rows(self) -> dict[bytes, int]:
        """The row of each path."""
        return {path: row for row, path in enumerate(self.entries.paths())}

    @cached_property
    def folders(self) -> set[bytes]:
        """The folders and archives that have pictures, at any depth."""
        folders: set[bytes] = set()
        for path in self.rows:
            while (path := os.path.dirname(path)) not in folders:
                folders.add(path)
        return folders

    def __contains__(self, path: bytes) -> bool:
        return path in self.rows or path in self.folders


def read_stored(codes_path: AnyPath, options: HashOptions) -> Stored:
    """Read what a code file holds, and load the model that made it.

    Raises:
        CodeFileError: the file is damaged, or was made with another model, code length or number of views.
        ConfigError: ``options.root`` without a code file.
        SourceError: nothing of the code file is below ``options.root``.
    """
    # An empty file is what mktemp makes.
    if options.rebuild or not os.path.exists(codes_path) or not os.path.getsize(codes_path):
        if options.root is not None:
            hint = "leave --root out"
            raise ConfigError("a new code file has no pictures that could have moved", path=codes_path, hint=hint)
        refuse_foreign_file(codes_path)
        model = load_model(options.weights, views=options.views)
        n_bits = choose_bits(options.n_bits, model)
        empty = np.empty((0, code_size(n_bits)), np.uint8)
        entries = Entries.from_stamps([], [])
        return Stored(root=b"", codes=empty, entries=entries, model=model, n_bits=n_bits, is_new=True)
    with CodeFile.open(codes_path) as file:
        model = model_of(file.manifest, options.weights, path=file.path)
        _require_length(file, options.n_bits)
        _require_views(file, model, options.views)
        # Codes that stay get a new checksum: they have to be intact.
        file.verify(index=False)
        root = os.fsencode(file.root) if options.root is None else _moved_root(file, options.root)
        entries = file.entries()
        entries = entries.with_paths([os.path.join(root, path) for path in entries.paths()])
        codes, shard = np.array(file.codes), file.manifest.shard
        return Stored(root=root, codes=codes, entries=entries, model=model, n_bits=file.n_bits, shard=shard)


def _moved_root(file: CodeFile, root: AnyPath) -> bytes:
    """Return the absolute new root, if any picture of the file is there: a wrong one would drop all codes."""
    absolute = absolute_folder(root)
    if file.n_items and not any(is_there(os.path.join(absolute, entry.path)) for entry in file):
        raise SourceError(
            "no picture of the code file is below this folder",
            path=root,
            expected=f"the folder that was {printable(file.root)}",
            hint="paths in a code file are relative to the root that drhn info shows",
        )
    return absolute


def _require_views(file: CodeFile, model: Model, views: int | None) -> None:
    if views not in (None, model.preprocessing.views):
        made, asked = ("without", "--tta") if views == 2 else ("with", "--no-tta")
        hint = f"leave {asked} out, or hash again with --rebuild"
        raise CodeFileError(f"the codes were made {made} --tta", path=file.path, hint=hint)


def _require_length(file: CodeFile, n_bits: int | None) -> None:
    if n_bits is not None and file.n_bits != n_bits:
        raise CodeFileError(
            "the codes have another length",
            path=file.path,
            expected=f"{n_bits} bits",
            found=f"{file.n_bits} bits",
            hint="leave --bits out, or hash again with --rebuild",
        )
