"""Measure how well weights retrieve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drhn_cli.errors import DrhnError
from drhn_cli.evaluation.data import LabelledPixels
from drhn_cli.evaluation.metrics import (
    RadiusCurve,
    RetrievalMetrics,
    asymmetric_mean_average_precision,
    evaluate_retrieval,
    precision_recall_by_radius,
)
from drhn_cli.network.encoder import bit_probabilities, codes_of, encode_views
from drhn_cli.network.model import Model, choose_bits
from drhn_cli.progress import SILENT, Progress

_PROGRESS_STEP = 1000  # images


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What weights are worth at one code length.

    Attributes:
        n_bits: length of the codes.
        accuracy: share of the queries that the network classifies right; None where the classes are not those it was
            trained on.
        retrieval: mean average precision and its kin.
        n_codes: different codes in the gallery.
        curve: precision and recall for each radius, if asked for.
        asymmetric_map: mean average precision by asymmetric rank, if asked for.
    """

    n_bits: int
    accuracy: float | None
    retrieval: RetrievalMetrics
    n_codes: int
    curve: RadiusCurve | None = None
    asymmetric_map: float | None = None


def evaluate_weights(
    weights: Model,
    queries: LabelledPixels,
    gallery: LabelledPixels,
    *,
    code_lengths: Sequence[int] = (),
    depth: int = 1000,
    curves: bool = False,
    asymmetric: bool = False,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Iterator[Evaluation]:
    """Yield an evaluation for each code length.

    Args:
        weights: the trained network.
        queries: pictures that are looked up; their labels index the same class names as the gallery's.
        gallery: pictures that are found.
        code_lengths: in bits. Empty: the network's full length.
        depth: where the cut mean average precision ends.
        curves: whether to measure precision and recall for each radius, too.
        asymmetric: whether to measure mean average precision by asymmetric rank, too.
        device: auto, cuda, mps or cpu.
        progress: is told of the pictures hashed ("hashing").

    Raises:
        ConfigError: the network was not trained for a code length.
        DrhnError: queries and gallery have different classes.
    """
    from drhn_cli.network.devices import choose_device
    from drhn_cli.network.drhn import build_network, predict_classes, torch_backend

    lengths = tuple(choose_bits(n_bits, weights) for n_bits in tuple(code_lengths) or (None,))
    if queries.class_names != gallery.class_names:
        raise DrhnError(
            "queries and gallery have different classes",
            expected=str(gallery.class_names),
            found=str(queries.class_names),
        )
    network = build_network(weights, choose_device(device))
    backend = torch_backend(network, weights.preprocessing)
    progress.phase("hashing", len(queries.labels) + len(gallery.labels))

    def activations_of(images: LabelledPixels) -> NDArray[np.float32]:
        parts = []
        for start in range(0, len(images.labels), _PROGRESS_STEP):
            parts.append(encode_views(backend, images.pixels[start : start + _PROGRESS_STEP]))
            progress.advance(len(parts[-1]))
        return np.concatenate(parts)

    query_activations, gallery_activations = activations_of(queries), activations_of(gallery)
    for n_bits in lengths:
        query_codes = codes_of(query_activations, weights.config, n_bits)
        gallery_codes = codes_of(gallery_activations, weights.config, n_bits)
        accuracy = None
        if queries.class_names == weights.class_names:
            accuracy = float((predict_classes(network, query_activations, n_bits) == queries.labels).mean())
        asymmetric_map = None
        if asymmetric:
            probabilities = bit_probabilities(query_activations, weights.config, n_bits)
            asymmetric_map = asymmetric_mean_average_precision(
                probabilities, queries.labels, gallery_codes, gallery.labels
            )
        sets = query_codes, queries.labels, gallery_codes, gallery.labels
        yield Evaluation(
            n_bits=n_bits,
            accuracy=accuracy,
            retrieval=evaluate_retrieval(*sets, n_bits=n_bits, depth=depth),
            n_codes=len(np.unique(gallery_codes, axis=0)),
            curve=precision_recall_by_radius(*sets, n_bits=n_bits) if curves else None,
            asymmetric_map=asymmetric_map,
        )
