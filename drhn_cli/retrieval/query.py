"""Look up pictures and codes in a gallery."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.entries import Entry
from drhn_cli.codes.pack import parse_hex
from drhn_cli.errors import AnyPath, ConfigError, DrhnError, ImageError, printable
from drhn_cli.network.devices import check_device
from drhn_cli.paths import absolute_path
from drhn_cli.retrieval.gallery import Gallery, Match

if TYPE_CHECKING:
    from drhn_cli.network.encoder import Encoder
    from drhn_cli.network.model import Model
    from drhn_cli.retrieval.vocabulary import Vocabulary
    from drhn_cli.retrieval.words import ClassLayer, WordQuery

_WORD = re.compile(r"[^\W\d_][\w '-]*")  # neither a path nor a name with a suffix


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is looked up: a picture, a code, or words (those of ``QueryOptions`` alone where it is none of the two).

    Attributes:
        name: what the answer calls it.
        image: a path, or a stream with a picture. A ``str`` that names no file is a word where the model knows it.
        code: hexadecimal digits of a code.
    """

    name: bytes
    image: AnyPath | BinaryIO | None = None
    code: str | None = None

    @property
    def path(self) -> bytes | None:
        """The absolute path of the picture; None for a stream and for a code."""
        return absolute_path(self.image) if isinstance(self.image, (str, bytes, os.PathLike)) else None


