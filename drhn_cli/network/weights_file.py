"""The weights file: one ``.npz`` with an array for each name of the network's state and a JSON ``manifest``.

Numpy alone reads it, and nothing in it is ever unpickled. Filters are stored in half precision: the rounded ones
are the model, and all figures are measured with them.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from drhn_cli.errors import ConfigError, WeightsError
from drhn_cli.files import CORRUPT, atomic_write, open_regular, os_errors
from drhn_cli.images.preprocess import Preprocessing
from drhn_cli.network.config import NetworkConfig

FORMAT_VERSION = 1
WEIGHTS_MARK = b"manifest.npy"
"""The name of the first member, which stands at the beginning of every weights file."""

_MANIFEST_LIMIT = 16 * 2**20
_NPY_HEADER_LIMIT = 1024
_KEYS = {
    *("format", "name", "network", "preprocessing", "class_names", "training", "measured"),
    *("arrays_sha256", "drhn_version"),
}
_HINT = "train weights with `drhn train`, or list the bundled ones with `drhn weights`"


def halve_filters(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the arrays as the file holds them: filters (4 dimensions) as float16, everything else as float32."""
    return {name: array.astype(np.float16 if array.ndim == 4 else np.float32) for name, array in arrays.items()}


def write_weights(
    path: Path, config: NetworkConfig, manifest: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write a weights file, atomically. WeightsError: the arrays do not fit the network or are not finite."""
    _check_shapes(path, config, {name: array.shape for name, array in arrays.items()})
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise WeightsError(f"array {name!r} holds what is not a number", path=path, hint="train at lower rates")
    with os_errors(WeightsError, "cannot write the weights", path=path), atomic_write(path) as stream:
        np.savez(stream, manifest=np.array(json.dumps(manifest)), **arrays)  # type: ignore[arg-type]


def read_weights(path: Path) -> tuple[NetworkConfig, Preprocessing, dict[str, Any], dict[str, NDArray[Any]]]:
    """Read a weights file and check all but the checksum of its arrays.

    Returns:
        The settings in its manifest, the manifest, and the arrays.

    Raises:
        WeightsError: the file is missing, no regular file, foreign, damaged, of a newer version, or its arrays do not
            fit its own network.
    """
    with _reading(path), _open(path) as stream, zipfile.ZipFile(stream) as archive:
        sizes = _member_sizes(path, archive)
        manifest = json.loads(str(_read_array(archive, "manifest")))
        _check_keys(path, manifest)
        config, preprocessing = _parse_settings(path, manifest)
        _check_values(path, manifest, config)
        shapes = config.array_shapes()
        for name, shape in shapes.items():
            # Before anything is read, so that a hostile file cannot ask for all memory.
            if sizes.get(name, 0) > 4 * int(np.prod(shape)) + _NPY_HEADER_LIMIT:
                raise WeightsError(f"array {name!r} is larger than the network it belongs to", path=path)
        arrays = {name: _read_array(archive, name) for name in shapes if name in sizes}
    _check_shapes(path, config, {name: array.shape for name, array in arrays.items()})
    for name, array in arrays.items():
        if array.dtype not in (np.float16, np.float32):
            expected = "float16 or float32"
            raise WeightsError(f"array {name!r} has another type", path=path, expected=expected, found=str(array.dtype))
    return config, preprocessing, manifest, arrays


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what zipfile, numpy, json and the system raise into a ``WeightsError``."""
    absent = WeightsError("no such weights file", path=path, hint=_HINT)
    try:
        with os_errors(WeightsError, "cannot read the weights", path=path, absent=absent):
            yield
    except zipfile.BadZipFile as error:
        found = "an empty file" if path.stat().st_size == 0 else str(error)
        raise WeightsError(
            "not a drhn weights file, or a damaged one", path=path, expected="an .npz", found=found, hint=_HINT
        ) from error
    except CORRUPT as error:
        raise WeightsError(
            "the weights file is damaged or foreign", path=path, found=str(error) or type(error).__name__
        ) from error


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


def _member_sizes(path: Path, archive: zipfile.ZipFile) -> dict[str, int]:
    members = archive.infolist()
    # Numpy compresses in no other way, and every other way would bring exceptions of its own.
    if not {member.compress_type for member in members} <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise WeightsError("not a drhn weights file, or a damaged one", path=path, expected="an .npz", hint=_HINT)
    sizes = {member.filename.removesuffix(".npy"): member.file_size for member in members}
    if sizes.get("manifest", _MANIFEST_LIMIT + 1) > _MANIFEST_LIMIT:
        raise WeightsError("not a drhn weights file", path=path, expected="an .npz with a manifest", hint=_HINT)
    return sizes


def _check_keys(path: Path, manifest: Any) -> None:
    if not isinstance(manifest, dict):
        raise WeightsError("not a drhn weights file", path=path, expected="a manifest", found=type(manifest).__name__)
    version = manifest.get("format")
    if isinstance(version, int) and version > FORMAT_VERSION:
        expected, found = f"format {FORMAT_VERSION} or older", f"format {version}"
        raise WeightsError(
            "a newer drhn wrote these weights", path=path, expected=expected, found=found, hint="update drhn"
        )
    missing = sorted(_KEYS - set(manifest))
    if missing:
        raise WeightsError("not a drhn weights file", path=path, found=f"a manifest without {missing[0]!r}")


def _parse_settings(path: Path, manifest: Mapping[str, Any]) -> tuple[NetworkConfig, Preprocessing]:
    try:
        config = NetworkConfig.from_dict(manifest["network"])
        preprocessing = Preprocessing.from_dict(manifest["preprocessing"])
    except ConfigError as error:
        raise WeightsError(f"the manifest is not valid: {error}", path=path) from error
    if preprocessing.size != config.input_size:
        expected, found = f"pictures of {config.input_size} pixels", str(preprocessing.size)
        raise WeightsError("the manifest is not valid", path=path, expected=expected, found=found)
    return config, preprocessing


def _check_values(path: Path, manifest: Mapping[str, Any], config: NetworkConfig) -> None:
    names = manifest["class_names"]
    if not isinstance(names, list) or len(names) != config.n_classes or not all(isinstance(n, str) for n in names):
        expected = f"{config.n_classes} class names"
        raise WeightsError("the manifest is not valid", path=path, expected=expected, found=repr(names))
    for key in ("training", "measured"):
        if not isinstance(manifest[key], dict):
            found = type(manifest[key]).__name__
            raise WeightsError(f"the manifest's {key!r} is not valid", path=path, expected="an object", found=found)


def _check_shapes(path: Path, config: NetworkConfig, found: Mapping[str, tuple[int, ...]]) -> None:
    expected = config.array_shapes()
    for name in [*expected, *found]:
        if expected.get(name) != found.get(name):
            wanted, got = (str(shapes.get(name, "no such array")) for shapes in (expected, found))
            raise WeightsError(f"array {name!r} does not fit the network", path=path, expected=wanted, found=got)
