"""Measure how well a model retrieves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drhn_cli.errors import DrhnError
from drhn_cli.evaluation.data import LabelledImages
from drhn_cli.evaluation.metrics import (
    PrecisionRecallCurve,
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
class Measures:
    """What is measured.

    Attributes:
        code_lengths: in bits. Empty: the network's full length.
        depth: of the truncated mean average precision.
        curves: precision and recall for each radius, too.
        asymmetric: mean average precision of asymmetric ranking, too.
    """

    code_lengths: tuple[int, ...] = ()
    depth: int = 1000
    curves: bool = False
    asymmetric: bool = False


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The figures of a model at one code length.

    Attributes:
        n_bits: length of the codes.
        accuracy: of the class predictions for the queries; None if the classes are not those of the training.
        retrieval: mean average precision and its kin.
        n_codes: different codes in the gallery.
        curve: precision and recall for each radius, if asked for.
        asymmetric_map: mean average precision of asymmetric ranking, if asked for.
    """

    n_bits: int
    accuracy: float | None
    retrieval: RetrievalMetrics
    n_codes: int
    curve: PrecisionRecallCurve | None = None
    asymmetric_map: float | None = None


def evaluate_model(
    model: Model,
    queries: LabelledImages,
    gallery: LabelledImages,
    measures: Measures | None = None,
    *,
    device: str = "auto",
    progress: Progress = SILENT,
) -> list[Evaluation]:
    """Return an evaluation for each code length.

    Args:
        model: the trained network.
        queries: labeled as the gallery is.
        gallery: what queries are looked up in.
        measures: what is measured.
        device: auto, cuda, mps or cpu.
        progress: is told of the pictures encoded ("hashing").

    Raises:
        ConfigError: the network was not trained for a code length.
        DrhnError: queries and gallery have different classes.
    """
    from drhn_cli.network.devices import choose_device
    from drhn_cli.network.drhn import build_network, predict_classes, torch_backend

    measures = measures or Measures()
    lengths = [choose_bits(n_bits, model) for n_bits in measures.code_lengths or (None,)]
    if queries.class_names != gallery.class_names:
        raise DrhnError(
            "queries and gallery have different classes",
            expected=str(gallery.class_names),
            found=str(queries.class_names),
        )
    network = build_network(model, choose_device(device))
    backend = torch_backend(network, model.preprocessing)
    n_queries = len(queries.labels)
    progress.phase("hashing", n_queries + len(gallery.labels))
    parts = []
    for images in (queries, gallery):
        for start in range(0, len(images.labels), _PROGRESS_STEP):
            parts.append(encode_views(backend, images.pixels[start : start + _PROGRESS_STEP]))
            progress.advance(len(parts[-1]))
    query_activations, gallery_activations = np.split(np.concatenate(parts), [n_queries])

    def evaluate_at(n_bits: int) -> Evaluation:
        query_codes = codes_of(query_activations, model.config, n_bits)
        gallery_codes = codes_of(gallery_activations, model.config, n_bits)
        accuracy = asymmetric_map = None
        if queries.class_names == model.class_names:
            accuracy = float((predict_classes(network, query_activations, n_bits) == queries.labels).mean())
        if measures.asymmetric:
            probabilities = bit_probabilities(query_activations, model.config, n_bits)
            asymmetric_map = asymmetric_mean_average_precision(
                probabilities, queries.labels, gallery_codes, gallery.labels
            )
        sets = query_codes, queries.labels, gallery_codes, gallery.labels
        return Evaluation(
            n_bits=n_bits,
            accuracy=accuracy,
            retrieval=evaluate_retrieval(*sets, n_bits=n_bits, depth=measures.depth),
            n_codes=len(np.unique(gallery_codes, axis=0)),
            curve=precision_recall_by_radius(*sets, n_bits=n_bits) if measures.curves else None,
            asymmetric_map=asymmetric_map,
        )

    return [evaluate_at(n_bits) for n_bits in lengths]
