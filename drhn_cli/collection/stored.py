"""Read what a code file holds, for a run that brings it up to date."""

from __future__ import annotations

import os

import numpy as np

from drhn_cli.codes.entries import Entries
from drhn_cli.codes.manifest import CopyCodes
from drhn_cli.codes.pack import code_size
from drhn_cli.codes.reader import CodeFile
from drhn_cli.codes.writer import refuse_foreign_file
from drhn_cli.collection.plan import HashOptions, Stored
from drhn_cli.errors import AnyPath, CodeFileError, ConfigError, SourceError, printable
from drhn_cli.images.source import is_there
from drhn_cli.network.copy_code import DCT_VERSION
from drhn_cli.network.model import Model, choose_bits, load_model, model_of
from drhn_cli.paths import absolute_folder

COPY_CODES = CopyCodes(dct=DCT_VERSION)
"""Those that pictures get today."""


def read_stored(codes_path: AnyPath, options: HashOptions) -> Stored:
    """Read what a code file holds, and load the model that made it.

    Raises:
        CodeFileError, WeightsError, ConfigError, SourceError: see ``update_collection``.
    """
    # An empty file is what mktemp makes.
    if options.rebuild or not os.path.exists(codes_path) or not os.path.getsize(codes_path):
        return _nothing_stored(codes_path, options)
    with CodeFile.open(codes_path) as file:
        model = _model_of(file, options)
        # Codes that stay get a new checksum: they have to be intact.
        file.verify(index=False)
        root = os.fsencode(file.root) if options.root is None else _moved_root(file, options.root)
        entries = file.entries()
        paths = [os.path.join(root, path) for path in entries.paths()]
        if file.manifest.copy_codes == COPY_CODES:
            copy_codes, contents = np.array(file.copy_codes), entries.contents
        else:  # none, or of a version that cannot be compared with today's
            copy_codes, contents = np.zeros((len(paths), COPY_CODES.size), np.uint8), None
        return Stored(
            root=root,
            codes=np.array(file.codes),
            copy_codes=copy_codes,
            entries=Entries.from_stamps(paths, entries.stamps, contents),
            model=model,
            n_bits=file.n_bits,
            shard=file.manifest.shard,
            last_run=file.manifest.last_run,
        )


def _nothing_stored(codes_path: AnyPath, options: HashOptions) -> Stored:
    if options.root is not None:
        hint = "leave --root out"
        raise ConfigError("a new code file has no pictures that could have moved", path=codes_path, hint=hint)
    refuse_foreign_file(codes_path)
    model = load_model(options.weights, views=options.views)
    n_bits = choose_bits(options.n_bits, model)
    return Stored(
        root=b"",
        codes=np.empty((0, code_size(n_bits)), np.uint8),
        copy_codes=np.empty((0, COPY_CODES.size), np.uint8),
        entries=Entries.from_stamps([], []),
        model=model,
        n_bits=n_bits,
        is_new=True,
    )


def _model_of(file: CodeFile, options: HashOptions) -> Model:
    """Return the model that made the codes, if it is what is asked for."""
    model = model_of(file.manifest, options.weights, path=file.path)
    hint = "leave {} out, or hash again with --rebuild"
    if options.n_bits not in (None, file.n_bits):
        problem, expected, found = "the codes have another length", f"{options.n_bits} bits", f"{file.n_bits} bits"
        raise CodeFileError(problem, path=file.path, expected=expected, found=found, hint=hint.format("--bits"))
    if options.views not in (None, model.preprocessing.views):
        made, asked = ("without", "--tta") if options.views == 2 else ("with", "--no-tta")
        raise CodeFileError(f"the codes were made {made} --tta", path=file.path, hint=hint.format(asked))
    return model


def _moved_root(file: CodeFile, root: AnyPath) -> bytes:
    """Return the absolute new root, if any picture of the file is there: a wrong one would drop all codes."""
    absolute = absolute_folder(root)
    if file.n_items and not any(is_there(os.path.join(absolute, entry.path)) for entry in file):
        expected = f"the folder that was {printable(file.root)}"
        hint = "paths in a code file are relative to the root that drhn info shows"
        raise SourceError("no picture of the code file is below this folder", path=root, expected=expected, hint=hint)
    return absolute
