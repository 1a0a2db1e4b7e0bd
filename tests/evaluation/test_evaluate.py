from dataclasses import replace

import pytest
import torch

from drhn_cli.codes.pack import pack_bits
from drhn_cli.errors import ConfigError, DrhnError
from drhn_cli.evaluation import evaluate
from drhn_cli.evaluation.evaluate import Measures, evaluate_model, evaluate_network
from drhn_cli.evaluation.metrics import LabelledCodes, asymmetric_mean_average_precision, retrieval_metrics
from drhn_cli.network.drhn import build_network, load_torch, predict_classes
from drhn_cli.network.encoder import bit_probabilities, encode_views
from tests.drawing import KINDS
from tests.hearing import Hearing
from tests.networks import drawn, random_model, tiny_config

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights():
    return random_model(tiny_config(nested=(5, 9), threshold=0.4), class_names=KINDS)


@pytest.fixture(scope="module")
def queries():
    return drawn(3, seed=1)


@pytest.fixture(scope="module")
def gallery():
    return drawn(6)


def test_each_length_is_measured_on_its_own_bits(weights, queries, gallery):
    backend = load_torch(weights, CPU)
    query_activations, gallery_activations = (encode_views(backend, images.pixels) for images in (queries, gallery))
    found = evaluate_model(weights, queries, gallery, Measures(code_lengths=(16, 5, 9)), device="cpu")
    assert [one.n_bits for one in found] == [16, 5, 9]
    for one in found:
        query_codes, gallery_codes = (
            pack_bits(activations[:, : one.n_bits] > 0.4) for activations in (query_activations, gallery_activations)
        )
        assert one.n_codes == len({code.tobytes() for code in gallery_codes})
        predicted = predict_classes(build_network(weights, CPU), query_activations, one.n_bits)
        assert one.accuracy == (predicted == queries.labels).mean()
        assert one.retrieval == retrieval_metrics(
            LabelledCodes(query_codes, queries.labels, one.n_bits),
            LabelledCodes(gallery_codes, gallery.labels, one.n_bits),
        )


def test_a_network_in_training_is_measured_as_its_model_is(weights, queries, gallery):
    found = evaluate_network(build_network(weights, CPU), load_torch(weights, CPU), queries, gallery, Measures())
    assert found == evaluate_model(weights, queries, gallery, device="cpu")


def test_curves_are_measured_if_asked_for(weights, queries, gallery):
    for one in evaluate_model(weights, queries, gallery, Measures(code_lengths=(16, 5), curves=True), device="cpu"):
        assert one.curve.recall.shape == (one.n_bits + 1,)
        assert one.curve.recall[-1] == pytest.approx(1)
        assert one.curve.precision[-1] == pytest.approx(1 / 4)
        assert one.curve.precision[2] == pytest.approx(one.retrieval.precision_at_radius2)
    [one] = evaluate_model(weights, queries, gallery, device="cpu")
    assert one.curve is None


def test_the_whole_code_is_measured_unless_told(weights, queries, gallery):
    [one] = evaluate_model(weights, queries, gallery, device="cpu")
    assert one.n_bits == 16
    assert (one.retrieval.n_queries, one.retrieval.n_gallery) == (12, 24)


def test_classes_that_were_not_trained_have_no_accuracy(weights, queries, gallery):
    names = ("p", "q", "r", "s")
    others = (replace(images, class_names=names) for images in (queries, gallery))
    [one] = evaluate_model(weights, *others, device="cpu")
    assert one.accuracy is None
    assert one.retrieval.mean_average_precision > 0


def test_a_length_that_was_not_trained_is_refused_with_those_that_were(weights, queries, gallery):
    with pytest.raises(ConfigError, match=r"random makes no codes of 12 bits .expected 5 or 9 or 16.; choose"):
        evaluate_model(weights, queries, gallery, Measures(code_lengths=(16, 12)), device="cpu")


def test_queries_of_other_classes_than_the_gallery_are_refused(weights, queries, gallery):
    with pytest.raises(DrhnError, match="queries and gallery have different classes"):
        evaluate_model(weights, replace(queries, class_names=("a", "b", "c", "d")), gallery, device="cpu")


def test_progress_goes_through_both_parts_and_batches_change_nothing(weights, queries, gallery, monkeypatch):
    whole = evaluate_model(weights, queries, gallery, device="cpu")
    monkeypatch.setattr(evaluate, "_PROGRESS_STEP", 10)
    told = Hearing()
    parts = evaluate_model(weights, queries, gallery, device="cpu", progress=told)
    assert told.phases == [("hashing", 36)]
    assert told.steps_of("hashing") == [10, 12, 22, 32, 36]
    assert parts == whole


def test_asymmetric_rank_is_measured_on_the_bits_of_each_length(weights, queries, gallery):
    measures = Measures(code_lengths=(16, 5), asymmetric=True)
    found = evaluate_model(weights, queries, gallery, measures, device="cpu")
    plain = evaluate_model(weights, queries, gallery, Measures(code_lengths=(16, 5)), device="cpu")
    assert [replace(one, asymmetric_map=None) for one in found] == plain
    backend = load_torch(weights, CPU)
    query_activations, gallery_activations = (encode_views(backend, images.pixels) for images in (queries, gallery))
    for one in found:
        assert one.asymmetric_map == asymmetric_mean_average_precision(
            bit_probabilities(query_activations, weights.config, one.n_bits),
            queries.labels,
            LabelledCodes(pack_bits(gallery_activations[:, : one.n_bits] > 0.4), gallery.labels, one.n_bits),
        )
