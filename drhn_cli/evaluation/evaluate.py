"""Measure how well a model retrieves, at each code length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drhn_cli.errors import DrhnError
from drhn_cli.evaluation.data import LabelledImages
from drhn_cli.evaluation.metrics import (
    LabelledCodes,
    PrecisionRecallCurve,
    RetrievalMetrics,
    asymmetric_mean_average_precision,
    precision_recall_curve,
    retrieval_metrics,
)
from drhn_cli.network.encoder import bit_probabilities, codes_of, encode_views
from drhn_cli.network.model import Model, choose_bits
from drhn_cli.progress import SILENT, Progress

_PROGRESS_STEP = 1000  # images


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What ``evaluate_model`` measures."""

    code_lengths: tuple[int, ...] = ()  # in bits; empty: the network's full length
    depth: int = 1000  # of the truncated mean average precision
    curves: bool = False  # also precision and recall for each radius
    asymmetric: bool = False  # also the mean average precision of asymmetric ranking


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The figures of a model at one code length."""

    n_bits: int
    accuracy: float | None  # of the class predictions for the queries; None if the model has other classes
    retrieval: RetrievalMetrics
    n_codes: int  # distinct codes in the gallery
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
    """Return an evaluation for each code length; queries are looked up in the gallery, which has the same classes.

    Raises:
        ConfigError: the network was not trained for a code length.
        DrhnError: queries and gallery have different classes.
    """
    from drhn_cli.network.devices import choose_device
    from drhn_cli.network.drhn import build_network, predict_classes, torch_backend

    measures = measures or Measures()
    lengths = [choose_bits(n_bits, model) for n_bits in measures.code_lengths or (None,)]
    if queries.class_names != gallery.class_names:
        expected, found = str(gallery.class_names), str(queries.class_names)
        raise DrhnError("queries and gallery have different classes", expected=expected, found=found)
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
        query_codes = LabelledCodes(codes_of(query_activations, model.config, n_bits), queries.labels, n_bits)
        gallery_codes = LabelledCodes(codes_of(gallery_activations, model.config, n_bits), gallery.labels, n_bits)
        accuracy = asymmetric_map = None
        if queries.class_names == model.class_names:
            accuracy = float((predict_classes(network, query_activations, n_bits) == queries.labels).mean())
        if measures.asymmetric:
            probabilities = bit_probabilities(query_activations, model.config, n_bits)
            asymmetric_map = asymmetric_mean_average_precision(probabilities, queries.labels, gallery_codes)
        return Evaluation(
            n_bits=n_bits,
            accuracy=accuracy,
            retrieval=retrieval_metrics(query_codes, gallery_codes, depth=measures.depth),
            n_codes=len(np.unique(gallery_codes.codes, axis=0)),
            curve=precision_recall_curve(query_codes, gallery_codes) if measures.curves else None,
            asymmetric_map=asymmetric_map,
        )

    return [evaluate_at(n_bits) for n_bits in lengths]
