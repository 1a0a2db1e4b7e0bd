"""Distillation: a network learns to predict the features of another one, the teacher."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from drhn_cli.errors import AnyPath, SourceError, printable
from drhn_cli.files import CORRUPT, open_regular, os_errors
from drhn_cli.network.config import NetworkConfig
from drhn_cli.network.drhn import linear_of_bits
from drhn_cli.network.encoder import Encoder
from drhn_cli.network.model import load_model
from drhn_cli.paths import bundled_names
from drhn_cli.progress import Progress
from drhn_cli.threads import n_processors

_MAX_FEATURES = 256
_CHUNK_ROWS = 4096
_FEATURE_LIMIT = 1e100  # sums of squares stay finite


class DistillationHead(nn.Linear):
    """A linear layer that predicts a teacher's features, trained with a network and not kept.

    From codes, images that the teacher finds similar get similar codes, as the prediction is linear in the bits. From
    pooled features, the trunk learns what the teacher knows, and the codes may forget it.
    """

    def __init__(self, config: NetworkConfig, n_features: int, at: Literal["codes", "pooled"]) -> None:
        super().__init__(config.bits if at == "codes" else config.n_features, n_features)
        self.at, self.code_lengths = at, config.code_lengths

    def predict(self, pooled: Tensor, activations: Tensor) -> list[Tensor]:
        """Return the predictions, (n, n_features) each, of every code length or the one of the pooled features.

        Pooled features are (n, channels), activations (n, bits) in 0..1; shorter codes are scaled as in
        ``DRHN.scores``.
        """
        if self.at == "pooled":
            return [self(pooled)]
        return [linear_of_bits(self, activations[:, :n_bits]) for n_bits in self.code_lengths]


def distillation_loss(predictions: Sequence[Tensor], features: Tensor) -> Tensor:
    """Return 1 - cosine between predicted and true features, averaged over images and predictions.

    Regression of a teacher's features is that of FitNets (Romero et al. 2014, https://arxiv.org/abs/1412.6550), here of
    their direction alone. Each prediction and the features are (n, d) float32.
    """
    return torch.stack([1 - functional.cosine_similarity(one, features).mean() for one in predictions]).mean()


def is_model(teacher: str) -> bool:
    """Return whether a stage's ``distill_from`` names a bundled model, rather than a file of features."""
    return teacher in bundled_names(".npz")


def model_features(name: str, pixels: NDArray[np.uint8], *, device: str, progress: Progress) -> NDArray[np.float16]:
    """Return a bundled model's pooled features of images: (n, s, s, 3) uint8 -> (n, at most 256), of unit length.

    The images are resized to the model's input. Like those of ``load_features``, the features are centered and
    reduced to their principal components.
    """
    model = load_model(name, views=1)
    encoder = Encoder(model, device=device, n_images=len(pixels), n_threads=n_processors())
    progress.phase("encoding", len(pixels))
    blocks = []
    for start in range(0, len(pixels), encoder.step):
        blocks.append(encoder.features(_resized(pixels[start : start + encoder.step], model.preprocessing.size)))
        progress.advance(len(blocks[-1]))
    features = np.concatenate(blocks)
    return _reduced(features, list(range(len(features))))


def _resized(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """(n, s, s, 3) -> (n, side, side, 3), bicubic."""
    channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    resized = functional.interpolate(channels_first, size=(side, side), mode="bicubic", antialias=True)
    return resized.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def load_features(path: AnyPath, names: Sequence[bytes]) -> NDArray[np.float16]:
    """Return a teacher's features: centered, reduced to 256 principal components at most, of unit length.

    ``path`` is an ``.npz`` with ``features``, (m, d) of a floating dtype, and ``paths``, (m,) bytes or text: for each
    row the path of its picture relative to the folder of the class folders, as in ``lion/0001.jpg``. The result is (n,
    min(d, 256)) float16, for the n pictures of ``names`` in that order. Pictures without names (CIFAR-10's) and a file
    that lacks a picture are refused with ``SourceError``.
    """
    if not names:
        raise SourceError(
            "these pictures have no names for a teacher's rows", hint="train on a folder of class folders"
        )
    paths, features = _read(path)
    rows = {os.fsencode(name): row for row, name in enumerate(paths.tolist())}
    missing = next((name for name in names if name not in rows), None)
    if missing is not None:
        expected, hint = f"a row for {printable(missing)}", "paths are relative to the folder of the class folders"
        problem, found = "the teacher has not seen every training picture", f"{len(rows)} pictures"
        raise SourceError(problem, path=path, expected=expected, found=found, hint=hint)
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
    reduced = ((chunk - mean) @ components for chunk in _chunks(features, rows))
    units = [(one / np.linalg.norm(one, axis=1, keepdims=True).clip(min=1e-12)).astype(np.float16) for one in reduced]
    return np.concatenate(units)


def _chunks(features: NDArray[Any], rows: list[int]) -> Iterator[NDArray[np.float64]]:
    for start in range(0, len(rows), _CHUNK_ROWS):
        yield features[rows[start : start + _CHUNK_ROWS]].astype(np.float64)


def require_teacher(teacher: str) -> None:
    """Refuse a file that ``load_features`` cannot read, before minutes are spent on pictures."""
    if not is_model(teacher):
        _read(teacher)


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
    has_types = paths.ndim == 1 and paths.dtype.kind in "SU" and features.ndim == 2 and features.dtype.kind == "f"
    if not has_types or not features.shape[1] or len(paths) != len(features):
        found = f"paths {paths.shape} {paths.dtype}, features {features.shape} {features.dtype}"
        raise SourceError("holds no features", path=path, expected=expected, found=found)
    return paths, features
