"""The weights file: one ``.npz`` with an array for each name of the network's state and a JSON ``manifest``.

Numpy alone reads it, and nothing in it is ever unpickled. Filters are stored in half precision; the rounded filters are
the model, and whatever is measured is measured with them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from drhn_cli import __version__
from drhn_cli.atomic import atomic_write
from drhn_cli.config import NetworkConfig, Preprocessing
from drhn_cli.errors import AnyPath, ConfigError, WeightsError
from drhn_cli.nonblocking import open_regular

FORMAT_VERSION = 1
WEIGHTS_MARK = b"manifest.npy"
"""Stands at the beginning of every weights file: the name of its first member."""

_MANIFEST_LIMIT = 16 * 2**20
_NPY_HEADER_LIMIT = 1024
_DAMAGE = (
    *(ValueError, TypeError, KeyError, EOFError, RuntimeError, NotImplementedError, SyntaxError, MemoryError),
    *(OverflowError, zlib.error, struct.error, tokenize.TokenError),
)
"""What zipfile, numpy and json raise on bytes that nobody wrote."""


def array_shapes(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every array of a network's state, in the order of the layers."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add_norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)

    channels = config.widths[0]
    shapes["stem_conv.weight"] = (channels, 3, 3, 3)
    add_norm("stem_norm", channels)
    for group, width in enumerate(config.widths):
        for block in range(config.blocks):
            shapes[f"groups.{group}.{block}.conv.weight"] = (width, channels, 3, 3)
            add_norm(f"groups.{group}.{block}.norm", width)
            channels = width
    shapes["hash.weight"] = (config.bits, channels)
    if config.hash_norm:
        add_norm("hash_norm", config.bits)
    else:
        shapes["hash.bias"] = (config.bits,)
    shapes["classify.weight"] = (config.n_classes, config.bits)
    shapes["classify.bias"] = (config.n_classes,)
    return shapes


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A trained network as arrays.

    Attributes:
        name: what the model is called in code files and lists.
        network: its shape.
        preprocessing: how pictures become its input.
        class_names: the classes it was trained on, in the order of its scores.
        arrays: name -> array, as ``array_shapes`` lists them; filters float16, the rest float32.
        training: how it was trained: settings, data, seed, command, hardware, cost.
        measured: figures of merit for each code length, with the pictures they were measured on.
        drhn_version: the version that wrote the file.
    """

    name: str
    network: NetworkConfig
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    arrays: Mapping[str, NDArray[Any]] = field(repr=False)
    training: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)
    drhn_version: str = __version__

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
        """Hex digest of all that decides a code: arrays, network with its threshold, preprocessing."""
        settings = json.dumps([self.network.to_dict(), self.preprocessing.to_dict()], sort_keys=True)
        return hashlib.sha256(f"{self.arrays_sha256}\n{settings}".encode()).hexdigest()

    def with_views(self, n_views: int) -> Weights:
        """Return the model that averages the activations of so many views: other codes, so another model."""
        if n_views == self.preprocessing.views:
            return self
        other = replace(self, preprocessing=replace(self.preprocessing, views=n_views))
        other.__dict__["arrays_sha256"] = self.arrays_sha256  # the arrays are the same, and reading them takes a while
        return other

    def with_tta(self, tta: bool | None) -> Weights:
        """Return the model with two views or one, or, for None, as it is."""
        return self if tta is None else self.with_views(2 if tta else 1)

    def manifest(self) -> dict[str, Any]:
        """Return everything but the arrays as JSON-ready values."""
        return {
            "format": FORMAT_VERSION,
            "name": self.name,
            "network": self.network.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
            "class_names": list(self.class_names),
            "training": dict(self.training),
            "measured": dict(self.measured),
            "arrays_sha256": self.arrays_sha256,
            "drhn_version": self.drhn_version,
        }


