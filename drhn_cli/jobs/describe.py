"""Say what a code file or a weights file is."""

from __future__ import annotations

import os
import stat
from dataclasses import asdict
from typing import Any

from drhn_cli.codes.file import CodeFile
from drhn_cli.errors import AnyPath, DrhnError
from drhn_cli.network.bundled import bundled_paths
from drhn_cli.network.weights import Weights, load_weights

_ZIP_MAGIC = b"PK"


def describe_file(path: AnyPath, *, verify: bool = False) -> dict[str, Any]:
    """Return what a code file or a weights file says of itself, JSON-ready; ``kind`` tells which it is.

    Args:
        path: the file.
        verify: read all of a code file and check it. Weights are always checked in full.

    Raises:
        DrhnError: the file cannot be read, is neither, or is damaged.
    """
    try:
        # Anything but a regular file is left to CodeFile to refuse: to open a pipe is to wait for its writer.
        start = b""
        if stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "rb") as stream:
                start = stream.read(len(_ZIP_MAGIC))
    except OSError as error:
        raise DrhnError("cannot read the file", path=path, found=error.strerror or str(error)) from error
    if start.startswith(_ZIP_MAGIC):
        return describe_weights(load_weights(path))
    with CodeFile.open(path) as file:
        if verify:
            file.verify()
        manifest = file.manifest
        return {
            "kind": "codes",
            "n_items": file.n_items,
            "bits": file.n_bits,
            "root": manifest.root,
            "model": manifest.model,
            "fingerprint": manifest.fingerprint,
            "preprocessing": dict(manifest.preprocessing),
            "drhn_version": manifest.drhn_version,
            "part": manifest.part and asdict(manifest.part),
            "index": file.index
            and {
                "n_distinct": len(file.index.distinct),
                "widths": [table.width for table in file.index.tables],
            },
            "verified": verify,
        }


def describe_weights(weights: Weights) -> dict[str, Any]:
    """Return what weights say of themselves, JSON-ready."""
    return {
        "kind": "weights",
        "name": weights.name,
        "bits": list(weights.network.code_lengths),
        "classes": list(weights.class_names),
        "parameters": sum(array.size for array in weights.arrays.values()),
        "fingerprint": weights.fingerprint,
        "network": weights.network.to_dict(),
        "preprocessing": weights.preprocessing.to_dict(),
        "training": dict(weights.training),
        "measured": dict(weights.measured),
        "drhn_version": weights.drhn_version,
        "verified": True,
    }


def describe_bundled() -> list[dict[str, Any]]:
    """Return ``describe_weights`` of every bundled model, sorted by name."""
    return [describe_weights(load_weights(path)) for path in bundled_paths()]
