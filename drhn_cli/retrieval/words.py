"""Find pictures by words: how likely stored codes show something, told by the class layer of their model.

No picture is opened, and no network computes: the class layer reads the stored bits. The softmax over all classes is
the slow part, so in a large gallery it is computed for the codes alone that have the highest scores of the classes
that a word means.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.pack import unpack_bits
from drhn_cli.network.model import Model
from drhn_cli.network.numpy_backend import use_one_thread
from drhn_cli.retrieval.vocabulary import Noun, Vocabulary, are_imagenet

LIKELY = 0.4
"""Where the best picture is less likely, none shows what is looked for: `tests.benchmarks.words` measures how often."""

POSSIBLE = 0.1
"""Pictures that may show something: the default beside a picture, and what words that are not wanted leave out."""

SHORTLIST = 10_000
"""So many codes at least are compared by probabilities, if there are more."""

_SHORTLIST_PER_MATCH = 100
_CHUNK_ROWS = 512  # whose bits, as floats, fit the L2 cache
_FEW_CLASSES = 20
_TEMPERATURE = 0.5
_LABEL_TEMPERATURE = 0.75
_SLOPE, _OFFSET, _PER_CLASS = 0.37, 0.34, 0.44

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class WordQuery:
    """Nouns that a picture shall show, all of them, and nouns that it shall not show.

    Attributes:
        notes: what to know of nouns of which the classes cover little.
    """

    wanted: tuple[Noun, ...] = ()
    unwanted: tuple[Noun, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " and ".join(noun.name for noun in self.wanted)

    @property
    def likely(self) -> float:
        """The probability from which on a picture is likely to show all that is wanted."""
        return LIKELY ** len(self.wanted)


def word_query(vocabulary: Vocabulary, words: Sequence[str], not_words: Sequence[str]) -> WordQuery:
    """Look up words that are wanted and such that are not.

    Raises:
        ConfigError: a word is not understood; see ``Vocabulary.find``.
    """
    wanted, unwanted = (tuple(map(vocabulary.find, some)) for some in (words, not_words))
    partial = [noun for noun in (*wanted, *unwanted) if noun.is_partial]
    notes = tuple(
        f"{noun.name}: the model knows {vocabulary.class_list(noun)}, of {noun.n_kinds:,} kinds" for noun in partial
    )
    return WordQuery(wanted=wanted, unwanted=unwanted, notes=notes)


class ClassLayer:
    """The class layer of a model, which reads stored codes.

    ImageNet's logits are recalled from the bits, too small, and are calibrated here; those of other classes are taken
    as they were learnt. Of a code that is shorter than the model's longest, the missing bits are taken for undecided.

    OpenBLAS is single-threaded in this process afterwards: its threads wait for each other where products are small.

    Args:
        model: which made the codes.
        n_bits: length of the codes.
    """

    def __init__(self, model: Model, n_bits: int) -> None:
        use_one_thread()
        weight, bias = (model.arrays[f"classify.{part}"].astype(np.float32) for part in ("weight", "bias"))
        known, missing = weight[:, :n_bits], weight[:, n_bits:]
        if model.config.classify_bits:  # it reads a bit as -1 or 1
            weight, bias = 2 * known, bias - known.sum(axis=1)
        else:
            weight, bias = known, bias + missing.sum(axis=1) / 2
        self._n_bits, self._weight, self._bias = n_bits, weight, bias
        self._is_recalled = model.config.classify_bits and are_imagenet(model.class_names)
        if self._is_recalled:
            self._weight, self._bias = weight / _TEMPERATURE, bias / _TEMPERATURE

    def probabilities(self, codes: NDArray[np.uint8], nouns: Sequence[Noun]) -> NDArray[np.float64]:
        """Return how likely each picture shows each noun: (n, code_size) uint8 -> (n, len(nouns)).

        It is the sum of the softmax over the noun's classes, calibrated (Platt 1999) if they are ImageNet's: the more
        classes a noun has, the more of them are likely by chance.
        """
        numbers = [list(noun.classes) for noun in nouns]
        parts = [
            np.stack([shares[some].sum(axis=0) for some in numbers], axis=1) for shares in self._shares(codes)
        ] or [np.empty((0, len(nouns)), np.float32)]
        return self._calibrate(np.concatenate(parts), nouns)

    def labels(
        self, codes: NDArray[np.uint8], nouns: Sequence[Noun], *, top_k: int, min_probability: float
    ) -> Iterator[list[tuple[Noun, float]]]:
        """Yield what each picture shows: at most ``top_k`` of the nouns and their probabilities, most special first.

        A noun whose classes include those of one before it is left out, so a dog is not called an animal as well. The
        probability is the sum of the softmax over the noun's classes, and not that of ``probabilities``: the best of
        many nouns is likelier to be wrong than one that somebody asks for.
        """
        members = np.zeros((len(nouns), len(self._bias)), np.float32)
        for row, noun in enumerate(nouns):
            members[row, list(noun.classes)] = 1
        sizes = members.sum(axis=1)
        for shares in self._shares(codes, _TEMPERATURE / _LABEL_TEMPERATURE if self._is_recalled else 1.0):
            for values in (members @ shares).T:
                likely = np.flatnonzero(values >= min_probability)
                chosen: list[int] = []
                for row in likely[np.lexsort((-values[likely], sizes[likely]))].tolist():
                    if not any((members[row] >= members[other]).all() for other in chosen):
                        chosen.append(row)
                yield [(nouns[row], float(values[row])) for row in chosen[:top_k]]

    def _shares(self, codes: NDArray[np.uint8], sharpness: float = 1.0) -> Iterator[Floats]:
        """Yield the softmax of some rows at a time, (classes, m), with logits multiplied by ``sharpness``."""
        for _, logits in self._logits(codes, self._weight, self._bias):
            logits *= sharpness
            logits -= logits.max(axis=0)
            shares = np.exp(logits, out=logits)
            shares /= shares.sum(axis=0)
            yield shares

    def _calibrate(self, sums: Floats, nouns: Sequence[Noun]) -> NDArray[np.float64]:
        """Return probabilities of sums of shares: (n, len(nouns)) -> the same shape."""
        if not self._is_recalled:
            return sums.astype(np.float64)
        clipped = sums.astype(np.float64).clip(1e-12, 1 - 1e-7)
        chance = _PER_CLASS * np.log([len(noun.classes) for noun in nouns])
        values: NDArray[np.float64] = _SLOPE * np.log(clipped / (1 - clipped)) + _OFFSET - chance
        return 1 / (1 + np.exp(-values))

    def scores(self, codes: NDArray[np.uint8], noun: Noun) -> Floats:
        """Return the logarithm of the sum of the exponentials of the noun's logits: (n, code_size) -> (n,).

        But for what all classes have in common it is the logarithm of the probability.
        """
        numbers = list(noun.classes)
        weight, bias = self._weight[numbers], self._bias[numbers]
        scores = np.empty(len(codes), np.float32)
        for rows, logits in self._logits(codes, weight, bias):
            highest = logits.max(axis=0)
            scores[rows] = np.log(np.exp(logits - highest).sum(axis=0)) + highest
        return scores

    def _logits(self, codes: NDArray[np.uint8], weight: Floats, bias: Floats) -> Iterator[tuple[slice, Floats]]:
        """Yield logits of some rows at a time, (classes, m)."""
        for start in range(0, len(codes), _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            bits = unpack_bits(codes[rows], self._n_bits).astype(np.float32)
            # The sums over classes want this order of axes; of few classes the product is faster in the other one.
            product = weight @ bits.T if len(weight) > _FEW_CLASSES else np.ascontiguousarray((bits @ weight.T).T)
            product += bias[:, np.newaxis]
            yield rows, product


def probabilities(layer: ClassLayer, codes: NDArray[np.uint8], query: WordQuery) -> NDArray[np.float64]:
    """Return how likely each picture shows all that is wanted, 0 where it may show what is unwanted: (n,).

    Words count as independent of each other, so their probabilities are multiplied.
    """
    values = layer.probabilities(codes, [*query.wanted, *query.unwanted])
    wanted, unwanted = values[:, : len(query.wanted)], values[:, len(query.wanted) :]
    product: NDArray[np.float64] = wanted.prod(axis=1)
    product[(unwanted >= POSSIBLE).any(axis=1)] = 0
    return product


def search_words(
    layer: ClassLayer,
    codes: NDArray[np.uint8],
    query: WordQuery,
    *,
    top_k: int | None,
    min_probability: float,
    rows: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the pictures that are most likely to show what is wanted, one noun or more; ties in the order of rows.

    Args:
        layer: of the model that made the codes.
        codes: (n, code_size) uint8.
        query: what is wanted.
        top_k: at most so many. None: all. For up to 1 % of a large gallery the answer is a close estimate, as only
            the codes with the highest scores of its classes are looked at.
        min_probability: only pictures with at least this probability. Of 0 none are found.
        rows: (n,) bool, the pictures that are searched. None: all.

    Returns:
        indices and probabilities, (m,) each, the likeliest first.
    """
    candidates = np.arange(len(codes)) if rows is None else np.flatnonzero(rows)
    n_listed = len(codes) if top_k is None else max(SHORTLIST, _SHORTLIST_PER_MATCH * top_k)
    if len(candidates) > n_listed:
        candidates = _shortlist(layer, codes, query, candidates, n_listed)
    found = probabilities(layer, codes[candidates], query)
    order = np.argsort(-found, kind="stable")
    order = order[(found[order] >= min_probability) & (found[order] > 0)][:top_k]
    return candidates[order], found[order]


def _shortlist(
    layer: ClassLayer, codes: NDArray[np.uint8], query: WordQuery, candidates: NDArray[np.int64], n_listed: int
) -> NDArray[np.int64]:
    """Return the candidates with the highest scores, rising."""
    part = codes if len(candidates) == len(codes) else codes[candidates]
    scores = np.sum([layer.scores(part, noun) for noun in query.wanted], axis=0)
    for noun in query.unwanted:
        scores -= np.maximum(0, layer.scores(part, noun) - scores)
    return np.sort(candidates[np.argpartition(-scores, n_listed)[:n_listed]])
