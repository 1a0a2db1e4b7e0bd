"""Which words a model understands, and which of its classes each of them means.

Of a model that knows the 1,000 classes of ImageNet these are English nouns: a noun means the classes that are it or a
kind of it in WordNet (dog: 118 breeds), in all its senses together (crane: the bird and the machine). Of any other
model they are the names of its classes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from functools import cache, cached_property
from importlib import resources
from typing import NamedTuple

from drhn_cli.errors import ConfigError, printable

MOST_CLASSES = 500
"""A noun of more than half of the classes (object, artifact) says nothing of a picture, and is not understood."""

LEAST_SHARE, SMALL_SHARE = 1 / 1000, 1 / 50
"""A noun of whose kinds the classes cover less (person: 3 of 10,297) is not understood, or only with a warning."""

N_IMAGENET_CLASSES = 1000

FOR_NOUNS = "codes of `drhn hash --weights photos2` can be searched by 3,300 nouns"
_N_NEAREST, _MOST_LISTED = 5, 10
_MOST_LABELLED = 130  # classes: as many as there are breeds of dogs, and fewer than kinds of animals
_PLURALS = (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("men", "man"), ("es", ""), ("s", ""), ("", "s"))
# British and American spellings. Both sides of a comparison are respelled, so a rule need not be right everywhere.
_RESPELLED = (
    *(("our", "or"), ("grey", "gray"), ("tre", "ter"), ("ise", "ize"), ("yse", "yze"), ("ogue", "og")),
    *(("aero", "air"), ("ae", "e"), ("oe", "e"), ("pyj", "paj"), ("plough", "plow"), ("ll", "l"), ("waggon", "wagon")),
)


@dataclass(frozen=True, kw_only=True)
class Noun:
    """A word of a vocabulary.

    Attributes:
        name: as the vocabulary spells it.
        classes: numbers of the classes that it means, rising.
        n_kinds: how many kinds of it there are in WordNet, itself included; 0 for the name of a class alone.
    """

    name: str
    classes: tuple[int, ...]
    n_kinds: int = 0

    @property
    def is_understood(self) -> bool:
        """Whether it says something of a picture that classes can tell."""
        return len(self.classes) <= MOST_CLASSES and len(self.classes) >= LEAST_SHARE * self.n_kinds

    @property
    def is_partial(self) -> bool:
        """Whether the classes are so few of its kinds that many pictures of it are likely to be missed."""
        return len(self.classes) < SMALL_SHARE * self.n_kinds


class Vocabulary:
    """The words that a model understands.

    Args:
        class_names: of the model, in the order of its scores.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        self._wordnet = read_wordnet() if are_imagenet(self.class_names) else None
        self._nouns = list(self._wordnet.nouns() if self._wordnet else _class_nouns(self.class_names))
        self._by_key: dict[str, list[Noun]] = defaultdict(list)
        for noun in self._nouns:
            self._by_key[_key(noun.name)].append(noun)

    @property
    def has_nouns(self) -> bool:
        """Whether the words are English nouns, and not only the names of the classes."""
        return self._wordnet is not None

    def nouns(self, pattern: str = "") -> list[Noun]:
        """Return the words that contain a text, or match it if it has ``*`` or ``?``; by name, in either case."""
        wanted = pattern.lower()
        glob = wanted if set(wanted) & set("*?") else f"*{wanted.replace('[', '[[]')}*"
        return [noun for noun in self._nouns if noun.is_understood and fnmatch(noun.name.lower(), glob)]

    def labels(self) -> list[Noun]:
        """Return what pictures can be called: a word for each set of classes that has one and is not too general."""
        named = self._wordnet.labels() if self._wordnet else self._nouns
        special = [noun for noun in named if len(noun.classes) <= _MOST_LABELLED and not noun.is_partial]
        return list({noun.classes: noun for noun in special}.values())

    def find(self, word: str) -> Noun:
        """Return what a word means; it may be in the plural, and in British or American spelling.

        Raises:
            ConfigError: it is not understood; names the words that are nearest.
        """
        found = self._lookup(word)
        if found is None:
            raise ConfigError(f"unknown word: {printable(word)}", hint=self._nearest(word))
        if not found.is_understood:
            few = len(found.classes) < LEAST_SHARE * found.n_kinds
            expected = f"one of its kinds: {self.class_list(found)}" if few else "a word for fewer kinds of things"
            raise ConfigError(f"{printable(word)} cannot be looked for", expected=expected)
        return found

    def class_list(self, noun: Noun) -> str:
        """Return the classes of a noun as a list in words, at most ten of them."""
        names = [self.class_names[number].split(",")[0] for number in noun.classes[:_MOST_LISTED]]
        n_more = len(noun.classes) - len(names)
        return ", ".join(names) + (f" and {n_more} more" if n_more else "")

    def knows(self, word: str) -> bool:
        """Return whether a word is understood."""
        found = self._lookup(word)
        return found is not None and found.is_understood

    def _lookup(self, word: str) -> Noun | None:
        for key in self._forms(word):
            if found := self._by_key.get(key):
                classes = sorted({number for noun in found for number in noun.classes})
                return Noun(name=found[0].name, classes=tuple(classes), n_kinds=max(noun.n_kinds for noun in found))
        return None

    def _forms(self, word: str) -> Iterator[str]:
        """Yield the keys of a word and of what it may be the plural of."""
        yield _key(word)
        plain = " ".join(re.split(r"[\s_-]+", word.lower()))
        if self._wordnet and plain in self._wordnet.singulars:
            yield _key(self._wordnet.singulars[plain])
        for ending, instead in _PLURALS:
            if plain.endswith(ending):
                yield _key(plain.removesuffix(ending) + instead)

    def _nearest(self, word: str) -> str:
        """Return the words that come nearest, as a hint: a more general one, or such that are spelled alike."""
        if self._wordnet:
            general = next(filter(None, map(self._wordnet.special.get, self._forms(word))), None)
            if general is not None:
                return f"nearest: {', '.join(general)}, which {'is' if len(general) == 1 else 'are'} more general"
        names = {noun.name.lower(): noun.name for noun in self.nouns()}
        alike = [names[name] for name in get_close_matches(word.lower(), names, _N_NEAREST, 0.7)]
        hint = f"nearest: {', '.join(alike)}" if alike else "see `drhn words`"
        return hint if self.has_nouns else f"{hint}; {FOR_NOUNS}"


