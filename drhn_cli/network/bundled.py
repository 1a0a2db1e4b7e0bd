"""The weights that come with drhn. Needs numpy alone."""

from __future__ import annotations

import os
from pathlib import Path

from drhn_cli.errors import WeightsError
from drhn_cli.network.weights_file import Weights, load_weights

DEFAULT = "photos"

_PACKAGE = Path(__file__).parent.parent


def bundled_folder() -> Path:
    """Return the folder of the bundled weights: inside an installed package, beside the package in a checkout."""
    installed = _PACKAGE / "bundled"
    return installed if installed.is_dir() else _PACKAGE.parent / "weights"


def bundled_paths() -> list[Path]:
    """Return the bundled weights files, sorted by name."""
    return sorted(bundled_folder().glob("*.npz"))


def find_weights(name: str | None) -> Path:
    """Return the file of a bundled model's name or of a path. None is the default model.

    Raises:
        WeightsError: there is no such model and no such file.
    """
    if name is None:
        name = DEFAULT
    bundled = {path.stem: path for path in bundled_paths()}
    if name in bundled:
        return bundled[name]
    if os.path.exists(name):  # and not Path.exists, which raises for a name that is too long
        return Path(name)
    known = ", ".join(bundled) or "none"
    raise WeightsError(
        "no such weights", path=name, expected=f"a file, or a bundled model ({known})", hint="see `drhn weights`"
    )


def find_weights_of(fingerprint: str, *, name: str, n_views: int) -> Weights | None:
    """Return the bundled model that has a fingerprint when it takes so many views, or None; look at one name first."""
    for path in sorted(bundled_paths(), key=lambda path: path.stem != name):
        weights = load_weights(path).with_views(n_views)
        if weights.fingerprint == fingerprint:
            return weights
    return None
