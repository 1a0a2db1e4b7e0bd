"""Read a code file before an update, and load the model that made it."""

from __future__ import annotations

import os

import numpy as np

from drhn_cli.codes.entries import Entries
from drhn_cli.codes.pack import code_size
from drhn_cli.codes.reader import CodeFile
from drhn_cli.codes.writer import refuse_foreign_file
from drhn_cli.collection.plan import HashOptions, Stored
from drhn_cli.errors import AnyPath, CodeFileError, ConfigError, SourceError, printable
from drhn_cli.images.source import is_there
from drhn_cli.network.model import choose_bits, load_model, model_of
from drhn_cli.paths import absolute_folder


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
        hint = "leave {} out, or hash again with --rebuild"
        if options.n_bits not in (None, file.n_bits):
            problem, expected, found = "the codes have another length", f"{options.n_bits} bits", f"{file.n_bits} bits"
            raise CodeFileError(problem, path=codes_path, expected=expected, found=found, hint=hint.format("--bits"))
        if options.views not in (None, model.preprocessing.views):
            made, asked = ("without", "--tta") if options.views == 2 else ("with", "--no-tta")
            raise CodeFileError(f"the codes were made {made} --tta", path=codes_path, hint=hint.format(asked))
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
