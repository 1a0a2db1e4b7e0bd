"""Codes in closed form: one pass of pictures through a pretrained trunk that stays as it is, and seconds of algebra."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drhn_cli.errors import AnyPath, ConfigError, DrhnError, SourceError
from drhn_cli.images.find import find_images
from drhn_cli.images.load import load_batches
from drhn_cli.images.source import ImageFile
from drhn_cli.network.closed_form import Moments, fit_class_layer, fit_hash_layer
from drhn_cli.network.encoder import Encoder
from drhn_cli.network.model import Model
from drhn_cli.network.pretrained import PRETRAINED, load_pretrained_trunk
from drhn_cli.network.quantize import calibration_rows, quantize, replace_head, with_known_answer
from drhn_cli.progress import Progress
from drhn_cli.threads import n_processors
from drhn_cli.training.recipe import Recipe

_MOST_PICTURES = 50_000
"""Pictures that a layer is fitted to, drawn from all: their features take 256 MB."""

_BATCH_SIZE = 256


def fit_model(
    recipe: Recipe, folder: AnyPath, progress: Progress, *, device: str = "auto", workers: int | None = None
) -> tuple[Model, int]:
    """Fit hash and class layer of a pretrained trunk to the pictures of a folder, at any depth, without labels.

    The hash layer is PCA and an ITQ rotation, see ``fit_hash_layer``. From weights that have a hash layer already, the
    moments of the pictures are mixed with those that it was fitted to. The class layer recalls from the bits what the
    trunk, or the class layer of those weights, says of the pictures, see ``fit_class_layer``.

    Returns the model, without a name, and the number of pictures.

    Raises:
        ConfigError: the recipe starts from nothing.
        SourceError: the folder has no pictures that can be read.
        DrhnError: too few pictures, or too many alike, for the length of the codes.
    """
    start = recipe.start
    if start is None:
        raise ConfigError("codes in closed form need a pretrained trunk", hint=f"give it: --from {PRETRAINED[-1]}")
    workers = workers or n_processors()
    files = _find(folder, progress, recipe.seed)
    nothing = SourceError("no pictures to fit codes to", path=os.fsencode(folder), hint="name a folder of pictures")
    if not files:
        raise nothing
    start = _in_integers(_resized(start, recipe), files, progress, workers)
    if not start.is_integer:
        raise nothing
    pooled = _pooled_features(start, files, progress, device=device, workers=workers)
    if not len(pooled):
        raise nothing
    progress.phase("fitting", 1)
    features = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    general: Moments | None = None
    moments: Mapping[str, NDArray[Any]] = start.moments
    if start.is_bare_trunk:
        trunk = load_pretrained_trunk(start.name)
        logits, class_names = pooled @ trunk.class_weight.T + trunk.class_bias, trunk.class_names
        moments = Moments.of(features).to_arrays()
    else:
        old = start.arrays
        weight = old["hash.weight"] * old["hash.scale"][:, np.newaxis]
        signs = np.where(features @ weight.T + old["hash.bias"] > 0, 1, -1)
        logits, class_names = signs @ old["classify.weight"].T + old["classify.bias"], start.class_names
        general = Moments.from_arrays(moments)
    config = replace(recipe.network, n_classes=len(class_names))
    weight, bias = fit_hash_layer(features, config.code_lengths, seed=recipe.seed, general=general)
    class_weight, class_bias = fit_class_layer(features @ weight.T + bias > 0, logits)
    progress.advance()
    layers = {
        **{"hash.weight": weight, "hash.bias": bias},
        **{"classify.weight": class_weight, "classify.bias": class_bias},
    }
    model = replace_head(start, layers, config=config, class_names=class_names, moments=moments)
    return model, len(pooled)


def _find(folder: AnyPath, progress: Progress, seed: int) -> list[ImageFile]:
    """Return the pictures of a folder, or a part of them if there are very many."""
    progress.phase("listing")
    found = find_images([folder], follow=True, progress=progress)
    for failure in found.failures:
        progress.failure(failure)
    return _draw(found.files, seed)


def _resized(start: Model, recipe: Recipe) -> Model:
    """Return the weights to start from, for pictures as the recipe has them."""
    config = replace(start.config, input_size=recipe.network.input_size)
    resized = replace(start, config=config, preprocessing=recipe.preprocessing)
    return with_known_answer(resized) if start.is_integer else resized


def _in_integers(model: Model, files: Sequence[ImageFile], progress: Progress, workers: int) -> Model:
    """Return the trunk as it will be deployed, so that layers are fitted to the features that it has then.

    It stays in floats if no picture can be read.
    """
    if model.is_integer:
        return model
    rows = calibration_rows(len(files)).tolist()
    progress.phase("calibrating", len(rows))
    chosen = [files[row] for row in rows]
    blocks, failures = list[NDArray[np.uint8]](), list[DrhnError]()
    for batch in load_batches(chosen, model.preprocessing, batch_size=_BATCH_SIZE, workers=workers):
        blocks.append(batch.pixels)
        failures += [error for _, error in batch.failures]
        progress.advance(len(batch.pixels) + len(batch.failures))
    pixels = np.concatenate(blocks)
    if len(pixels):
        return quantize(model, pixels)  # failures are reported when features are computed
    for error in failures:
        progress.failure(error)
    return model


def _pooled_features(
    model: Model, files: Sequence[ImageFile], progress: Progress, *, device: str, workers: int
) -> NDArray[np.float32]:
    """Return the pooled features of pictures, (n, d), not normalized."""
    progress.phase("encoding", len(files))
    model = replace(model, config=replace(model.config, unit_features=False))
    encoder = Encoder(model, device=device, n_threads=workers)
    blocks = [np.empty((0, model.config.n_features), np.float32)]
    for batch in load_batches(files, model.preprocessing, batch_size=_BATCH_SIZE, workers=workers):
        for _, error in batch.failures:
            progress.failure(error)
        for start in range(0, len(batch.pixels), encoder.step):
            blocks.append(encoder.features(batch.pixels[start : start + encoder.step]))
            progress.advance(len(blocks[-1]))
    return np.concatenate(blocks)


def _draw(files: Sequence[ImageFile], seed: int) -> list[ImageFile]:
    if len(files) <= _MOST_PICTURES:
        return list(files)
    rows = np.random.default_rng(seed).choice(len(files), _MOST_PICTURES, replace=False)
    return [files[row] for row in np.sort(rows).tolist()]
