"""Measure how well a model retrieves, at each code length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

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
from drhn_cli.network.config import NetworkConfig
from drhn_cli.network.encoder import Backend, Encoder, bit_probabilities, codes_of, encode_views, predict_classes
from drhn_cli.network.model import Model, choose_bits
from drhn_cli.progress import SILENT, Progress
from drhn_cli.threads import n_processors

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


class _Subject(NamedTuple):
    """What is measured."""

    config: NetworkConfig
    encode: Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # pixels -> (n, bits) activations
    predict: Callable[[NDArray[np.float32], int], NDArray[np.int64]]  # activations and a code length -> classes


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

    The codes are those that ``drhn hash`` makes.

    Raises:
        ConfigError: the network was not trained for a code length.
        DrhnError: queries and gallery have different classes.
    """
    measures = measures or Measures()
    for n_bits in measures.code_lengths:
        choose_bits(n_bits, model)
    if queries.class_names != gallery.class_names:
        expected, found = str(gallery.class_names), str(queries.class_names)
        raise DrhnError("queries and gallery have different classes", expected=expected, found=found)
    encoder = Encoder(model, device=device, n_threads=n_processors())
    subject = _Subject(model.config, encoder.activations, partial(predict_classes, model))
    evaluations = _evaluate(subject, queries, gallery, measures, progress)
    if queries.class_names == model.class_names:
        return evaluations
    return [replace(one, accuracy=None) for one in evaluations]


def evaluate_network(
    network: DRHN, backend: Backend, queries: LabelledImages, gallery: LabelledImages, measures: Measures
) -> list[Evaluation]:
    """Return an evaluation for each code length of a network in training, and of a backend that runs it.

    Queries and gallery have the classes of the network, in the same order.
    """
    from drhn_cli.network import drhn

    subject = _Subject(network.config, partial(encode_views, backend), partial(drhn.predict_classes, network))
    return _evaluate(subject, queries, gallery, measures, SILENT)


def _evaluate(
    subject: _Subject, queries: LabelledImages, gallery: LabelledImages, measures: Measures, progress: Progress
) -> list[Evaluation]:
    progress.phase("hashing", len(queries.labels) + len(gallery.labels))
    config = subject.config
    query_activations, gallery_activations = (_encode(subject, images, progress) for images in (queries, gallery))

    def evaluate_at(n_bits: int) -> Evaluation:
        query_codes = LabelledCodes(codes_of(query_activations, config, n_bits), queries.labels, n_bits)
        gallery_codes = LabelledCodes(codes_of(gallery_activations, config, n_bits), gallery.labels, n_bits)
        asymmetric_map = None
        if measures.asymmetric:
            probabilities = bit_probabilities(query_activations, config, n_bits)
            asymmetric_map = asymmetric_mean_average_precision(probabilities, queries.labels, gallery_codes)
        return Evaluation(
            n_bits=n_bits,
            accuracy=float((subject.predict(query_activations, n_bits) == queries.labels).mean()),
            retrieval=retrieval_metrics(query_codes, gallery_codes, depth=measures.depth),
            n_codes=len(unique_rows(gallery_codes.codes)[0]),
            curve=precision_recall_curve(query_codes, gallery_codes) if measures.curves else None,
            asymmetric_map=asymmetric_map,
        )

    return [evaluate_at(n_bits) for n_bits in measures.code_lengths or (config.bits,)]


def _encode(subject: _Subject, images: LabelledImages, progress: Progress) -> NDArray[np.float32]:
    parts = []
    for start in range(0, len(images.labels), _PROGRESS_STEP):
        parts.append(subject.encode(images.pixels[start : start + _PROGRESS_STEP]))
        progress.advance(len(parts[-1]))
    return np.concatenate(parts)
