"""Measure how well a model retrieves, at each code length."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from drhn_cli.errors import DrhnError
from drhn_cli.evaluation.data import LabelledImages
from drhn_cli.evaluation.metrics import (
    LabelledCodes,
    PrecisionRecallCurve,
    RetrievalMetrics,
    asymmetric_mean_average_precision,
    precision_recall_curve,
    retrieval_metrics,
    unique_rows,
)
from drhn_cli.network.encoder import Backend, bit_probabilities, codes_of, encode_views
from drhn_cli.network.model import Model, choose_bits
from drhn_cli.progress import SILENT, Progress

if TYPE_CHECKING:
    from drhn_cli.network.drhn import DRHN

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
    from drhn_cli.network.drhn import build_network, torch_backend

    measures = measures or Measures()
    for n_bits in measures.code_lengths:
        choose_bits(n_bits, model)
    if queries.class_names != gallery.class_names:
        expected, found = str(gallery.class_names), str(queries.class_names)
        raise DrhnError("queries and gallery have different classes", expected=expected, found=found)
    network = build_network(model, choose_device(device))
    backend = torch_backend(network, model.preprocessing)
    evaluations = evaluate_network(network, backend, queries, gallery, measures, progress)
    if queries.class_names == model.class_names:
        return evaluations
    return [replace(one, accuracy=None) for one in evaluations]


def evaluate_network(
    network: DRHN,
    backend: Backend,
    queries: LabelledImages,
    gallery: LabelledImages,
    measures: Measures,
    progress: Progress = SILENT,
) -> list[Evaluation]:
    """Return an evaluation for each code length of a network in evaluation mode, and of a backend that runs it.

    Queries and gallery have the classes of the network, in the same order.
    """
    from drhn_cli.network.drhn import predict_classes

    progress.phase("hashing", len(queries.labels) + len(gallery.labels))
    query_activations, gallery_activations = (_encode(backend, images, progress) for images in (queries, gallery))

    def evaluate_at(n_bits: int) -> Evaluation:
        query_codes = LabelledCodes(codes_of(query_activations, network.config, n_bits), queries.labels, n_bits)
        gallery_codes = LabelledCodes(codes_of(gallery_activations, network.config, n_bits), gallery.labels, n_bits)
        asymmetric_map = None
        if measures.asymmetric:
            probabilities = bit_probabilities(query_activations, network.config, n_bits)
            asymmetric_map = asymmetric_mean_average_precision(probabilities, queries.labels, gallery_codes)
        return Evaluation(
            n_bits=n_bits,
            accuracy=float((predict_classes(network, query_activations, n_bits) == queries.labels).mean()),
            retrieval=retrieval_metrics(query_codes, gallery_codes, depth=measures.depth),
            n_codes=len(unique_rows(gallery_codes.codes)[0]),
            curve=precision_recall_curve(query_codes, gallery_codes) if measures.curves else None,
            asymmetric_map=asymmetric_map,
        )

    return [evaluate_at(n_bits) for n_bits in measures.code_lengths or (network.config.bits,)]


def _encode(backend: Backend, images: LabelledImages, progress: Progress) -> NDArray[np.float32]:
    parts = []
    for start in range(0, len(images.labels), _PROGRESS_STEP):
        parts.append(encode_views(backend, images.pixels[start : start + _PROGRESS_STEP]))
        progress.advance(len(parts[-1]))
    return np.concatenate(parts)