class _Synset(NamedTuple):
    words: tuple[str, ...]
    parents: tuple[int, ...]
    n_kinds: int
    more_words: tuple[str, ...]


class WordNet:
    """What ``nouns.tsv`` holds, which ``tests/nouns.py`` makes and describes.

    Attributes:
        class_names: the classes of ImageNet, as weights files name them.
        singulars: of irregular plurals.
        special: the key of a noun that means no class -> the names of the nearest more general one that does.
    """

    def __init__(self, text: str) -> None:
        synsets, plurals, special = text.split("\n\n")
        self._synsets = [_parse_synset(line) for line in synsets.splitlines()[1:]]
        self.class_names = tuple(", ".join(synset.words) for synset in self._synsets[:N_IMAGENET_CLASSES])
        self.singulars = dict(line.split("\t") for line in plurals.splitlines())
        self.special: dict[str, tuple[str, ...]] = {}
        for line in special.splitlines():
            place, words = line.split("\t")
            self.special |= dict.fromkeys(map(_key, words.split("|")), self._synsets[int(place)].words)

    def nouns(self) -> list[Noun]:
        """Return all nouns, sorted, each with what all its senses mean together."""
        senses: dict[str, list[int]] = defaultdict(list)  # noun -> synsets
        for place, synset in enumerate(self._synsets):
            for word in dict.fromkeys((*synset.words, *synset.more_words)):
                senses[word].append(place)
        return [self._noun(word, senses[word]) for word in sorted(senses, key=lambda word: (word.lower(), word))]

    def labels(self) -> list[Noun]:
        """Return the first noun of each synset in this one sense, the more general ones first."""
        places = sorted(range(len(self._synsets)), key=lambda place: -self._synsets[place].n_kinds)
        return [self._noun(self._synsets[place].words[0], [place]) for place in places]

    def _noun(self, word: str, senses: Sequence[int]) -> Noun:
        classes = sorted(set().union(*(self._classes[place] for place in senses)))
        n_kinds = sum(self._synsets[place].n_kinds for place in senses)
        return Noun(name=word, classes=tuple(classes), n_kinds=n_kinds)

    @cached_property
    def _classes(self) -> list[set[int]]:
        """The classes that are each synset or a kind of it."""
        classes: list[set[int]] = [set() for _ in self._synsets]
        for number in range(N_IMAGENET_CLASSES):
            for place in self._above(number):
                classes[place].add(number)
        return classes

    def _above(self, place: int) -> Iterable[int]:
        """Return a synset and all that are more general."""
        found, waiting = {place}, [place]
        while waiting:
            new = set(self._synsets[waiting.pop()].parents) - found
            found |= new
            waiting += new
        return found


def are_imagenet(class_names: Sequence[str]) -> bool:
    """Return whether these are the 1,000 classes of ImageNet, which English nouns are known for."""
    return len(class_names) == N_IMAGENET_CLASSES and tuple(class_names) == read_wordnet().class_names


@cache
def read_wordnet() -> WordNet:
    """Read the table of nouns, once."""
    return WordNet(resources.files(__package__).joinpath("nouns.tsv").read_text(encoding="utf-8"))


def _parse_synset(line: str) -> _Synset:
    words, parents, n_kinds, *more = line.split("\t")
    return _Synset(tuple(words.split("|")), tuple(map(int, parents.split())), int(n_kinds), tuple(more))


def _class_nouns(class_names: Sequence[str]) -> list[Noun]:
    """Return a noun for each name of a class; classes of one name are meant together."""
    numbers: Mapping[str, list[int]] = defaultdict(list)
    for number, names in enumerate(class_names):
        for name in dict.fromkeys(names.split(",")):
            numbers[" ".join(re.split(r"[\s_-]+", name.strip()))].append(number)
    return [Noun(name=name, classes=tuple(found)) for name, found in sorted(numbers.items())]


@cache
def _key(word: str) -> str:
    """Return what words have in common that differ in case, hyphens, or between Britain and America."""
    letters = "".join(filter(str.isalnum, word.lower()))
    for one, other in _RESPELLED:
        letters = letters.replace(one, other)
    return letters