@dataclass(frozen=True, kw_only=True)
class QueryOptions:
    """How queries are answered.

    Attributes:
        top_k: matches for each query. None: all within ``max_distance``.
        max_distance: only matches at this distance or nearer. None: any distance.
        asymmetric: order by the query's activations against the stored bits, instead of by Hamming distance.
        words: what the pictures show, all of these nouns; beside a picture or a code only such pictures are searched.
        not_words: what they do not show.
        min_probability: only pictures with at least this probability of showing the words. None: beside a picture or a
            code ``words.POSSIBLE``, else any.
        not_self: leave a picture that is looked up by its path out of its own matches. A copy elsewhere stays.
        weights: a bundled model's name or a weights file. None: the bundled model that made the codes.
        device: where the network runs: auto, cuda, mps or cpu.
    """

    top_k: int | None = 10
    max_distance: int | None = None
    asymmetric: bool = False
    words: tuple[str, ...] = ()
    not_words: tuple[str, ...] = ()
    min_probability: float | None = None
    not_self: bool = False
    weights: str | None = None
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer to one query.

    Attributes:
        query: the query's name.
        matches: nearest or likeliest first; ties in the order of paths.
        error: why there is no answer, or None.
        by_word: words alone were looked for.
        notes: lines that a reader should see, as that no picture is likely to show the words.
    """

    query: bytes
    matches: list[Match]
    error: DrhnError | None = None
    by_word: bool = False
    notes: tuple[str, ...] = ()


def answer_queries(gallery: Gallery, queries: Iterable[Query], options: QueryOptions) -> Generator[Answer, None, None]:
    """Answer queries lazily; the iterable may be infinite.

    A picture that the gallery holds, unchanged, is not decoded; the network is loaded when first needed. A picture that
    cannot be read gives an answer with an error.

    Raises:
        ConfigError: an unknown device or word, or what a table cannot do.
        DrhnError: a code of another length, or any code in asymmetric order.
        CodeFileError: the codes were made with another model than the weights.
        TableError: the table does not answer.
        WeightsError: the weights cannot be read.
    """
    check_device(options.device)
    lookup = _Lookup(gallery, options)
    for query in queries:
        try:
            answer = lookup.answer(query)
        except ImageError as error:
            answer = Answer(query=query.name, matches=[], error=error)
        yield answer


class _Lookup:
    """Looks up one query after another, and loads only what they need."""

    def __init__(self, gallery: Gallery, options: QueryOptions) -> None:
        self._gallery = gallery
        self._options = options
        if options.weights:
            _ = self._model  # weights of another model are an error even where no picture is decoded

    def answer(self, query: Query) -> Answer:
        if query.image is None and query.code is None:
            return self._by_word(query, self._words)
        if self._names_word(query):
            note = f"{printable(query.name)}: no such file, so it is taken for a word"
            return self._by_word(query, self._look_up(str(query.image), *self._options.words), note)
        return Answer(
            query=query.name, matches=self._nearest(query), notes=self._words.notes if self._has_words else ()
        )

    def _by_word(self, query: Query, words: WordQuery, *notes: str) -> Answer:
        """Answer a query of words alone."""
        options = self._options
        if not words.wanted:
            raise ConfigError("nothing to look for", expected="a word or a picture", found="words to leave out alone")
        if options.max_distance is not None or options.asymmetric:
            problem = "words are not compared bit by bit"
            raise ConfigError(problem, hint="leave out --max-distance and --order; --min-probability cuts")
        least = options.min_probability or 0.0
        matches = self._gallery.search_words(self._layer, words, top_k=options.top_k, min_probability=least)
        notes = (*notes, *words.notes)
        if matches and (best := matches[0].probability or 0.0) < words.likely:
            notes = (*notes, f"no picture is likely to show {words}; the likeliest has a probability of {best:.2f}")
        return Answer(query=query.name, matches=matches, by_word=True, notes=notes)

    def _nearest(self, query: Query) -> list[Match]:
        """Return the matches of a picture or a code."""
        top_k, max_distance = self._options.top_k, self._options.max_distance
        gallery = self._searched
        own_path = query.path if self._options.not_self else None
        limit = top_k and top_k + self._options.not_self
        if self._options.asymmetric:
            (probabilities,) = self._probabilities(query)
            found = gallery.search_asymmetric(probabilities, top_k=limit, max_distance=max_distance)
        else:
            found = gallery.search(self._code(query), top_k=limit, max_distance=max_distance)
        return [match for match in found if match.path != own_path][:top_k]

    def _code(self, query: Query) -> NDArray[np.uint8]:
        """Return the code of a query, (1, code_size) uint8."""
        n_bits = self._gallery.manifest.n_bits
        if query.code is not None:
            return parse_hex(query.code, n_bits)[np.newaxis]
        if (path := query.path) is not None:
            stored = self._gallery.find(path)
            if stored is not None and _is_current(path, stored[0]):
                return stored[1][np.newaxis]
        return self._encoder.codes(self._pixels(query), n_bits)

    def _probabilities(self, query: Query) -> NDArray[np.float64]:
        """Return the probability of a 1 in each bit of a query, (1, n_bits)."""
        if query.image is None:
            hint = "name the picture instead, or leave --order out"
            problem = "a code has no activations to rank by"
            raise DrhnError(problem, expected="a picture", found=query.code, hint=hint)
        return self._encoder.bit_probabilities(self._pixels(query), self._gallery.manifest.n_bits)

    def _pixels(self, query: Query) -> NDArray[np.uint8]:
        """Return the input of the network, (1, views * s, s, 3)."""
        from drhn_cli.images.load import load_image  # Pillow, which neither a code nor a stored picture needs

        assert query.image is not None  # noqa: S101 - a query is a picture or a code
        return load_image(query.image, self._model.preprocessing)[np.newaxis]

    def _names_word(self, query: Query) -> bool:
        """Return whether a query names no file, but a word that is known."""
        name = query.image
        if not isinstance(name, str) or not _WORD.fullmatch(name) or os.path.lexists(name):
            return False
        if query.path is not None and self._gallery.find(query.path) is not None:
            return False  # a picture that is gone can still be looked up
        try:
            return self._vocabulary.knows(name)
        except DrhnError:  # the codes have no model at hand, so it is a file that is missing
            return False

    @property
    def _has_words(self) -> bool:
        return bool(self._options.words or self._options.not_words)

    @cached_property
    def _searched(self) -> Gallery:
        """The gallery, without the pictures that do not show the words."""
        if not self._has_words:
            return self._gallery
        from drhn_cli.retrieval.words import POSSIBLE

        least = POSSIBLE if self._options.min_probability is None else self._options.min_probability
        return self._gallery.showing(self._layer, self._words, least)

    @cached_property
    def _words(self) -> WordQuery:
        return self._look_up(*self._options.words)

    def _look_up(self, *words: str) -> WordQuery:
        from drhn_cli.retrieval.words import word_query

        return word_query(self._vocabulary, words, self._options.not_words)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        from drhn_cli.retrieval.vocabulary import Vocabulary

        return Vocabulary(self._model.class_names)

    @cached_property
    def _layer(self) -> ClassLayer:
        from drhn_cli.retrieval.words import ClassLayer

        return ClassLayer(self._model, self._gallery.manifest.n_bits)

    @cached_property
    def _model(self) -> Model:
        from drhn_cli.network.model import model_of  # which neither a code nor a stored picture needs

        return model_of(self._gallery.manifest, self._options.weights, path=self._gallery.path)

    @cached_property
    def _encoder(self) -> Encoder:
        from drhn_cli.network.encoder import Encoder

        return Encoder(self._model, device=self._options.device, n_images=1, n_threads=1)


def _is_current(path: bytes, entry: Entry) -> bool:
    """Return whether the stored code is still up to date."""
    from drhn_cli.images.source import digest_of, locate

    try:
        file = locate(path)
        if file.stamp.is_same(entry.stamp):
            return True
        return file.stamp.may_be_same(entry.stamp) and entry.digest == digest_of(file.read())
    except ImageError:
        return not os.path.exists(path)  # the stored code of a picture that is gone can still be used
