"""Layers in closed form: one pass of pictures through a pretrained trunk that stays as it is, and some algebra."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from drhn_cli.errors import AnyPath, ConfigError, SourceError, about
from drhn_cli.evaluation.data import ImageFolder, class_folders, find_split
from drhn_cli.images.find import find_images
from drhn_cli.images.load import load_batches
from drhn_cli.network.closed_form import Moments, fit_class_layer, fit_hash_layer, fit_label_layer
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
    """Fit hash and class layer of a pretrained trunk to the pictures of a folder, at any depth.

    The hash layer is PCA and an ITQ rotation, see ``fit_hash_layer``. From weights that have a hash layer already, the
    moments of the pictures are mixed with those that it was fitted to. It ignores labels: with few pictures a class,
    the directions that tell classes apart generalized worse than those of largest variance.

    The class layer learns the classes of a folder of class folders, see ``fit_label_layer``. Without labels it recalls
    from the bits what the trunk, or the class layer of those weights, says of the pictures, see ``fit_class_layer``.

    Returns the model, without a name, and the number of pictures.

    Raises:
        ConfigError: the recipe starts from nothing.
        SourceError: the folder has no pictures that can be read, or classes without pictures.
        DrhnError: too few pictures, or too many alike, for the length of the codes.
    """
    start = recipe.start
    if start is None:
        raise ConfigError("codes in closed form need a pretrained trunk", hint=f"give it: --from {PRETRAINED[-1]}")
    start = replace(start, preprocessing=recipe.preprocessing)
    labelled = _find_classes(folder, progress) if recipe.stages[0].labels else None
    paths = labelled.paths if labelled else _find_pictures(folder, progress)
    rows = _draw(len(paths), recipe.seed)
    sources = [paths[row] for row in rows.tolist()]
    with about(folder):
        pooled, read = _pooled_features(start, sources, progress, device=device, workers=workers or n_processors())
    progress.phase("fitting", 1)
    features = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    general = None if start.is_bare_trunk else Moments.from_arrays(start.moments)
    moments = start.moments if general else Moments.of(features).to_arrays()
    weight, bias = fit_hash_layer(features, recipe.network.code_lengths, seed=recipe.seed, general=general)
    bits = features @ weight.T + bias > 0
    if labelled:
        class_names = labelled.class_names
        class_weight, class_bias = fit_label_layer(bits, labelled.labels[rows[read]], len(class_names))
    else:
        logits, class_names = _recalled_logits(start, pooled, features)
        class_weight, class_bias = fit_class_layer(bits, logits)
    progress.advance()
    layers = {
        **{"hash.weight": weight, "hash.bias": bias},
        **{"classify.weight": class_weight, "classify.bias": class_bias},
    }
    config = replace(recipe.network, n_classes=len(class_names))
    arrays = {name: layers[name] if name in layers else start.arrays[name] for name in config.array_shapes()}
    return replace(start, config=config, class_names=class_names, arrays=arrays, moments=moments), len(pooled)


def _find_classes(folder: AnyPath, progress: Progress) -> ImageFolder | None:
    """Return the training pictures by class; None where the folder has no folders."""
    with about(folder):
        if not class_folders(os.fsencode(folder)):
            progress.note("no class folders, so there are no labels to learn")
            return None
    try:
        labelled, _ = find_split(folder)
    except SourceError as error:
        hint = "--no-labels takes pictures at any depth"
        error.hint = f"{error.hint}, or {hint}" if error.hint else hint
        raise
    progress.note(f"{len(labelled.class_names):,} classes, named after their folders; --no-labels ignores them")
    return labelled


def _find_pictures(folder: AnyPath, progress: Progress) -> Sequence[bytes]:
    progress.phase("listing")
    found = find_images([folder], follow=True, progress=progress)
    for failure in found.failures:
        progress.failure(failure)
    return [file.path for file in found.files]


def _recalled_logits(
    start: Model, pooled: NDArray[np.float32], features: NDArray[np.float32]
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Return what the trunk, or the class layer of weights, says of the pictures, (n, c), and the names of classes."""
    if start.is_bare_trunk:
        trunk = load_pretrained_trunk(start.name)
        return pooled @ trunk.class_weight.T + trunk.class_bias, trunk.class_names
    old = start.arrays
    signs = np.where(features @ old["hash.weight"].T + old["hash.bias"] > 0, 1, -1)
    return signs @ old["classify.weight"].T + old["classify.bias"], start.class_names


def _pooled_features(
    model: Model, paths: Sequence[bytes], progress: Progress, *, device: str, workers: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the pooled features of pictures, (m, d), not normalized, and the rows that could be read, (m,)."""
    progress.phase("encoding", len(paths))
    model = replace(model, config=replace(model.config, unit_features=False))
    encoder = Encoder(model, device=device, n_images=len(paths), n_threads=workers)
    blocks, read = [], []
    for batch in load_batches(paths, model.preprocessing, batch_size=_BATCH_SIZE, workers=workers):
        for _, error in batch.failures:
            progress.failure(error)
        read.append(batch.indices)
        for start in range(0, len(batch.pixels), encoder.step):
            blocks.append(encoder.features(batch.pixels[start : start + encoder.step]))
            progress.advance(len(blocks[-1]))
    if not blocks:
        raise SourceError("no pictures to fit codes to", hint="name a folder of pictures")
    return np.concatenate(blocks), np.concatenate(read)


def _draw(n: int, seed: int) -> NDArray[np.int64]:
    """Return the rows of the pictures to fit to, rising."""
    if n <= _MOST_PICTURES:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, _MOST_PICTURES, replace=False))
