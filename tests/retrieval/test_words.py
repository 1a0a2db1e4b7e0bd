import numpy as np
import pytest

from drhn_cli.codes.pack import pack_bits
from drhn_cli.retrieval import words as words_module
from drhn_cli.retrieval.vocabulary import Noun, Vocabulary, read_wordnet
from drhn_cli.retrieval.words import POSSIBLE, ClassLayer, WordQuery, probabilities, search_words, word_query
from tests.networks import random_model, tiny_config

BITS, N_CLASSES = 64, 12


def model_of(*, classify_bits, class_names=tuple(f"class {number}" for number in range(N_CLASSES))):
    config = tiny_config(bits=BITS, nested=(16, 48), n_classes=len(class_names), classify_bits=classify_bits)
    return random_model(config, class_names=class_names)


def noun(*classes):
    return Noun(name="/".join(map(str, classes)), classes=classes)


def query_of(*wanted, unwanted=()):
    return WordQuery(wanted=wanted, unwanted=unwanted)


@pytest.fixture(scope="module")
def bits():
    return np.random.default_rng(0).random((3_000, BITS)) < 0.5


@pytest.fixture(scope="module")
def codes(bits):
    return pack_bits(bits)


def softmax(logits):
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def read_by(model, inputs):
    weight, bias = (model.arrays[f"classify.{part}"].astype(np.float64) for part in ("weight", "bias"))
    return inputs @ weight[:, : inputs.shape[1]].T + bias


@pytest.mark.parametrize("n_bits", [16, 48, BITS])
def test_a_class_layer_of_activations_reads_bits_as_activations(bits, n_bits):
    model = model_of(classify_bits=False)
    expected = softmax(read_by(model, np.concatenate([bits[:, :n_bits], np.full((len(bits), BITS - n_bits), 0.5)], 1)))
    found = ClassLayer(model, n_bits).probabilities(pack_bits(bits[:, :n_bits]), [noun(3), noun(0, 5)])
    assert found[:, 0] == pytest.approx(expected[:, 3], abs=1e-5)
    assert found[:, 1] == pytest.approx(expected[:, 0] + expected[:, 5], abs=1e-5)


@pytest.mark.parametrize("n_bits", [16, 48, BITS])
def test_a_class_layer_of_bits_reads_them_as_signs(bits, n_bits):
    model = model_of(classify_bits=True)
    expected = softmax(read_by(model, np.where(bits[:, :n_bits], 1.0, -1.0)))
    found = ClassLayer(model, n_bits).probabilities(pack_bits(bits[:, :n_bits]), [noun(3), noun(0, 5)])
    assert found[:, 0] == pytest.approx(expected[:, 3], abs=1e-4)
    assert found[:, 1] == pytest.approx(expected[:, 0] + expected[:, 5], abs=1e-4)


@pytest.mark.parametrize("n_bits", [16, BITS])
def test_what_is_recalled_of_imagenet_is_calibrated(bits, n_bits):
    model = model_of(classify_bits=True, class_names=read_wordnet().class_names)
    signs = np.where(bits[:100, :n_bits], 1.0, -1.0)
    classes = tuple(range(0, 400))
    sums = softmax(read_by(model, signs) * 2)[:, classes].sum(axis=1)
    found = ClassLayer(model, n_bits).probabilities(pack_bits(bits[:100, :n_bits]), [noun(*classes)])[:, 0]
    clipped = sums.clip(1e-12, 1 - 1e-7)
    expected = 1 / (1 + np.exp(-(0.37 * np.log(clipped / (1 - clipped)) + 0.34 - 0.44 * np.log(400))))
    assert found == pytest.approx(expected, abs=1e-3)
    (label, *_) = next(
        ClassLayer(model, n_bits).labels(pack_bits(bits[:1, :n_bits]), [noun(*classes)], top_k=1, min_probability=0)
    )
    assert label[1] == pytest.approx(softmax(read_by(model, signs[:1]) / 0.75)[0, classes].sum(), abs=1e-3)


@pytest.mark.parametrize("few", [0, 20])
def test_scores_are_logarithms_of_sums_of_exponentials(codes, bits, few, monkeypatch):
    monkeypatch.setattr(words_module, "_FEW_CLASSES", few)
    model = model_of(classify_bits=False)
    expected = np.log(np.exp(read_by(model, bits.astype(float))[:, [1, 4]]).sum(axis=1))
    assert ClassLayer(model, BITS).scores(codes, noun(1, 4)) == pytest.approx(expected, abs=1e-4)


