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

FORMAT_VERSION = 1
_DERIVED = {"mean", "std", "n_classes", "batch_size"}  # of the pictures, the last where it is not told
_RUN_PARTS = {
    "images": "other pictures",
    "start": "other weights to start from",
    "teacher": "another teacher",
    "training": "other settings",
}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that a run needs to go on as if it had never stopped.

    Attributes:
        run: settings and data of the run; a run is resumed only by one that has the same.
        network: state of the network.
        optimisers: state of each optimiser.
        average: state of the mean of the weights; None where none is taken.
        history: one report for each epoch that is done.
        seconds: wall-clock time spent in training so far.
        cpu_seconds: processor time spent in training so far.
    """

    run: dict[str, Any]
    network: dict[str, Any]
    optimisers: list[dict[str, Any]]
    history: list[dict[str, Any]]
    seconds: float
    cpu_seconds: float
    average: dict[str, Any] | None = None


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; a crash leaves the old one or the new one.

    Raises:
        CheckpointError: the file cannot be written.
    """
    with os_errors(CheckpointError, "cannot write the checkpoint", path=path), atomic_write(path) as stream:
        torch.save({"format": FORMAT_VERSION, **vars(checkpoint)}, stream)


def load_checkpoint(path: Path, run: dict[str, Any]) -> Checkpoint | None:
    """Read a checkpoint of a run, or return None where there is none.

    Args:
        path: the checkpoint.
        run: settings and data of the run that wants to go on.

    Raises:
        CheckpointError: the file is damaged, foreign, of a newer version, or of another run.
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
        checkpoint = Checkpoint(**values)
        other = dict(checkpoint.run)
    except CORRUPT as error:
        hint = f"remove {os.fspath(path)} to start anew"
        raise CheckpointError("the checkpoint is damaged or foreign", path=path, hint=hint) from error
    if run != other:
        key, expected, found = _first_difference(run, other)
        raise CheckpointError(
            f"the checkpoint belongs to a run with {_RUN_PARTS.get(key, f'another {key}')}",
            path=path,
            expected=expected,
            found=found,
            hint="repeat that run's options, or remove the checkpoint to start anew",
        )
    return checkpoint


def _first_difference(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[str, str | None, str | None]:
    """Return in which part two runs differ, and in which settings; of digests, nothing.

    What was chosen comes first, then the data, then what follows from the data.
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
    if not name:
        return key, None, None
    names = [name for rank, part, name in ranked if (rank, part) == (first, key)]
    expected, found = (", ".join(f"{name} {one[key].get(name)}" for name in names) for one in (ours, theirs))
    return key, expected, found


def _check_bytes(path: Path) -> None:
    """Compare the checksums, which torch writes but does not read: it would go on from damaged numbers."""
    with zipfile.ZipFile(path) as archive:
        # Torch reads zeros where a member is marked as a folder.
        if archive.testzip() or any(info.external_attr for info in archive.infolist()):
            raise zipfile.BadZipFile
