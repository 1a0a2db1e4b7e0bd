"""Say what a code file, a weights file or a table is."""

from __future__ import annotations

import os
import stat
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drhn_cli.clickhouse.url import is_table
from drhn_cli.codes.reader import CodeFile
from drhn_cli.errors import AnyPath, DrhnError
from drhn_cli.files import os_errors

if TYPE_CHECKING:
    from drhn_cli.network.model import Model

_ZIP_MAGIC = b"PK"


def describe_file(path: AnyPath, *, verify: bool = False) -> dict[str, Any]:
    """Return what a code file, a weights file or a table says of itself, JSON-ready; ``kind`` tells which it is.

    Args:
        path: the file, or the URL of the table.
        verify: read all of a code file and check it, or count the rows of a table. Weights are always checked in full.

    Raises:
        DrhnError: it cannot be read, is none of them, or is damaged.
    """
    if isinstance(path, str) and is_table(path):
        return _describe_table(path, verify=verify)
    start = b""
    with os_errors(DrhnError, "cannot read the file", path=path, hint="check the path"):
        # Anything but a regular file is left to CodeFile to refuse: to open a pipe is to wait for its writer.
        if stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "rb") as stream:
                start = stream.read(len(_ZIP_MAGIC))
    if start.startswith(_ZIP_MAGIC):
        from drhn_cli.network.model import load_model  # a code file does not need it

        return describe_weights(load_model(Path(os.fsdecode(path))))
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
            "part": manifest.shard and asdict(manifest.shard),
            "verified": verify,
        }


def _describe_table(url: str, *, verify: bool) -> dict[str, Any]:
    from drhn_cli.clickhouse.table import CodeTable  # brings what files do not need

    with CodeTable.open(url) as table:
        if verify:
            table.verify()
        return {
            "kind": "table",
            "n_items": table.n_items,
            "bits": table.n_bits,
            "root": table.root,
            "model": table.manifest.model,
            "fingerprint": table.manifest.fingerprint,
            "preprocessing": dict(table.manifest.preprocessing),
            "files": {os.fsdecode(name): n_items for name, n_items in table.files.items()},
            "verified": verify,
        }


def describe_weights(weights: Model) -> dict[str, Any]:
    """Return what weights say of themselves, JSON-ready."""
    return {
        "kind": "weights",
        "name": weights.name,
        "bits": list(weights.config.code_lengths),
        "classes": list(weights.class_names),
        "parameters": sum(array.size for name, array in weights.arrays.items() if ".running_" not in name),
        "fingerprint": weights.fingerprint,
        "network": weights.config.to_dict(),
        "preprocessing": weights.preprocessing.to_dict(),
        "training": dict(weights.training),
        "measured": dict(weights.measured),
        "drhn_version": weights.drhn_version,
        "verified": True,
    }


def describe_bundled() -> list[dict[str, Any]]:
    """Return ``describe_weights`` of every bundled model, sorted by name."""
    from drhn_cli.network.model import bundled_paths, load_model

    return [describe_weights(load_model(path)) for path in bundled_paths()]