@pytest.fixture
def layer():
    return ClassLayer(model_of(classify_bits=False), BITS)


def found_by(layer, codes, query, **options):
    return search_words(layer, codes, query, **{"top_k": 10, "min_probability": 0.0, **options})


def test_the_likeliest_come_first_and_ties_in_the_order_of_rows(layer, codes):
    twice = np.concatenate([codes[:50], codes[:50]])
    indices, values = found_by(layer, twice, query_of(noun(2)), top_k=None)
    assert values.tolist() == sorted(layer.probabilities(twice, [noun(2)])[:, 0], reverse=True)
    assert (indices[::2] + 50 == indices[1::2]).all()


def test_all_of_several_words_are_wanted(layer, codes):
    indices, values = found_by(layer, codes, query_of(noun(2), noun(3, 4)))
    product = layer.probabilities(codes, [noun(2), noun(3, 4)]).prod(axis=1)
    assert indices.tolist() == np.argsort(-product, kind="stable")[:10].tolist()
    assert values == pytest.approx(product[indices])


def test_what_may_show_an_unwanted_word_is_left_out(layer, codes):
    indices, _ = found_by(layer, codes, query_of(noun(2), unwanted=(noun(3),)), top_k=None)
    unwanted = layer.probabilities(codes, [noun(3)])[:, 0]
    assert sorted(indices) == np.flatnonzero(unwanted < POSSIBLE).tolist()
    assert probabilities(layer, codes, query_of(unwanted=(noun(3),))).tolist() == (unwanted < POSSIBLE).tolist()


def test_a_probability_and_rows_limit_what_is_found(layer, codes):
    rows = np.arange(len(codes)) % 2 == 1
    indices, values = found_by(layer, codes, query_of(noun(2)), top_k=None, min_probability=0.5, rows=rows)
    expected = (layer.probabilities(codes, [noun(2)])[:, 0] >= 0.5) & rows
    assert sorted(indices) == np.flatnonzero(expected).tolist() != []
    assert min(values) >= 0.5


@pytest.mark.parametrize("query", [query_of(noun(2)), query_of(noun(2, 6), noun(3), unwanted=(noun(7),))])
@pytest.mark.parametrize("rows", [None, np.arange(3_000) % 3 > 0])
def test_a_large_gallery_is_answered_alike_from_a_shortlist(layer, codes, query, rows, monkeypatch):
    expected = [values.tolist() for values in found_by(layer, codes, query, rows=rows)]
    monkeypatch.setattr(words_module, "SHORTLIST", 300)
    monkeypatch.setattr(words_module, "_SHORTLIST_PER_MATCH", 1)
    compared = []
    monkeypatch.setattr(words_module, "probabilities", lambda *given: compared.append(given) or probabilities(*given))
    assert [values.tolist() for values in found_by(layer, codes, query, rows=rows)] == expected
    assert [len(part) for _, part, _ in compared] == [300]


def test_words_are_looked_up_and_what_is_little_known_is_said():
    query = word_query(Vocabulary(read_wordnet().class_names), ["cats", "flower"], ["dog"])
    assert ([each.name for each in query.wanted], [each.name for each in query.unwanted]) == (
        ["cat", "flower"],
        ["dog"],
    )
    assert query.notes == ("flower: the model knows daisy, yellow lady's slipper, of 468 kinds",)
    assert str(query) == "cat and flower"
    assert query.likely == pytest.approx(0.16)


@pytest.mark.parametrize("classify_bits", [False, True])
def test_the_most_special_likely_noun_labels_a_picture(codes, bits, classify_bits):
    model = model_of(classify_bits=classify_bits)
    shares = softmax(read_by(model, np.where(bits, 1.0, -1.0) if classify_bits else bits.astype(float)))
    nouns = [noun(*range(6)), noun(0, 1), *(noun(number) for number in range(N_CLASSES))]
    labels = ClassLayer(model, BITS).labels(codes, nouns, top_k=2, min_probability=0.5)
    seen = set()
    for row, chosen in zip(shares, labels, strict=True):
        best = int(row.argmax())
        if row[best] >= 0.51:
            ((found, value),) = chosen
            assert (found.classes, value) == ((best,), pytest.approx(row[best], abs=1e-3))
            seen.add("class")
        elif row[[0, 1]].sum() >= 0.51 and row[best] < 0.49:
            assert chosen[0][0].classes == (0, 1)
            seen.add("pair")
        elif row[:6].sum() < 0.49 and row[best] < 0.49:
            assert chosen == []
            seen.add("nothing")
    assert seen == {"class", "pair", "nothing"}
