"""The weights file: one ``.npz`` with an array for each name of the network's state and a JSON ``manifest``.

It is read by numpy, and nothing in it is ever unpickled. A network in integers, format 3, is stored as
``integer_shapes`` lists it. Older files hold floats, filters in half precision: the rounded filters are the model.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from drhn_cli.errors import ConfigError, WeightsError, about
from drhn_cli.files import CORRUPT, atomic_write, open_regular, os_errors
from drhn_cli.images.preprocess import Preprocessing
from drhn_cli.network.config import NetworkConfig

FORMAT_VERSION = 3
"""A network in integers. In format 1, ``training`` is the last run with the one before it inside, and some names were
others."""

FLOAT_FORMAT = 2
"""A network in floats."""

WEIGHTS_MARK = b"manifest.npy"
"""The name of the first member, which is at the beginning of every weights file."""

_MOMENTS = "moments."
"""Prefix of the arrays that are not the network's: moments of the features that the hash layer was fitted to."""

_MANIFEST_LIMIT = 16 * 2**20
_NPY_HEADER_LIMIT = 1024
_KEYS = {
    *("format", "name", "network", "preprocessing", "class_names", "training", "measured"),
    *("arrays_sha256", "drhn_version"),
}
STAGE_NAMES = {
    **{"conv_rate": "muon_lr", "rate": "lr", "warm_up": "warmup", "average": "swa", "sharpness": "sam_rho"},
    **{"crop": "random_resized_crop", "colour": "color_jitter", "quantisation": "quantization", "precision": "dtype"},
    **{"similarity": "prefix_similarity", "teacher": "distill_from", "teaching": "distill_weight"},
}
"""Settings of a stage: names of format 1 -> current names."""

_OF_A_RUN = ("data", "n_images", "command", "hardware", "hours", "cpu_hours")
_NOT_OURS = "not a drhn weights file, or a damaged one"
_HINT = "train weights with `drhn train`, or list the bundled ones with `drhn weights`"


