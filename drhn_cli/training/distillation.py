"""Distillation: the codes learn to predict the features of another network, the teacher."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from drhn_cli.errors import AnyPath, SourceError, printable
from drhn_cli.files import CORRUPT, open_regular, os_errors
from drhn_cli.network.drhn import linear_of_bits

_MAX_FEATURES = 256
_CHUNK_ROWS = 4096
_FEATURE_LIMIT = 1e100  # sums of squares stay finite


class DistillationHead(nn.Linear):
    """A linear layer that predicts a teacher's features from codes. It is trained with a network and not kept.

    Shorter codes are scaled up, as for ``DRHN.scores``.
    """

    def __init__(self, n_bits: int, n_features: int) -> None:
        super().__init__(n_bits, n_features)

    def forward(self, activations: Tensor) -> Tensor:
        """(n, n_bits or fewer) in 0..1 -> (n, n_features)."""
        return linear_of_bits(self, activations)


def distillation_loss(
    head: DistillationHead, activations: Tensor, features: Tensor, code_lengths: Sequence[int]
) -> Tensor:
    """Return 1 - cosine between predicted and true features, averaged over images and code lengths.

    Images that the teacher finds similar get similar codes, as the prediction is linear in the bits. Regression of a
    teacher's features is that of FitNets (Romero et al. 2014, https://arxiv.org/abs/1412.6550), here of their direction
    alone. Activations are (n, bits) in 0..1, features (n, d) float32.
    """
    predictions = (head(activations[:, :n_bits]) for n_bits in code_lengths)
    return torch.stack([1 - functional.cosine_similarity(one, features).mean() for one in predictions]).mean()


def load_features(path: AnyPath, names: Sequence[bytes]) -> NDArray[np.float16]:
    """Return a teacher's features: centered, reduced to 256 principal components at most, of unit length.

    Args:
        path: an ``.npz`` with ``features``, (m, d) of a floating dtype, and ``paths``, (m,) bytes or text: for each row
            the path of its picture relative to the folder of the class folders, as in ``lion/0001.jpg``.
        names: the paths of the pictures that are wanted.

    Returns:
        (n, min(d, 256)) float16, in the order of ``names``.

    Raises:
        SourceError: the file cannot be read or lacks a picture, or pictures have no names (CIFAR-10's).
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
    if not all((np.abs(chunk) < _FEATURE_LIMIT).all() for chunk in _chunks(features, chosen)):
        raise SourceError("the teacher's features are not all numbers, or too large", path=path)
    return _reduced(features, chosen)


def _reduced(features: NDArray[Any], rows: list[int]) -> NDArray[np.float16]:
    """Project the features of some rows on their principal components and scale each to unit length."""
    total, squares = np.zeros(features.shape[1]), np.zeros((features.shape[1],) * 2)
    for chunk in _chunks(features, rows):
        total += chunk.sum(axis=0)
        squares += chunk.T @ chunk
    mean = total / len(rows)
    _, axes = np.linalg.eigh(squares / len(rows) - np.outer(mean, mean))  # of rising variance
    components = axes[:, ::-1][:, :_MAX_FEATURES]
    reduced = np.empty((len(rows), components.shape[1]), np.float16)
    for start in range(0, len(rows), _CHUNK_ROWS):
        chunk = (features[rows[start : start + _CHUNK_ROWS]] - mean) @ components
        reduced[start : start + _CHUNK_ROWS] = chunk / np.linalg.norm(chunk, axis=1, keepdims=True).clip(min=1e-12)
    return reduced


def _chunks(features: NDArray[Any], rows: list[int]) -> Iterator[NDArray[np.float64]]:
    for start in range(0, len(rows), _CHUNK_ROWS):
        yield features[rows[start : start + _CHUNK_ROWS]].astype(np.float64)


def require_features(path: AnyPath) -> None:
    """Refuse what ``load_features`` cannot read, before minutes are spent on pictures."""
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