def halve_filters(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the arrays as the file holds them: filters (4 dimensions) as float16, everything else as float32."""
    return {name: array.astype(np.float16 if array.ndim == 4 else np.float32) for name, array in arrays.items()}


def save_weights(path: AnyPath, weights: Weights) -> None:
    """Write a weights file; a crash leaves the old file or the new one.

    Raises:
        WeightsError: the arrays do not fit the network or are not all numbers, or the file cannot be written.
    """
    _check_shapes(
        Path(os.fsdecode(path)), weights.network, {name: array.shape for name, array in weights.arrays.items()}
    )
    for name, array in weights.arrays.items():
        if not np.isfinite(array).all():
            raise WeightsError(f"array {name!r} holds what is not a number", path=path, hint="train at lower rates")
    try:
        with atomic_write(path) as stream:
            np.savez(stream, manifest=np.array(json.dumps(weights.manifest())), **weights.arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise WeightsError("cannot write the weights", path=path, found=error.strerror or str(error)) from error


def load_weights(path: AnyPath) -> Weights:
    """Read and check a weights file.

    Raises:
        WeightsError: the file is missing, no regular file, foreign, damaged, of a newer version, or its arrays do not
            fit its own configuration.
    """
    path = Path(os.fsdecode(path))
    hint = "train weights with `drhn train`, or list the bundled ones with `drhn weights`"
    try:
        with _open(path) as stream, zipfile.ZipFile(stream) as archive:
            # Numpy writes no other kinds, and each of them would bring an error of its own.
            if not {info.compress_type for info in archive.infolist()} <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                raise WeightsError(
                    "not a drhn weights file, or a damaged one", path=path, expected="an .npz", hint=hint
                )
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
            if sizes.get("manifest", _MANIFEST_LIMIT + 1) > _MANIFEST_LIMIT:
                raise WeightsError("not a drhn weights file", path=path, expected="an .npz with a manifest", hint=hint)
            manifest = _parse_manifest(path, str(_read_array(archive, "manifest")))
            try:
                network = NetworkConfig.from_dict(manifest["network"])
                preprocessing = Preprocessing.from_dict(manifest["preprocessing"])
            except ConfigError as error:
                raise WeightsError(f"the manifest is not valid: {error}", path=path) from error
            if preprocessing.size != network.input_size:
                expected, found = f"pictures of {network.input_size} pixels", str(preprocessing.size)
                raise WeightsError("the manifest is not valid", path=path, expected=expected, found=found)
            shapes = array_shapes(network)
            for name, shape in shapes.items():
                # Before anything is read, so that a hostile file cannot ask for all memory.
                if sizes.get(name, 0) > 4 * int(np.prod(shape)) + _NPY_HEADER_LIMIT:
                    raise WeightsError(f"array {name!r} is larger than the network it belongs to", path=path)
            arrays = {name: _read_array(archive, name) for name in shapes if name in sizes}
    except FileNotFoundError as error:
        raise WeightsError("no such weights file", path=path, hint=hint) from error
    except OSError as error:
        raise WeightsError("cannot read the weights", path=path, found=error.strerror or str(error)) from error
    except zipfile.BadZipFile as error:
        found = "an empty file" if path.stat().st_size == 0 else str(error)
        raise WeightsError(
            "not a drhn weights file, or a damaged one", path=path, expected="an .npz", found=found, hint=hint
        ) from error
    except _DAMAGE as error:
        raise WeightsError(
            "the weights file is damaged or foreign", path=path, found=str(error) or type(error).__name__
        ) from error
    _check_shapes(path, network, {name: array.shape for name, array in arrays.items()})
    for name, array in arrays.items():
        if array.dtype not in (np.float16, np.float32):
            expected = "float16 or float32"
            raise WeightsError(f"array {name!r} has another type", path=path, expected=expected, found=str(array.dtype))
    _check_manifest(path, manifest, network)
    weights = Weights(
        name=str(manifest["name"]),
        network=network,
        preprocessing=preprocessing,
        class_names=tuple(manifest["class_names"]),
        arrays=arrays,
        training=manifest["training"],
        measured=manifest["measured"],
        drhn_version=str(manifest["drhn_version"]),
    )
    if weights.arrays_sha256 != manifest["arrays_sha256"]:
        raise WeightsError("the arrays do not match their checksum", path=path, hint="copy or download the file again")
    return weights


def _open(path: Path) -> BinaryIO:
    stream = open_regular(path)
    if stream is None:
        raise OSError(None, "a pipe or device")
    return stream


def _read_array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    # The whole member at once: its checksum is compared before its header is believed.
    stream = io.BytesIO(archive.read(f"{name}.npy"))
    array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _parse_manifest(path: Path, text: str) -> dict[str, Any]:
    manifest = json.loads(text)
    if not isinstance(manifest, dict):
        raise WeightsError("not a drhn weights file", path=path, expected="a manifest", found=type(manifest).__name__)
    version = manifest.get("format")
    if isinstance(version, int) and version > FORMAT_VERSION:
        expected = f"format {FORMAT_VERSION} or older"
        raise WeightsError(
            "a newer drhn wrote these weights",
            path=path,
            expected=expected,
            found=f"format {version}",
            hint="update drhn",
        )
    keys = {
        "format",
        "name",
        "network",
        "preprocessing",
        "class_names",
        "training",
        "measured",
        "arrays_sha256",
        "drhn_version",
    }
    missing = sorted(keys - set(manifest))
    if missing:
        raise WeightsError("not a drhn weights file", path=path, found=f"a manifest without {missing[0]!r}")
    return manifest


def _check_manifest(path: Path, manifest: Mapping[str, Any], network: NetworkConfig) -> None:
    names = manifest["class_names"]
    if not isinstance(names, list) or len(names) != network.n_classes or not all(isinstance(n, str) for n in names):
        expected = f"{network.n_classes} class names"
        raise WeightsError("the manifest is not valid", path=path, expected=expected, found=repr(names))
    for key in ("training", "measured"):
        if not isinstance(manifest[key], dict):
            found = type(manifest[key]).__name__
            raise WeightsError(f"the manifest's {key!r} is not valid", path=path, expected="an object", found=found)


def _check_shapes(path: Path, network: NetworkConfig, found: Mapping[str, tuple[int, ...]]) -> None:
    expected = array_shapes(network)
    for name in [*expected, *found]:
        if expected.get(name) != found.get(name):
            wanted, got = (str(shapes.get(name, "no such array")) for shapes in (expected, found))
            raise WeightsError(f"array {name!r} does not fit the network", path=path, expected=wanted, found=got)
