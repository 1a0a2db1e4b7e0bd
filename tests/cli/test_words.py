"""``drhn query --word``, ``drhn words`` and ``drhn label``."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from drhn_cli.cli.app import run
from drhn_cli.codes.reader import CodeFile
from drhn_cli.network.model import load_model, save_model
from drhn_cli.retrieval import words as words_module
from drhn_cli.retrieval.vocabulary import Vocabulary, read_wordnet
from drhn_cli.retrieval.words import ClassLayer
from tests.drawing import KINDS
from tests.networks import random_model, tiny_config

IMAGE = "photos/circle/0000.png"


@pytest.fixture(scope="session")
def imagenet_path(tmp_path_factory):
    """An untrained network of 64 bits with the classes of ImageNet, which are told from bits."""
    path = tmp_path_factory.mktemp("weights") / "imagenet.npz"
    config = tiny_config(bits=64, n_classes=1000, classify_bits=True)
    save_model(path, random_model(config, name="imagenet", class_names=read_wordnet().class_names))
    return path


@pytest.fixture
def ask(drhn, update, imagenet_path):
    """``drhn query`` in a code file of ``photos`` that was made with that network."""
    update(weights=str(imagenet_path))

    def call(*arguments):
        return drhn("query", *arguments, "codes.bin", "--weights", imagenet_path)

    return call


@pytest.fixture
def probabilities_of(imagenet_path):
    """The probabilities of a word, by path."""

    def call(word):
        model = load_model(imagenet_path)
        with CodeFile.open("codes.bin") as file:
            noun = Vocabulary(model.class_names).find(word)
            values = ClassLayer(model, 64).probabilities(file.codes, [noun])[:, 0]
            return {f"photos/{file.path_bytes(row).decode()}": value for row, value in enumerate(values)}

    return call


def test_the_likeliest_pictures_of_a_word(ask, probabilities_of):
    result = ask("--word", "dogs", "--top", 3)
    expected = sorted(probabilities_of("dog").items(), key=lambda item: (-item[1], item[0]))[:3]
    assert (result.status, result.lines) == (0, [f"{value:.4f}\t{path}" for path, value in expected])


def test_the_json_of_a_word(ask, probabilities_of):
    first, *others = map(json.loads, ask("--word", "dog", "--word", "beach", "--json").lines)
    assert len(others) == 7
    both = probabilities_of("dog")[first["path"]] * probabilities_of("beach")[first["path"]]
    assert first == {"query": "dog beach", "rank": 1, "path": first["path"], "probability": round(both, 4)}


def test_what_is_no_file_is_a_word_if_it_is_known(ask):
    result = ask("dogs", "--top", 2)
    assert result.lines == ask("--word", "dog", "--top", 2).lines
    assert "drhn: dogs: no such file, so it is taken for a word" in result.err
    assert "taken for a word" not in ask("dogs", "--quiet").err
    assert ask("dogz").err == "drhn: dogz: no such file; check the path; it may have been moved\n"
    Path("dog").write_bytes(Path(IMAGE).read_bytes())
    assert ask("dog").lines == ask(IMAGE).lines


def test_a_stored_picture_that_is_gone_is_no_word(drhn, update, imagenet_path, photos):
    (photos / "dog").write_bytes((photos / "circle/0000.png").read_bytes())
    update("photos", "photos/dog", weights=str(imagenet_path))
    (photos / "dog").unlink()
    result = drhn("query", "photos/dog", "codes.bin", "--weights", imagenet_path, "--top", 1)
    assert (result.status, result.lines[0].split("\t")[0], result.err) == (0, "0", "")


def test_without_the_weights_what_is_no_file_is_an_error_of_a_file(drhn, update):
    update()
    result = drhn("query", "dog", "codes.bin")
    assert (result.status, "no such file" in result.err) == (2, False)
    assert "made with another model" in result.err


def test_a_word_beside_a_picture_leaves_others_out(ask, probabilities_of):
    values = probabilities_of("dog")
    limit = float(np.median(list(values.values())))
    found = list(map(json.loads, ask(IMAGE, "--word", "dog", "--min-probability", limit, "--json").lines))
    near = [json.loads(line) for line in ask(IMAGE, "--json").lines]
    kept = [match for match in near if values[match["path"]] >= limit]
    assert [(match["path"], match["distance"]) for match in found] == [
        (match["path"], match["distance"]) for match in kept
    ]
    assert [match["probability"] for match in found] == [round(values[match["path"]], 4) for match in kept]
    assert 0 < len(found) < len(near)


def test_a_word_is_looked_for_in_the_folders_alone_that_are_searched(ask, probabilities_of, monkeypatch):
    values = probabilities_of("dog")
    compute, n_computed = ClassLayer.probabilities, []

    def count(layer, codes, nouns):
        n_computed.append(len(codes))
        return compute(layer, codes, nouns)

    monkeypatch.setattr(ClassLayer, "probabilities", count)
    folder = ("--under", "photos/circle", "--json")
    found = list(map(json.loads, ask(IMAGE, "--word", "dog", "--min-probability", 0, *folder).lines))
    assert [match["path"] for match in found] == [json.loads(line)["path"] for line in ask(IMAGE, *folder).lines]
    assert [match["probability"] for match in found] == [round(values[match["path"]], 4) for match in found]
    assert n_computed == [len(found)] != [len(values)]


def test_words_that_are_not_wanted(ask, probabilities_of, monkeypatch):
    values = probabilities_of("dog")
    monkeypatch.setattr(words_module, "POSSIBLE", float(np.median(list(values.values()))))
    kept = {path for path, value in values.items() if value < words_module.POSSIBLE}
    found = {line.split("\t")[1] for line in ask("--word", "cat", "--not-word", "dog").lines}
    assert found == kept
    beside = list(map(json.loads, ask(IMAGE, "--not-word", "dog", "--json").lines))
    assert {match["path"] for match in beside} == kept
    assert not any("probability" in match for match in beside)


def test_a_probability_cuts(ask, probabilities_of):
    values = sorted(probabilities_of("dog").values(), reverse=True)
    assert len(ask("--word", "dog", "--min-probability", values[2]).lines) == 3
    result = ask("--word", "dog", "--min-probability", 0.999)
    assert (result.status, result.err) == (1, "drhn: nothing found\n")


def test_that_nothing_is_likely_is_said(ask, monkeypatch, probabilities_of):
    best = max(probabilities_of("dog").values())
    monkeypatch.setattr(words_module, "LIKELY", best * 1.01)
    message = f"drhn: no picture is likely to show dog; the likeliest has a probability of {best:.2f}\n"
    assert ask("--word", "dog").err == message
    assert ask("--word", "dog", "--quiet").err == ""
    monkeypatch.setattr(words_module, "LIKELY", best * 0.99)
    assert ask("--word", "dog").err == ""


def test_that_little_is_known_of_a_word_is_said_once(ask):
    result = ask(IMAGE, "photos/circle/0001.png", "--word", "flower")
    assert result.err.count("flower: the model knows daisy, yellow lady's slipper, of 468 kinds") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--word", "xylofone"), "unknown word: xylofone; nearest: xylophone"),
        (("--word", "dog", "--not-word", "xylofone"), "unknown word: xylofone; nearest: xylophone"),
        (("--word", "person"), "person cannot be looked for"),
        (("--word", "dog", "--max-distance", "3"), "words are not compared bit by bit"),
        (("--word", "dog", "--order", "asymmetric"), "words are not compared bit by bit"),
        (("--not-word", "dog"), "nothing to look up"),
    ],
)
def test_what_words_cannot_do(ask, arguments, message):
    result = ask(*arguments)
    assert (result.status, result.out, len(result.err.splitlines())) == (2, b"", 1)
    assert message in result.err


def test_a_table_is_not_asked_by_word(drhn, update, imagenet_path):
    pytest.importorskip("chdb")
    update(weights=str(imagenet_path))
    assert drhn("push", "codes.bin", "chdb:./table").status == 0
    for arguments in (("--word", "dog"), (IMAGE, "--word", "dog")):
        result = drhn("query", *arguments, "chdb:./table", "--weights", imagenet_path)
        assert (result.status, "a table is not searched by words" in result.err) == (2, True)


def test_classes_of_other_weights_are_words(query):
    assert len(query("--word", "class 2", "--top", 3).lines) == 3
    result = query("--word", "dog")
    assert (result.status, "`drhn hash --weights photos2`" in result.err) == (2, True)


def test_a_word_on_a_sheet(ask):
    result = ask("dog", "--sheet", "found.html", "--top", 2)
    page = Path("found.html").read_text()
    percent = [f"{float(line.split()[0]):.0%}" for line in result.lines]
    assert f'<span class="spoken">probability </span>{percent[0]}</span>' in page
    assert "a word, not a picture" in page
    assert " likely</p>" in page
    assert ask("dog", "--sheet", "found.png", "--top", 2).lines == result.lines


def test_a_word_on_a_terminal(update, terminal, imagenet_path):
    update(weights=str(imagenet_path))
    out, _ = terminal()
    codes = ("codes.bin", "--weights", str(imagenet_path), "--min-probability", "0")
    for arguments, headers in (
        (("--word", "dog"), ["probability", "path"]),
        ((IMAGE, "--word", "dog"), ["distance", "probability", "path"]),
        ((IMAGE, "--word", "dog", "--order", "asymmetric"), ["score", "distance", "probability", "path"]),
    ):
        assert run(["query", *arguments, *codes]) == 0
        first = out.drawn.splitlines()[-9]
        assert re.sub(r"\x1b\[[0-9;]*m", "", first).split() == headers


def test_words_are_listed_with_their_classes(drhn, imagenet_path):
    result = drhn("words", "sailb*", "--weights", imagenet_path)
    assert (result.status, result.lines, result.err) == (0, ["sailboat\tcatamaran, trimaran"], "")
    listed = json.loads(drhn("words", "sailboat", "--weights", imagenet_path, "--json").out)
    assert listed == {"word": "sailboat", "classes": ["catamaran", "trimaran"], "kinds": 5, "partial": False}
    assert drhn("words", "qqq", "--weights", imagenet_path).status == 1


def test_words_of_a_code_file_are_those_of_its_model(drhn, update, weights_path):
    update()
    result = drhn("words", "--codes", "codes.bin", "--weights", weights_path)
    assert result.lines == [f"class {number}\tclass {number}" for number in range(4)]
    assert "these are the names of the classes of tiny; codes of `drhn hash --weights photos2`" in result.err


def test_pictures_are_labelled(drhn, update, weights_path):
    update()
    codes = ("codes.bin", "--weights", weights_path)
    rows = [line.split("\t") for line in drhn("label", *codes, "--min-probability", 0).lines]
    assert [path for _, _, path in rows] == sorted(f"photos/{kind}/000{i}.png" for kind in KINDS for i in range(2))
    first = json.loads(drhn("label", *codes, "--min-probability", 0, "--json").lines[0])
    assert first == {"path": rows[0][2], "word": rows[0][1], "probability": float(rows[0][0])}
    four = drhn("label", *codes, "--min-probability", 0, "--top", 4, "--under", "photos/circle").lines
    assert [line.split("\t")[2] for line in four] == [f"photos/circle/000{i}.png" for i in range(2) for _ in range(4)]
    assert sum(float(line.split("\t")[0]) for line in four[:4]) == pytest.approx(1, abs=1e-3)
    result = drhn("label", *codes, "--min-probability", 1)
    assert (result.status, result.out, result.err) == (1, b"", "drhn: nothing found\n")
