"""The state of an unfinished training run, written after every epoch."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from drhn_cli.errors import CheckpointError
from drhn_cli.files import CORRUPT, atomic_write, os_errors

FORMAT_VERSION = 3
_DERIVED = {"mean", "std", "n_classes", "stage.batch_size", "stage.seed"}  # follow from pictures and seed, unless given
_RUN_PARTS = {
    "images": "other pictures",
    "start": "other weights to start from",
    "teacher": "another teacher",
    "training": "other settings",
    "processes": "another number of processes",
}


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a run, ``run`` in it; a crash leaves the old checkpoint or the new one."""
    with os_errors(CheckpointError, "cannot write the checkpoint", path=path), atomic_write(path) as stream:
        torch.save({"format": FORMAT_VERSION, **state}, stream)


def load_checkpoint(path: Path, run: dict[str, Any]) -> dict[str, Any] | None:
    """Return the saved state of a run; None if there is none.

    ``run`` is its settings, and digests of its data: a checkpoint with others is refused, as are damaged and foreign
    files and those of other versions, with ``CheckpointError``.
    """
    if not path.exists():
        return None
    removal = f"remove {os.fspath(path)} to start anew"
    try:
        with os_errors(CheckpointError, "cannot read the checkpoint", path=path):
            _check_bytes(path)
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        version = state.pop("format")
        if version != FORMAT_VERSION:
            age, hint = "an older", f"finish the run with the version that began it, or {removal}"
            if version > FORMAT_VERSION:
                age, hint = "a newer", "update drhn"
            raise CheckpointError(f"{age} drhn wrote this checkpoint", path=path, found=f"format {version}", hint=hint)
        saved_run = dict(state["run"])
    except CORRUPT as error:
        raise CheckpointError("the checkpoint is damaged or foreign", path=path, hint=removal) from error
    if run != saved_run:
        raise _another_run(run, saved_run, path)
    return state


def _check_bytes(path: Path) -> None:
    """Check the checksums, which torch writes but does not read: it would continue from damaged numbers."""
    with zipfile.ZipFile(path) as archive:
        # Torch reads zeros where a member is marked as a folder.
        if archive.testzip() or any(info.external_attr for info in archive.infolist()):
            raise zipfile.BadZipFile


def _another_run(ours: dict[str, Any], theirs: dict[str, Any], path: Path) -> CheckpointError:
    """Return the error that names the first difference of two runs.

    Settings that were chosen come first, then the data, then settings that follow from the data.
    """
    ranked: list[tuple[int, str, list[str]]] = []
    for key in {**ours, **theirs}:
        one, other = ours.get(key), theirs.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
            chosen = [name for name in names if name not in _DERIVED]
            ranked += [(0 if chosen else 2, key, chosen or names)] if names else []
        elif one != other:
            ranked.append((1, key, []))
    _, key, names = min(ranked, key=lambda difference: difference[0])
    what = "number of processes" if key == "processes" else "options"
    expected, found = (
        str(run[key]) if key == "processes" else ", ".join(f"{name} {run[key].get(name)}" for name in names)
        for run in (ours, theirs)
    )
    return CheckpointError(
        f"the checkpoint belongs to a run with {_RUN_PARTS.get(key, f'another {key}')}",
        path=path,
        expected=expected,
        found=found,
        hint=f"repeat that run's {what}, or remove the checkpoint to start anew",
    )
