"""Answer queries from a code file."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.file import CodeFile
from drhn_cli.codes.pack import parse_hex
from drhn_cli.codes.search import Neighbours
from drhn_cli.config import Rank, check_rank
from drhn_cli.errors import AnyPath, DrhnError, ImageError
from drhn_cli.jobs.folders import find_kept, locate_rows
from drhn_cli.jobs.model import load_weights_of
from drhn_cli.network.encoders import Encoder, load_encoder

if TYPE_CHECKING:
    from drhn_cli.network.search import DeviceSearch


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
    """What is asked of the code file.

    Attributes:
        top_k: at most so many matches for each query. None: all within ``max_distance``.
        max_distance: matches at most so many bits away. None: any distance.
        rank: nearest by Hamming distance, or by the query's activations against the stored bits.
        under: only pictures in these folders.
        exclude: globs of pictures and folders that are left out.
        not_self: leave a picture that is looked up by its path out of its own matches. A copy elsewhere stays.
        weights: a bundled model's name or a weights file. None: the bundled model that made the code file.
        device: auto, cuda, mps or cpu. By Hamming distance, cuda searches there, too, if the codes fit its memory.
    """

    top_k: int | None = 10
    max_distance: int | None = None
    rank: Rank = "hamming"
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


def answer_queries(file: CodeFile, queries: Iterable[Query], options: QueryOptions) -> Generator[Answer, None, None]:
    """Answer each query as it comes.

    A picture that the code file holds, unchanged, is not decoded; the network is loaded when first needed.

    Args:
        file: an open code file.
        queries: may be endless.
        options: what is asked.

    Yields:
        An answer for each query, in order. A picture that cannot be read gives an answer with an error.

    Raises:
        ConfigError: an unknown rank.
        DrhnError: a code of another length or, by asymmetric rank, any; a folder outside of the code file.
        CodeFileError: the code file was made with another model than the weights.
        WeightsError: the weights cannot be read.
    """
    check_rank(options.rank)
    rows = locate_rows(file, options.under) >= 0 if options.under else None
    if options.exclude:
        kept = find_kept(file, options.exclude)
        rows = kept if rows is None else rows & kept
    searcher = _Searcher(file, options, rows)
    root = os.fsencode(file.root)
    for query in queries:
        own_row = _row_of(file, query.image) if options.not_self else None
        top_k = options.top_k if options.top_k is None or own_row is None else options.top_k + 1
        try:
            found = searcher.search(query, top_k)
        except ImageError as error:
            yield Answer(query=query.name, matches=[], error=error)
            continue
        scores = [None] * len(found) if found.scores is None else found.scores.tolist()
        columns = list(zip(found.indices.tolist(), found.distances.tolist(), scores, strict=True))
        if own_row is not None:
            columns = [column for column in columns if column[0] != own_row][: options.top_k]
        matches = [
            Match(rank=rank, distance=distance, path=os.path.join(root, file.path_bytes(row)), score=score)
            for rank, (row, distance, score) in enumerate(columns, start=1)
        ]
        yield Answer(query=query.name, matches=matches)


class _Searcher:
    """Searches for each query, loading as little as it takes."""

    def __init__(self, file: CodeFile, options: QueryOptions, rows: NDArray[np.bool_] | None) -> None:
        self._file = file
        self._options = options
        self._rows = rows
        self._encoder: Encoder | None = None
        # Weights that do not belong to this file are an error even where no picture has to be decoded.
        self._weights = load_weights_of(file, options.weights) if options.weights else None

    def search(self, query: Query, top_k: int | None) -> Neighbours:
        """Return the rows nearest to a query."""
        if self._options.rank == "hamming":
            return self._search_codes(self._code_of(query), top_k)
        if query.image is None:
            raise DrhnError(
                "a code has no activations to rank by",
                expected="a picture",
                found=query.code,
                hint="name the picture instead, or leave --rank out",
            )
        from drhn_cli.codes.asymmetric import search_asymmetric
        from drhn_cli.network.binarise import bit_probabilities

        encoder, pixels = self._prepare(query.image)
        activations = encoder.activations(pixels)
        (probabilities,) = bit_probabilities(activations, encoder.weights.network, self._file.n_bits)
        return search_asymmetric(
            self._file.codes, probabilities, top_k=top_k, max_distance=self._options.max_distance, rows=self._rows
        )

    def _search_codes(self, code: NDArray[np.uint8], top_k: int | None) -> Neighbours:
        """Return the rows nearest to a (1, code_size) code."""
        max_distance = self._options.max_distance
        if self._on_gpu is None:
            (found,) = self._file.search(code, top_k=top_k, max_distance=max_distance, rows=self._rows)
        else:
            (found,) = self._on_gpu.search(code, top_k=top_k, max_distance=max_distance)
        return found

    @cached_property
    def _on_gpu(self) -> DeviceSearch | None:
        """The codes on the GPU that is asked for, or None."""
        if not self._options.device.startswith("cuda"):
            return None
        from drhn_cli.network.search import load_on_gpu

        return load_on_gpu(self._file.codes, self._file.n_bits, device=self._options.device, rows=self._rows)

    def _code_of(self, query: Query) -> NDArray[np.uint8]:
        """Return (1, code_size) uint8."""
        if query.code is not None:
            return parse_hex(query.code, self._file.n_bits)[np.newaxis]
        assert query.image is not None  # noqa: S101 - a query is a picture or a code
        row = _row_of(self._file, query.image)
        if row is not None and _is_current(self._file, row):
            return self._file.codes[row : row + 1]
        encoder, pixels = self._prepare(query.image)
        return encoder.codes(pixels, self._file.n_bits)

    def _prepare(self, image: AnyPath | BinaryIO) -> tuple[Encoder, NDArray[np.uint8]]:
        """Return the network and a picture's (1, s, s, 3) pixels."""
        from drhn_cli.images.load import load_image  # Pillow, which a stored picture and a code do not need

        if self._weights is None:
            self._weights = load_weights_of(self._file, None)
        pixels = load_image(image, self._weights.preprocessing)
        if self._encoder is None:
            self._encoder = load_encoder(self._weights, device=self._options.device, n_images=1)
        return self._encoder, pixels[np.newaxis]


def _row_of(file: CodeFile, image: AnyPath | BinaryIO | None) -> int | None:
    """Return the row of a picture by its path, or None."""
    if not isinstance(image, (str, bytes, os.PathLike)):
        return None
    absolute = os.path.abspath(os.fsencode(image))
    root = os.path.join(os.fsencode(file.root), b"")
    return file.find(absolute[len(root) :]) if absolute.startswith(root) else None


def _is_current(file: CodeFile, row: int) -> bool:
    """Tell whether the picture of a row is as it was when it was hashed."""
    entry = file.entry(row)
    path = os.path.join(os.fsencode(file.root), entry.path)
    try:
        status = os.stat(path)
    except OSError:
        from drhn_cli.images.packed import locate_packed

        try:
            packed = locate_packed(path)
        except ImageError:
            packed = None
        # Gone, but its code is here: that is what the code file is for.
        return packed is None or packed.is_as(entry.size, entry.mtime_ns, entry.inode)
    return (entry.size, entry.mtime_ns) == (status.st_size, status.st_mtime_ns)