def halve_filters(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the arrays as they are stored: filters (4 dimensions) as float16, everything else as float32."""
    return {name: array.astype(np.float16 if array.ndim == 4 else np.float32) for name, array in arrays.items()}


def integer_shapes(config: NetworkConfig) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
    """Return shape and type of every array of a network in integers.

    ``step``, the value of a unit of the weights, and the normalizations of the paper's trunk are for training that
    starts from these weights; nothing that computes codes reads them.
    """
    layers, is_residual = config.layers(), config.trunk == "residual"
    shapes: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {}
    for layer in layers:
        out, n_in, kernel, _ = layer.filter_shape
        shapes[f"{layer.conv}.weight"] = (out, kernel, kernel, n_in), np.int8
        shapes |= {f"{layer.conv}.bias": ((out,), np.int32), f"{layer.conv}.scale": ((out,), np.float32)}
        if not layer.norm_first:
            shapes[f"{layer.conv}.offset"] = (out,), np.int32
        if is_residual:
            shapes[f"{layer.conv}.step"] = (out,), np.float32
    shapes |= {"next_scale": ((len(layers),), np.float32), "zero_point": ((len(layers),), np.uint8)}
    shapes |= {"pool.scale": ((), np.float64), "hash.weight": ((config.bits, config.n_features), np.int16)}
    shapes |= {f"hash.{part}": ((config.bits,), np.float64) for part in ("scale", "bias")}
    shapes |= {"classify.weight": ((config.n_classes, config.bits), np.float16)}
    shapes |= {"classify.bias": ((config.n_classes,), np.float32)}
    if is_residual:
        norms = {name: shape for name, shape in config.array_shapes().items() if "norm." in name}
        shapes |= {name: (shape, np.float32) for name, shape in norms.items()}
        shapes["hash.step"] = (config.bits,), np.float64
    return {**shapes, "known_answer": ((config.n_features,), np.int32)}


def write_weights(
    path: Path,
    config: NetworkConfig,
    manifest: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    moments: Mapping[str, NDArray[Any]],
) -> None:
    """Write a weights file, atomically. WeightsError: the arrays do not fit the network or are not finite."""
    with about(path):
        _check_arrays(config, arrays, manifest["format"])
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise WeightsError(f"array {name!r} holds what is not a number", hint="train at lower rates")
    with os_errors(WeightsError, "cannot write the weights", path=path), atomic_write(path) as stream:
        others = {_MOMENTS + name: array for name, array in moments.items()}
        np.savez(stream, manifest=np.array(json.dumps(manifest)), **arrays, **others)  # type: ignore[arg-type]


def read_weights(
    path: Path,
) -> tuple[NetworkConfig, Preprocessing, dict[str, Any], dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Read a weights file and check all but the checksum of its arrays, see ``load_model``, and its moments.

    Returns the settings in its manifest, the manifest, the arrays, and the moments of the features, if it has some.
    """
    with about(path), _reading(), _open(path) as stream, zipfile.ZipFile(stream) as archive:
        sizes = _member_sizes(archive)
        manifest = json.loads(str(_read_array(archive, "manifest")))
        config, preprocessing = _parse_manifest(manifest)
        kinds = _expected(config, manifest["format"])
        for name, (shape, kind) in kinds.items():
            # Checked before anything is read, so that a hostile file cannot fill the memory.
            if sizes.get(name, 0) > np.dtype(kind).itemsize * int(np.prod(shape)) + _NPY_HEADER_LIMIT:
                raise WeightsError(f"array {name!r} is larger than the network it belongs to")
        arrays = {name: _read_array(archive, name) for name in kinds if name in sizes}
        _check_arrays(config, arrays, manifest["format"])
        others = [name for name in sizes if name.startswith(_MOMENTS)]
        if any(sizes[name] > 4 * config.n_features**2 + _NPY_HEADER_LIMIT for name in others):
            raise WeightsError("the moments are larger than the network they belong to")
        moments = {name.removeprefix(_MOMENTS): _read_array(archive, name) for name in others}
    return config, preprocessing, manifest, arrays, moments


@contextmanager
def _reading() -> Iterator[None]:
    """Turn what zipfile, numpy, json and the system raise into a ``WeightsError``."""
    absent = WeightsError("no such weights file", hint=_HINT)
    try:
        with os_errors(WeightsError, "cannot read the weights", path=None, absent=absent):
            yield
    except zipfile.BadZipFile as error:
        raise WeightsError(_NOT_OURS, expected="an .npz", found=str(error), hint=_HINT) from error
    except CORRUPT as error:
        found = str(error) or type(error).__name__
        raise WeightsError("the weights file is damaged or foreign", found=found) from error


def _open(path: Path) -> BinaryIO:
    stream = open_regular(path)
    if stream is None:
        raise OSError(None, "a pipe or device")
    if not os.fstat(stream.fileno()).st_size:
        stream.close()
        raise WeightsError(_NOT_OURS, expected="an .npz", found="an empty file", hint=_HINT)
    return stream


def _read_array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    # The whole member at once: zipfile compares its checksum before numpy parses its header.
    stream = io.BytesIO(archive.read(f"{name}.npy"))
    array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _member_sizes(archive: zipfile.ZipFile) -> dict[str, int]:
    members = archive.infolist()
    # numpy writes only these two, and other methods raise other errors.
    if not {member.compress_type for member in members} <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise WeightsError(_NOT_OURS, expected="an .npz", hint=_HINT)
    sizes = {member.filename.removesuffix(".npy"): member.file_size for member in members}
    if sizes.get("manifest", _MANIFEST_LIMIT + 1) > _MANIFEST_LIMIT:
        raise WeightsError("not a drhn weights file", expected="an .npz with a manifest", hint=_HINT)
    return sizes


def _parse_manifest(manifest: Any) -> tuple[NetworkConfig, Preprocessing]:
    if not isinstance(manifest, dict):
        raise WeightsError("not a drhn weights file", expected="a manifest", found=type(manifest).__name__)
    version = manifest.get("format")
    if type(version) is int and version > FORMAT_VERSION:
        problem, expected = "a newer drhn wrote these weights", f"format {FORMAT_VERSION} or older"
        raise WeightsError(problem, expected=expected, found=f"format {version}", hint="update drhn")
    if missing := sorted(_KEYS - set(manifest)):
        raise WeightsError("not a drhn weights file", found=f"a manifest without {missing[0]!r}")
    problem = "the manifest is not valid"
    try:
        config = NetworkConfig.from_dict(manifest["network"])
        preprocessing = Preprocessing.from_dict(manifest["preprocessing"])
    except ConfigError as error:
        raise WeightsError(f"{problem}: {error}") from error
    size, names = config.input_size, manifest["class_names"]
    if preprocessing.size != size:
        raise WeightsError(problem, expected=f"pictures of {size} pixels", found=str(preprocessing.size))
    if not isinstance(names, list) or len(names) != config.n_classes or not all(isinstance(n, str) for n in names):
        raise WeightsError(problem, expected=f"{config.n_classes} class names", found=repr(names))
    if version == 1:
        manifest["training"] = _runs_of_format_1(manifest["training"])
        manifest["measured"] = _with_current_names(manifest["measured"])
    if not isinstance(manifest["measured"], dict):
        found = type(manifest["measured"]).__name__
        raise WeightsError("the manifest's 'measured' is not valid", expected="an object", found=found)
    if not isinstance(manifest["training"], list) or not all(_is_run(run) for run in manifest["training"]):
        raise WeightsError("the manifest's 'training' is not valid", expected="runs and their recipes")
    return config, preprocessing


def _is_run(run: Any) -> bool:
    stages = run["recipe"].get("stage") if isinstance(run, dict) and isinstance(run.get("recipe"), dict) else None
    return isinstance(stages, list) and bool(stages) and all(isinstance(stage, dict) for stage in stages)


def _runs_of_format_1(training: Any) -> list[dict[str, Any]] | None:
    """Return the runs, oldest first; None if they are not valid."""
    runs: list[dict[str, Any]] = []
    while training:
        start = training.get("from", {}) if isinstance(training, dict) else None
        if not isinstance(start, dict):
            return None
        others = (*_OF_A_RUN, "from", "seed", "validation")
        stage = {STAGE_NAMES.get(name, name): value for name, value in training.items() if name not in others}
        recipe = {name: training[name] for name in ("seed", "validation") if name in training} | {"stage": [stage]}
        if start:
            recipe["from"] = {name: start.get(name) for name in ("name", "fingerprint")}
        runs.insert(0, {"recipe": recipe, **{name: training[name] for name in _OF_A_RUN if name in training}})
        training = start.get("training")
    return runs


def _with_current_names(figures: Any) -> Any:
    """Rename the figures of format 1 to the current names."""
    if not isinstance(figures, dict):
        return figures
    names = {
        "mean_average_precision": "mAP",
        "mean_average_precision_at_depth": f"mAP@{figures.get('depth')}",
        "precision_at_k": f"precision@{figures.get('k')}",
        "precision_at_radius2": "precision@radius2",
    }
    kept = {name: value for name, value in figures.items() if name not in ("k", "depth")}
    return {names.get(name, name): _with_current_names(value) for name, value in kept.items()}


def _expected(config: NetworkConfig, version: object) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
    """Return the shape and the largest type of each array in a file of that format."""
    if version == FORMAT_VERSION:
        return integer_shapes(config)
    return {name: (shape, np.float32) for name, shape in config.array_shapes().items()}


def _check_arrays(config: NetworkConfig, arrays: Mapping[str, NDArray[Any]], version: object) -> None:
    """Refuse arrays that do not fit the network, and types that files of that format do not have."""
    kinds = _expected(config, version)
    expected = {name: str(shape) for name, (shape, _) in kinds.items()}
    found = {name: str(array.shape) for name, array in arrays.items()}
    for name in [*expected, *found]:
        wanted, got = (shapes.get(name, "no such array") for shapes in (expected, found))
        if wanted != got:
            raise WeightsError(f"array {name!r} does not fit the network", expected=wanted, found=got)
        types = (kinds[name][1],) if version == FORMAT_VERSION else (np.float16, np.float32)
        if arrays[name].dtype not in types:
            expected_type = " or ".join(np.dtype(kind).name for kind in types)
            raise WeightsError(
                f"array {name!r} has another type", expected=expected_type, found=str(arrays[name].dtype)
            )
