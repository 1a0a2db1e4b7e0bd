"""What another network sees in the training pictures, for the codes to tell."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drhn_cli.errors import AnyPath, SourceError, printable
from drhn_cli.files import CORRUPT, open_regular, os_errors

_MOST = 256  # features that are kept
_ROWS = 4096  # turned at a time
_LARGEST = 1e100  # of a feature: sums of squares stay numbers


def load_features(path: AnyPath, names: Sequence[bytes]) -> NDArray[np.float16]:
    """Return the features of pictures: less their mean, their 256 principal components at most, of unit length.

    Args:
        path: an ``.npz`` with ``features``, (m, d) of a floating type, and ``paths``, (m,) bytes or text: of each row
            the path of its picture relative to the folder of the class folders, as in ``lion/0001.jpg``. Nothing is
            ever unpickled.
        names: the paths of the pictures that are wanted, each in the file.

    Returns:
        (n, min(d, 256)) float16, in the order of ``names``.

    Raises:
        SourceError: the file cannot be read, is none of that kind, or lacks a picture; or there are no names, as of
            pictures that are no files.
    """
    if not names:
        hint = "train on a folder of class folders"
        raise SourceError("these pictures have no names for a teacher's rows", hint=hint)
    paths, features = _read(path)
    rows = {os.fsencode(name): row for row, name in enumerate(paths.tolist())}
    missing = next((name for name in names if name not in rows), None)
    if missing is not None:
        raise SourceError(
            "the teacher has not seen every training picture",
            path=path,
            expected=f"a row for {printable(missing)}",
            found=f"{len(rows)} pictures",
            hint="paths are relative to the folder of the class folders",
        )
    chosen = [rows[name] for name in names]
    parts = [chosen[start : start + _ROWS] for start in range(0, len(chosen), _ROWS)]
    total, squares = np.zeros(features.shape[1]), np.zeros((features.shape[1],) * 2)
    for part in parts:
        seen = features[part].astype(np.float64)
        if not (np.abs(seen) < _LARGEST).all():
            raise SourceError("the teacher's features are not all numbers, or too large", path=path)
        total += seen.sum(axis=0)
        squares += seen.T @ seen
    mean = total / len(chosen)
    _, axes = np.linalg.eigh(squares / len(chosen) - np.outer(mean, mean))
    main = axes[:, ::-1][:, :_MOST]  # those along which they vary most
    found = np.empty((len(chosen), main.shape[1]), np.float16)
    for start, part in zip(range(0, len(chosen), _ROWS), parts, strict=True):
        seen = (features[part] - mean) @ main
        found[start : start + _ROWS] = seen / np.linalg.norm(seen, axis=1, keepdims=True).clip(min=1e-12)
    return found


def require_features(path: AnyPath) -> None:
    """Refuse what ``load_features`` cannot read, before minutes are spent on pictures.

    Raises:
        SourceError: the file cannot be read, or is none of that kind.
    """
    _read(path)


def _read(path: AnyPath) -> tuple[NDArray[Any], NDArray[Any]]:
    expected = "an .npz with paths, (m,) bytes or text, and features, (m, d) floating-point numbers"
    absent = SourceError("no such file", path=path, expected=expected)
    with os_errors(SourceError, "cannot be read", path=path, absent=absent):
        stream = open_regular(path)
        if stream is None:
            raise SourceError("not a file", path=path, expected=expected)
        try:
            with stream:
                archive = np.load(stream, allow_pickle=False)
                paths, features = archive["paths"], archive["features"]
        except CORRUPT as error:
            problem = "holds no features, or is damaged"
            raise SourceError(problem, path=path, expected=expected, found=str(error)) from error
    if (
        paths.ndim != 1
        or paths.dtype.kind not in "SU"
        or features.ndim != 2
        or features.dtype.kind != "f"
        or not features.shape[1]
        or len(paths) != len(features)
    ):
        found = f"paths {paths.shape} {paths.dtype}, features {features.shape} {features.dtype}"
        raise SourceError("holds no features", path=path, expected=expected, found=found)
    return paths, features
