"""The weights file: one ``.npz`` with an array for each name of the network's state and a JSON ``manifest``.

Numpy alone reads it, and nothing in it is ever unpickled. Filters are stored in half precision; the rounded filters are
the model, and whatever is measured is measured with them.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from drhn_cli.config import NetworkConfig, Preprocessing
from drhn_cli.errors import ConfigError, WeightsError
from drhn_cli.files import CORRUPT, atomic_write, open_regular, os_errors

FORMAT_VERSION = 1
WEIGHTS_MARK = b"manifest.npy"
"""Stands at the beginning of every weights file: the name of its first member."""

_MANIFEST_LIMIT = 16 * 2**20
_NPY_HEADER_LIMIT = 1024


def halve_filters(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the arrays as the file holds them: filters (4 dimensions) as float16, everything else as float32."""
    return {name: array.astype(np.float16 if array.ndim == 4 else np.float32) for name, array in arrays.items()}


def write_weights(
    path: Path, config: NetworkConfig, manifest: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write a weights file; a crash leaves the old file or the new one.

    Raises:
        WeightsError: the arrays do not fit the network or are not all numbers, or the file cannot be written.
    """
    _check_shapes(path, config, {name: array.shape for name, array in arrays.items()})
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise WeightsError(f"array {name!r} holds what is not a number", path=path, hint="train at lower rates")
    with os_errors(WeightsError, "cannot write the weights", path=path), atomic_write(path) as stream:
        np.savez(stream, manifest=np.array(json.dumps(manifest)), **arrays)  # type: ignore[arg-type]


def read_weights(path: Path) -> tuple[NetworkConfig, Preprocessing, dict[str, Any], dict[str, NDArray[Any]]]:
    """Read and check a weights file, but for the checksum of its arrays.

    Returns:
        The network and the preprocessing that its manifest tells of, the manifest, and the arrays.

    Raises:
        WeightsError: the file is missing, no regular file, foreign, damaged, of a newer version, or its arrays do not
            fit its own configuration.
    """
    hint = "train weights with `drhn train`, or list the bundled ones with `drhn weights`"
    reading = os_errors(
        WeightsError,
        "cannot read the weights",
        path=path,
        absent=WeightsError("no such weights file", path=path, hint=hint),
    )
    try:
        with reading, _open(path) as stream, zipfile.ZipFile(stream) as archive:
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
            shapes = network.array_shapes()
            for name, shape in shapes.items():
                # Before anything is read, so that a hostile file cannot ask for all memory.
                if sizes.get(name, 0) > 4 * int(np.prod(shape)) + _NPY_HEADER_LIMIT:
                    raise WeightsError(f"array {name!r} is larger than the network it belongs to", path=path)
            arrays = {name: _read_array(archive, name) for name in shapes if name in sizes}
    except zipfile.BadZipFile as error:
        found = "an empty file" if path.stat().st_size == 0 else str(error)
        raise WeightsError(
            "not a drhn weights file, or a damaged one", path=path, expected="an .npz", found=found, hint=hint
        ) from error
    except CORRUPT as error:
        raise WeightsError(
            "the weights file is damaged or foreign", path=path, found=str(error) or type(error).__name__
        ) from error
    _check_shapes(path, network, {name: array.shape for name, array in arrays.items()})
    for name, array in arrays.items():
        if array.dtype not in (np.float16, np.float32):
            expected = "float16 or float32"
            raise WeightsError(f"array {name!r} has another type", path=path, expected=expected, found=str(array.dtype))
    _check_manifest(path, manifest, network)
    return network, preprocessing, manifest, arrays


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
    expected = network.array_shapes()
    for name in [*expected, *found]:
        if expected.get(name) != found.get(name):
            wanted, got = (str(shapes.get(name, "no such array")) for shapes in (expected, found))
            raise WeightsError(f"array {name!r} does not fit the network", path=path, expected=wanted, found=got)
