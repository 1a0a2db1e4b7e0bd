"""Codes in closed form: one pass of pictures through a pretrained trunk that stays as it is, and seconds of algebra."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drhn_cli.errors import AnyPath, ConfigError, SourceError
from drhn_cli.images.find import find_images
from drhn_cli.images.load import load_batches
from drhn_cli.images.source import ImageFile
from drhn_cli.network.closed_form import Moments, fit_class_layer, fit_hash_layer
from drhn_cli.network.encoder import Encoder
from drhn_cli.network.model import Model
from drhn_cli.network.pretrained import PRETRAINED, load_pretrained_trunk
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
    start = replace(start, preprocessing=recipe.preprocessing)
    pooled = _pooled_features(start, folder, progress, recipe.seed, device=device, workers=workers)
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
        signs = np.where(features @ old["hash.weight"].T + old["hash.bias"] > 0, 1, -1)
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
    arrays = {name: layers[name] if name in layers else start.arrays[name] for name in config.array_shapes()}
    return replace(start, config=config, class_names=class_names, arrays=arrays, moments=moments), len(pooled)


def _pooled_features(
    model: Model, folder: AnyPath, progress: Progress, seed: int, *, device: str, workers: int
) -> NDArray[np.float32]:
    """Return the pooled features of the pictures of a folder, (n, d), not normalized."""
    progress.phase("listing")
    found = find_images([folder], follow=True, progress=progress)
    for failure in found.failures:
        progress.failure(failure)
    files = _draw(found.files, seed)
    progress.phase("encoding", len(files))
    model = replace(model, config=replace(model.config, unit_features=False))
    encoder = Encoder(model, device=device, n_images=len(files), n_threads=workers)
    blocks = []
    for batch in load_batches(files, model.preprocessing, batch_size=_BATCH_SIZE, workers=workers):
        for _, error in batch.failures:
            progress.failure(error)
        for start in range(0, len(batch.pixels), encoder.step):
            blocks.append(encoder.features(batch.pixels[start : start + encoder.step]))
            progress.advance(len(blocks[-1]))
    if not sum(map(len, blocks)):
        raise SourceError("no pictures to fit codes to", path=os.fsencode(folder), hint="name a folder of pictures")
    return np.concatenate(blocks)


def _draw(files: Sequence[ImageFile], seed: int) -> list[ImageFile]:
    if len(files) <= _MOST_PICTURES:
        return list(files)
    rows = np.random.default_rng(seed).choice(len(files), _MOST_PICTURES, replace=False)
    return [files[row] for row in np.sort(rows).tolist()]
