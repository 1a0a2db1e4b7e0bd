"""How well words find pictures, and how fast.

    drhn hash PHOTOS/labelled -o codes.bin --weights photos2
    python -m tests.benchmarks.words sets codes.bin
    python -m tests.benchmarks.words speed codes.bin [--codes 1000000] [--seed 0]

PHOTOS/labelled holds SET/CLASS/ with pictures in each. `sets` looks for each class whose name is understood among the
pictures of its set: of the ten likeliest, how many are of that class (precision@10), or of one that is a kind of it by
WordNet (a lion is an animal). Then it says how often pictures show a word whose probability is so and so, and how often
a threshold says rightly, or wrongly, that no picture of a set is likely to show a word; wrongly: of the whole set,
rightly: of the set without the pictures of that class. And how often the label of a picture, the word of
`drhn label`, and its class are kinds of each other. The calibration was fitted to these sets and the threshold
chosen on them, so at last the calibration is fitted to all sets but one, in turn, and measured on that one.

`speed` draws codes from the file, flips 3 % of their bits, and measures processor seconds of a search for 20 pictures.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.pack import pack_bits, unpack_bits
from drhn_cli.codes.reader import CodeFile
from drhn_cli.network.model import Model, model_of
from drhn_cli.retrieval import words
from drhn_cli.retrieval.vocabulary import Noun, Vocabulary
from drhn_cli.retrieval.words import LIKELY, POSSIBLE, ClassLayer, WordQuery, search_words

K = 10
EDGES = (0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
SPEED_WORDS = ("lion", "car", "bag", "toy", "bird", "dog", "mammal", "animal")


@dataclass
class Asked:
    """A word that was looked for in a set."""

    set_name: str
    label: str
    noun: Noun
    probabilities: NDArray[np.float64]  # (n,), of the pictures of the set
    is_own: NDArray[np.bool_]  # (n,), they are of that class
    is_kind: NDArray[np.bool_]  # (n,), of that class or of one that is a kind of it

    def precision(self, relevant: NDArray[np.bool_]) -> float:
        return float(relevant[np.argsort(-self.probabilities, kind="stable")[:K]].mean())


def read(path: str) -> tuple[Model, NDArray[np.uint8], NDArray[np.str_]]:
    """Return the model, codes, and SET/CLASS of each picture."""
    with CodeFile.open(path) as file:
        folders = [os.path.dirname(os.path.join(file.root, os.fsdecode(entry.path))) for entry in file]
        names = np.array(["/".join(folder.split("/")[-2:]) for folder in folders])
        return model_of(file.manifest, path=path), file.codes.copy(), names


def ask(model: Model, codes: NDArray[np.uint8], names: NDArray[np.str_], n_bits: int) -> list[Asked]:
    vocabulary, layer = Vocabulary(model.class_names), ClassLayer(model, n_bits)
    labels = {name: name.split("/")[1].replace("-", " ") for name in np.unique(names).tolist()}
    nouns = {name: vocabulary.find(label) for name, label in labels.items() if vocabulary.knows(label)}
    asked = []
    for name, noun in nouns.items():
        set_name = name.split("/")[0]
        rows = np.char.startswith(names, f"{set_name}/")
        kinds = [other for other, kind in nouns.items() if set(kind.classes) <= set(noun.classes)]
        own, kind = names[rows] == name, np.isin(names[rows], kinds)
        asked.append(Asked(set_name, labels[name], noun, layer.probabilities(codes[rows], [noun])[:, 0], own, kind))
    return asked


def precision_table(asked: list[Asked], names: NDArray[np.str_]) -> Iterator[str]:
    yield "| set | classes | understood | precision@10 | or a kind of it | words with 0.5 or more |"
    yield "|---|---|---|---|---|---|"
    for set_name in [*sorted({each.set_name for each in asked}), "all"]:
        part = [each for each in asked if set_name in (each.set_name, "all")]
        own = np.array([each.precision(each.is_own) for each in part])
        kind = np.array([each.precision(each.is_kind) for each in part])
        n_classes = sum(set_name in (name.split("/")[0], "all") for name in np.unique(names).tolist())
        figures = f"{own.mean():.3f} | {kind.mean():.3f} | {(own >= 0.5).sum()}"
        yield f"| {set_name} | {n_classes} | {len(part)} | {figures} |"
    weak = sorted((each.precision(each.is_own), f"{each.set_name}/{each.label}") for each in asked)
    yield "weak: " + ", ".join(f"{name} {value:.1f}" for value, name in weak if value < 0.5)


def calibration_table(asked: list[Asked]) -> Iterator[str]:
    values = np.concatenate([each.probabilities for each in asked])
    own = np.concatenate([each.is_own for each in asked])
    yield "| probability | pairs of a picture and a word | mean probability | shown |"
    yield "|---|---|---|---|"
    for low, high in pairwise(EDGES):
        rows = (values >= low) & (values < high)
        yield f"| {low} to {high} | {rows.sum()} | {values[rows].mean():.3f} | {own[rows].mean():.3f} |"
    clipped = values.clip(1e-9, 1 - 1e-9)
    yield f"mean log loss {-np.where(own, np.log(clipped), np.log(1 - clipped)).mean():.4f}"
    at = [(each.probabilities >= POSSIBLE, each.is_own) for each in asked]
    shown, others = (np.mean([above[own == is_own].mean() for above, own in at]) for is_own in (True, False))
    yield f"from {POSSIBLE} on: {shown:.3f} of what shows a word, {others:.3f} of what does not (means over words)"


def threshold_table(asked: list[Asked]) -> Iterator[str]:
    yield "| none is likely where the best is below | though there are some | where there are none |"
    yield "|---|---|---|"
    present = np.array([each.probabilities.max() for each in asked])
    absent = np.array([each.probabilities[~each.is_own].max() for each in asked])
    for threshold in THRESHOLDS:
        mark = " (chosen)" if threshold == LIKELY else ""
        yield f"| {threshold}{mark} | {(present < threshold).mean():.2f} | {(absent < threshold).mean():.2f} |"


def label_table(
    model: Model, codes: NDArray[np.uint8], names: NDArray[np.str_], asked: list[Asked], n_bits: int
) -> Iterator[str]:
    """Yield how often the label of a picture, and its name in the sets, are kinds of each other."""
    meant = {f"{each.set_name}/{each.label}": set(each.noun.classes) for each in asked}
    rows = [row for row, name in enumerate(names.tolist()) if name.replace("-", " ") in meant]
    layer, nouns = ClassLayer(model, n_bits), Vocabulary(model.class_names).labels()
    values, right = [], []
    for row, chosen in zip(rows, layer.labels(codes[rows], nouns, top_k=1, min_probability=0.5), strict=True):
        for noun, value in chosen:
            classes, of_name = set(noun.classes), meant[names[row].replace("-", " ")]
            values.append(value)
            right.append(classes <= of_name or of_name <= classes)
    shown, correct = np.array(values), np.array(right)
    yield "| probability | of the pictures | mean probability | right |"
    yield "|---|---|---|---|"
    for low, high in ((0.5, 1.0), *pairwise((0.5, 0.6, 0.7, 0.8, 0.9, 1.0))):
        part = (shown >= low) & (shown <= high)
        figures = part.sum() / len(rows), shown[part].mean(), correct[part].mean()
        yield f"| {low} to {high} | {' | '.join(f'{figure:.2f}' for figure in figures)} |"


def fit_calibration(asked: list[Asked]) -> NDArray[np.float64]:
    """Return slope, offset and what is subtracted for each class, fitted anew to calibrated probabilities."""
    inputs, own = [], np.concatenate([each.is_own for each in asked])
    for each in asked:
        chance = np.full(len(each.is_own), np.log(len(each.noun.classes)))
        odds = np.log(each.probabilities / (1 - each.probabilities))
        log_sum = (odds - words._OFFSET + words._PER_CLASS * chance) / words._SLOPE
        inputs.append(np.stack([log_sum, np.ones(len(chance)), -chance], axis=1))
    rows, fitted = np.concatenate(inputs), np.zeros(3)
    for _ in range(50):
        shown = 1 / (1 + np.exp(-rows @ fitted))
        hessian = (rows * (shown * (1 - shown))[:, None]).T @ rows
        fitted -= np.linalg.solve(hessian, rows.T @ (shown - own))
    return fitted


def left_out(asked: list[Asked]) -> Iterator[str]:
    """Yield for each set how often its words are shown, and what a calibration by the other sets says."""
    yield "| set left out | slope, offset, for each class | log loss | with the own constants |"
    yield "|---|---|---|---|"
    for set_name in sorted({each.set_name for each in asked}):
        constants = fit_calibration([each for each in asked if each.set_name != set_name])
        losses = [[], []]
        for each in asked:
            if each.set_name == set_name:
                chance = np.log(len(each.noun.classes))
                odds = np.log(each.probabilities / (1 - each.probabilities))
                log_sum = (odds - words._OFFSET + words._PER_CLASS * chance) / words._SLOPE
                other = 1 / (1 + np.exp(-(constants[0] * log_sum + constants[1] - constants[2] * chance)))
                for loss, values in zip(losses, (other, each.probabilities), strict=True):
                    loss.append(-np.where(each.is_own, np.log(values), np.log(1 - values)))
        figures = " | ".join(f"{np.concatenate(loss).mean():.4f}" for loss in losses)
        yield f"| {set_name} | {', '.join(f'{value:.2f}' for value in constants)} | {figures} |"


def speed(model: Model, codes: NDArray[np.uint8], n: int, seed: int) -> Iterator[str]:
    rng = np.random.default_rng(seed)
    n_bits = codes.shape[1] * 8
    blocks = [
        pack_bits(unpack_bits(codes[rng.integers(0, len(codes), m)], n_bits) ^ (rng.random((m, n_bits)) < 0.03))
        for m in np.diff(np.append(np.arange(0, n, 10_000), n)).tolist()
    ]
    many = np.concatenate(blocks)
    vocabulary, layer = Vocabulary(model.class_names), ClassLayer(model, n_bits)
    yield "| word | classes | seconds |"
    yield "|---|---|---|"
    for word in SPEED_WORDS:
        noun = vocabulary.find(word)
        seconds = []
        for _ in range(3):
            start = time.process_time()
            search_words(layer, many, WordQuery(wanted=(noun,)), top_k=20, min_probability=0)
            seconds.append(time.process_time() - start)
        yield f"| {word} | {len(noun.classes)} | {min(seconds):.2f} |"
    start = time.process_time()
    layer.probabilities(many, [noun])
    yield f"| all probabilities | {len(model.class_names)} | {time.process_time() - start:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("sets")
    command.add_argument("file", help="a code file of PHOTOS/labelled")
    command = commands.add_parser("speed")
    command.add_argument("file")
    command.add_argument("--codes", type=int, default=1_000_000)
    command.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model, codes, names = read(options.file)
    if options.command == "speed":
        for line in speed(model, codes, options.codes, options.seed):
            print(line, flush=True)
        return
    for n_bits in model.config.code_lengths:
        if n_bits > codes.shape[1] * 8:
            break
        asked = ask(model, codes[:, : n_bits // 8], names, n_bits)
        print(f"\n{n_bits} bits\n")
        tables = (precision_table(asked, names), calibration_table(asked), threshold_table(asked))
        for table in (*tables, label_table(model, codes[:, : n_bits // 8], names, asked, n_bits)):
            print(*table, "", sep="\n", flush=True)
    print("", *left_out(asked), sep="\n")


if __name__ == "__main__":
    main()
