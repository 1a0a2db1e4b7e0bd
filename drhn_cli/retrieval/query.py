"""Answer queries from a code file or a table."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.entries import Entry
from drhn_cli.codes.pack import parse_hex
from drhn_cli.errors import AnyPath, DrhnError, ImageError
from drhn_cli.network.devices import check_device
from drhn_cli.paths import absolute_path
from drhn_cli.retrieval.gallery import Found, gallery_of

if TYPE_CHECKING:
    from drhn_cli.network.encoder import Encoder
    from drhn_cli.network.model import Model
    from drhn_cli.retrieval.gallery import Codes


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is looked for: one of a picture or a code.

    Attributes:
        name: what the answer calls it.
        image: a path, or a stream with a picture.
        code: hexadecimal digits of a code.
    """

    name: bytes
    image: AnyPath | BinaryIO | None = None
    code: str | None = None


@dataclass(frozen=True, kw_only=True)
class QueryOptions:
    """What is asked of the codes.

    Attributes:
        top_k: at most so many matches for each query. None: all within ``max_distance``.
        max_distance: matches at most so many bits away. None: any distance.
        asymmetric: nearest by the query's activations against the stored bits, instead of by Hamming distance.
        under: only pictures in these folders.
        exclude: globs of pictures and folders that are left out.
        not_self: leave a picture that is looked up by its path out of its own matches. A copy elsewhere stays.
        weights: a bundled model's name or a weights file. None: the bundled model that made the codes.
        device: auto, cuda, mps or cpu. By Hamming distance, cuda searches a code file there, too, if it fits.
    """

    top_k: int | None = 10
    max_distance: int | None = None
    asymmetric: bool = False
    under: Sequence[AnyPath] = ()
    exclude: Sequence[str] = ()
    not_self: bool = False
    weights: str | None = None
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Match:
    """A picture that was found.

    Attributes:
        rank: from 1.
        distance: bits that differ.
        path: absolute.
        score: the distance expected of the query's activations, in bits; None where the distance gives the order.
    """

    rank: int
    distance: int
    path: bytes
    score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer to one query.

    Attributes:
        query: the query's name.
        matches: nearest first; equal distances in the order of paths.
        error: why there is no answer, or None.
    """

    query: bytes
    matches: list[Match]
    error: DrhnError | None = None


def answer_queries(codes: Codes, queries: Iterable[Query], options: QueryOptions) -> Generator[Answer, None, None]:
    """Answer each query as it comes.

    A picture that the codes hold, unchanged, is not decoded; the network is loaded when first needed.

    Args:
        codes: an open code file or table.
        queries: may be endless.
        options: what is asked.

    Yields:
        An answer for each query, in order. A picture that cannot be read gives an answer with an error.

    Raises:
        ConfigError: an unknown device, or what a table cannot do.
        DrhnError: a code of another length or, by asymmetric rank, any; a folder outside of the codes.
        CodeFileError: the codes were made with another model than the weights.
        TableError: the table does not answer.
        WeightsError: the weights cannot be read.
    """
    check_device(options.device)
    searcher = _Searcher(codes, options)
    for query in queries:
        own_path = _absolute(query.image) if options.not_self else None
        top_k = options.top_k if options.top_k is None or own_path is None else options.top_k + 1
        try:
            found = searcher.search(query, top_k)
        except ImageError as error:
            yield Answer(query=query.name, matches=[], error=error)
            continue
        if own_path is not None:
            found = [each for each in found if each.path != own_path][: options.top_k]
        matches = [
            Match(rank=rank, distance=each.distance, path=each.path, score=each.score)
            for rank, each in enumerate(found, start=1)
        ]
        yield Answer(query=query.name, matches=matches)


class _Searcher:
    """Searches for each query, loading as little as it takes."""

    def __init__(self, codes: Codes, options: QueryOptions) -> None:
        self._codes = codes
        self._options = options
        self._gallery = gallery_of(codes, options.under, exclude=options.exclude, device=options.device)
        self._encoder: Encoder | None = None
        # Weights that do not belong to these codes are an error even where no picture has to be decoded.
        self._weights = self._load_model() if options.weights else None

    def search(self, query: Query, top_k: int | None) -> list[Found]:
        """Return what is nearest to a query."""
        max_distance = self._options.max_distance
        if not self._options.asymmetric:
            return self._gallery.search(self._code_of(query), top_k=top_k, max_distance=max_distance)
        if query.image is None:
            raise DrhnError(
                "a code has no activations to rank by",
                expected="a picture",
                found=query.code,
                hint="name the picture instead, or leave --rank out",
            )
        encoder, pixels = self._prepare(query.image)
        (probabilities,) = encoder.bit_probabilities(pixels, self._codes.n_bits)
        return self._gallery.search_asymmetric(probabilities, top_k=top_k, max_distance=max_distance)

    def _code_of(self, query: Query) -> NDArray[np.uint8]:
        """Return (1, code_size) uint8."""
        if query.code is not None:
            return parse_hex(query.code, self._codes.n_bits)[np.newaxis]
        assert query.image is not None  # noqa: S101 - a query is a picture or a code
        path = _absolute(query.image)
        stored = self._gallery.find(path) if path is not None else None
        if path is not None and stored is not None and _is_current(path, stored[0]):
            return stored[1][np.newaxis]
        encoder, pixels = self._prepare(query.image)
        return encoder.codes(pixels, self._codes.n_bits)

    def _prepare(self, image: AnyPath | BinaryIO) -> tuple[Encoder, NDArray[np.uint8]]:
        """Return the network and a picture's (1, views * s, s, 3) pixels."""
        from drhn_cli.images.load import load_image  # Pillow, which a stored picture and a code do not need
        from drhn_cli.network.encoder import Encoder

        if self._weights is None:
            self._weights = self._load_model()
        pixels = load_image(image, self._weights.preprocessing)
        if self._encoder is None:
            self._encoder = Encoder(self._weights, device=self._options.device, n_images=1)
        return self._encoder, pixels[np.newaxis]

    def _load_model(self) -> Model:
        from drhn_cli.network.model import model_of  # the same holds for weights

        return model_of(self._codes.manifest, self._options.weights, path=self._codes.path)


def _absolute(image: AnyPath | BinaryIO | None) -> bytes | None:
    """Return a picture's absolute path, or None for what has none."""
    return absolute_path(image) if isinstance(image, (str, bytes, os.PathLike)) else None


def _is_current(path: bytes, entry: Entry) -> bool:
    """Tell whether a picture is as it was when it was hashed."""
    from drhn_cli.images.source import locate

    try:
        return locate(path).has_content(entry.stamp)
    except ImageError:
        return True  # gone, but its code is here: that is what the codes are for
