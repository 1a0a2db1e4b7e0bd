"""A trained network: the ``Model``, where models are found, and the one that made a code file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drhn_cli import __version__
from drhn_cli.codes.manifest import IMPORTED_FINGERPRINT, CodeManifest
from drhn_cli.errors import AnyPath, CodeFileError, ConfigError, WeightsError, printable
from drhn_cli.images.preprocess import Preprocessing
from drhn_cli.network.config import NetworkConfig
from drhn_cli.network.weights_file import FLOAT_FORMAT, FORMAT_VERSION, read_weights, write_weights
from drhn_cli.paths import bundled_folder

DEFAULT = "photos"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A trained network as arrays, with everything that encoding pictures takes.

    Attributes:
        name: of the model, in code files and lists.
        config: the shape of the network.
        preprocessing: how pictures become its input.
        class_names: the classes it was trained on, in the order of its scores.
        arrays: name -> array. Of a network in integers as ``integer_shapes`` lists them, else as ``array_shapes``
            does, filters float16 and the rest float32.
        training: the runs that trained it, oldest first: of each its recipe, data, command, hardware and cost.
        moments: of the features that the hash layer was fitted to in closed form (``Moments.to_arrays``), or nothing.
        measured: figures of merit for each code length, and on which pictures.
    """

    name: str
    config: NetworkConfig
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    arrays: Mapping[str, NDArray[Any]] = field(repr=False)
    moments: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    training: Sequence[Mapping[str, Any]] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)
    drhn_version: str = __version__

    @property
    def is_integer(self) -> bool:
        """Whether the network is in integers, see ``integer``: then all backends compute the same codes."""
        return "known_answer" in self.arrays

    @property
    def is_bare_trunk(self) -> bool:
        """Whether hash and class layer are yet to be fitted."""
        return not self.class_names

    @cached_property
    def arrays_sha256(self) -> str:
        """Hex digest of all arrays: names, types, shapes and values."""
        digest = hashlib.sha256()
        for name in sorted(self.arrays):
            array = np.ascontiguousarray(self.arrays[name])
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.data)
        return digest.hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of everything that decides a code: arrays, network with its threshold, preprocessing."""
        settings = json.dumps([self.config.to_dict(), self.preprocessing.to_dict()], sort_keys=True)
        return hashlib.sha256(f"{self.arrays_sha256}\n{settings}".encode()).hexdigest()

    def with_views(self, n_views: int) -> Model:
        """Return the model that averages the activations of ``n_views``: other codes, and another fingerprint."""
        if n_views == self.preprocessing.views:
            return self
        other = replace(self, preprocessing=replace(self.preprocessing, views=n_views))
        other.__dict__["arrays_sha256"] = self.arrays_sha256  # the arrays are the same, and hashing them takes a while
        return other

    def describe(self) -> dict[str, Any]:
        """Return what ``drhn info`` shows of the model, JSON-ready."""
        manifest, shapes = self.manifest(), self.config.array_shapes()
        return {
            "kind": "weights",
            "name": self.name,
            "bits": list(self.config.code_lengths),
            "classes": list(self.class_names),
            "parameters": sum(prod(shape) for name, shape in shapes.items() if ".running_" not in name),
            "fingerprint": self.fingerprint,
            **{name: manifest[name] for name in ("network", "preprocessing", "training", "measured", "drhn_version")},
            "verified": True,  # reading the file has checked every array
        }

    def manifest(self) -> dict[str, Any]:
        """Return everything but the arrays as JSON-ready values."""
        return {
            "format": FORMAT_VERSION if self.is_integer else FLOAT_FORMAT,
            "name": self.name,
            "network": self.config.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
            "class_names": list(self.class_names),
            "training": [dict(run) for run in self.training],
            "measured": dict(self.measured),
            "arrays_sha256": self.arrays_sha256,
            "drhn_version": self.drhn_version,
        }


def load_model(name: AnyPath | None = None, *, views: int | None = None) -> Model:
    """Read and check a model.

    Args:
        name: a bundled model's name or the path of a weights file; a ``Path`` is always a path. None: the default.
        views: number of views of a picture, 1 or 2, whose activations are averaged. None: as stored with the model.

    Raises:
        WeightsError: there is no such model, or the file is foreign, damaged, or of a newer version.
    """
    name = DEFAULT if name is None else name
    path = _find(name) if isinstance(name, str) else Path(os.fsdecode(name))
    config, preprocessing, manifest, arrays, moments = read_weights(path)
    model = Model(
        name=str(manifest["name"]),
        config=config,
        preprocessing=preprocessing,
        class_names=tuple(manifest["class_names"]),
        arrays=arrays,
        moments=moments,
        training=manifest["training"],
        measured=manifest["measured"],
        drhn_version=str(manifest["drhn_version"]),
    )
    if model.arrays_sha256 != manifest["arrays_sha256"]:
        raise WeightsError("the arrays do not match their checksum", path=path, hint="copy or download the file again")
    return model if views is None else model.with_views(views)


def save_model(path: AnyPath, model: Model) -> None:
    """Write a weights file, atomically.

    Raises:
        WeightsError: the arrays do not fit the network or are not finite, or the file cannot be written.
    """
    write_weights(Path(os.fsdecode(path)), model.config, model.manifest(), model.arrays, model.moments)


def bundled_paths() -> list[Path]:
    """Return the weights files of the bundled models, sorted by name."""
    return sorted(bundled_folder().glob("*.npz"))


def _find(name: str) -> Path:
    bundled = {path.stem: path for path in bundled_paths()}
    if name in bundled:
        return bundled[name]
    if os.path.exists(name):  # Path.exists raises for a name that is too long
        return Path(name)
    expected = f"a file, or a bundled model ({', '.join(bundled) or 'none'})"
    raise WeightsError("no such weights", path=name, expected=expected, hint="see `drhn weights`")


def model_of(manifest: CodeManifest, name: str | None = None, *, path: AnyPath) -> Model:
    """Return the model that made a code file, with as many views.

    ``name`` is a bundled model or a weights file; None searches the bundled models. ``path`` is for messages.

    Raises:
        CodeFileError: the codes were made with another model, with one that is not bundled, or by no network.
        WeightsError: the weights cannot be read.
    """
    if manifest.fingerprint == IMPORTED_FINGERPRINT:
        hint = "look up a code with --code or a path that the file holds, and hash pictures into another file"
        raise CodeFileError("no network made these codes: they were imported", path=path, hint=hint)
    views = 2 if manifest.preprocessing.get("views") == 2 else 1
    found = "no bundled model of that fingerprint"
    # The model of that name first: it is likely, and reading a model takes a while.
    bundled = sorted(bundled_paths(), key=lambda path: path.stem != manifest.model)
    for candidate in bundled if name is None else [name]:
        model = load_model(candidate, views=views)
        if model.fingerprint == manifest.fingerprint:
            return model
        if name is not None:
            found = f"{model.name} ({model.fingerprint[:12]})"
    problem, expected = "the codes were made with another model", f"{manifest.model} ({manifest.fingerprint[:12]})"
    hint = "name the weights it was made with by --weights FILE, or hash again with --rebuild"
    raise CodeFileError(problem, path=path, expected=expected, found=found, hint=hint)


def choose_bits(n_bits: int | None, model: Model) -> int:
    """Return ``n_bits``, the longest length for None; ConfigError: the network was not trained for it."""
    lengths = model.config.code_lengths
    if n_bits is None:
        return lengths[-1]
    if n_bits not in lengths:
        problem, expected = f"{printable(model.name)} makes no codes of {n_bits} bits", " or ".join(map(str, lengths))
        hint = "choose one of these with --bits, or train a network for that length"
        raise ConfigError(problem, expected=expected, hint=hint)
    return n_bits
