"""The state of an unfinished training run, written after every epoch."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from drhn_cli.errors import CheckpointError
from drhn_cli.files import CORRUPT, atomic_write, os_errors

FORMAT_VERSION = 2
_DERIVED = {"mean", "std", "n_classes", "batch_size"}  # from the pictures, the last unless it is given
_RUN_PARTS = {
    "images": "other pictures",
    "start": "other weights to start from",
    "teacher": "another teacher",
    "training": "other settings",
    "processes": "another number of processes",
}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state of a run after an epoch: what it needs to continue as if it had never stopped."""

    run: dict[str, Any]  # settings, and digests of the data; only a run with the same ones may continue
    network: dict[str, Any]
    optimizers: list[dict[str, Any]]
    history: list[dict[str, Any]]  # a report for each finished epoch
    seconds: float  # wall-clock time so far
    cpu_seconds: float
    average: dict[str, Any] | None = None  # the SWA average
    head: dict[str, Any] | None = None  # the distillation head


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; a crash leaves the old one or the new one."""
    with os_errors(CheckpointError, "cannot write the checkpoint", path=path), atomic_write(path) as stream:
        torch.save({"format": FORMAT_VERSION, **vars(checkpoint)}, stream)


def load_checkpoint(path: Path, run: dict[str, Any]) -> Checkpoint | None:
    """Read the checkpoint of a run; None if there is none.

    Raises:
        CheckpointError: the file is damaged, foreign, of another version, or of another run.
    """
    if not path.exists():
        return None
    try:
        with os_errors(CheckpointError, "cannot read the checkpoint", path=path):
            _check_bytes(path)
            values = torch.load(path, map_location="cpu", weights_only=True)
        version = values.pop("format")
        if version > FORMAT_VERSION:
            raise CheckpointError(
                "a newer drhn wrote this checkpoint", path=path, found=f"format {version}", hint="update drhn"
            )
        if version < FORMAT_VERSION:
            hint = f"finish the run with the version that began it, or remove {os.fspath(path)} to start anew"
            raise CheckpointError(
                "an older drhn wrote this checkpoint", path=path, found=f"format {version}", hint=hint
            )
        checkpoint = Checkpoint(**values)
        other = dict(checkpoint.run)
    except CORRUPT as error:
        hint = f"remove {os.fspath(path)} to start anew"
        raise CheckpointError("the checkpoint is damaged or foreign", path=path, hint=hint) from error
    if run != other:
        key, expected, found = _first_difference(run, other)
        repeated = "number of processes" if key == "processes" else "options"
        raise CheckpointError(
            f"the checkpoint belongs to a run with {_RUN_PARTS.get(key, f'another {key}')}",
            path=path,
            expected=expected,
            found=found,
            hint=f"repeat that run's {repeated}, or remove the checkpoint to start anew",
        )
    return checkpoint


def _first_difference(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[str, str | None, str | None]:
    """Return in which part two runs differ, and the settings of each; of digests, nothing.

    Settings that were chosen come first, then the data, then settings that follow from the data.
    """
    ranked: list[tuple[int, str, str]] = []
    for key in {**ours, **theirs}:
        one, other = ours.get(key), theirs.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
            ranked += [(2 if name in _DERIVED else 0, key, name) for name in names]
        elif one != other:
            ranked.append((1, key, ""))
    first, key, name = min(ranked, key=lambda difference: difference[0])
    if key == "processes":
        return key, str(ours.get(key)), str(theirs.get(key))
    if not name:
        return key, None, None
    names = [name for rank, part, name in ranked if (rank, part) == (first, key)]
    expected, found = (", ".join(f"{name} {one[key].get(name)}" for name in names) for one in (ours, theirs))
    return key, expected, found


def _check_bytes(path: Path) -> None:
    """Check the checksums, which torch writes but does not read: it would continue from damaged numbers."""
    with zipfile.ZipFile(path) as archive:
        # Torch reads zeros where a member is marked as a folder.
        if archive.testzip() or any(info.external_attr for info in archive.infolist()):
            raise zipfile.BadZipFile
