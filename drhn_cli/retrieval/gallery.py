"""What is searched: a code file or a table, all of its pictures or those of some folders."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from drhn_cli.clickhouse.connection import is_table
from drhn_cli.codes.entries import Entry
from drhn_cli.codes.reader import CodeFile
from drhn_cli.errors import AnyPath, ConfigError, DrhnError, printable
from drhn_cli.paths import absolute_folder
from drhn_cli.search.hamming import Neighbours, search

if TYPE_CHECKING:
    from drhn_cli.clickhouse.table import CodeTable
    from drhn_cli.network.model import Model
    from drhn_cli.retrieval.vocabulary import Noun
    from drhn_cli.retrieval.words import ClassLayer, WordQuery

_ASK_FILE = "ask the code file"


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """A picture that was found.

    Attributes:
        path: absolute.
        distance: Hamming distance, in bits, from the query or from the first picture of a group of near-duplicates;
            None where words alone are looked for.
        score: the expected distance, by which asymmetric search orders matches; otherwise None.
        size: bytes of the file when it was hashed, in groups of near-duplicates; otherwise None.
        probability: that the picture shows the words that are looked for; None where there are none.
    """

    path: bytes
    distance: int | None
    score: float | None = None
    size: int | None = None
    probability: float | None = None


class FileGallery:
    """An open code file.

    Args:
        file: the code file.
        under: search only pictures in these folders. One that holds no picture of the code file is a ``DrhnError``.
        exclude: globs of pictures and folders that are left out; see ``compile_excludes``.

    Attributes:
        path: of the code file.
        manifest: what made the codes.
        folders: (n_items,) int64, which of ``under`` each picture lies in, -1 for none; None without ``under``.
        rows: (n_items,) bool, the pictures that are searched; None for all.
        probabilities: (n_items,) float64, that each picture that is searched shows the wanted words; None without any.
    """

    probabilities: NDArray[np.float64] | None = None

    def __init__(self, file: CodeFile, under: Sequence[AnyPath] = (), exclude: Sequence[str] = ()) -> None:
        self.path = file.path
        self.manifest = file.manifest
        self.file = file
        self.under = under
        self._root = os.path.join(os.fsencode(file.root), b"")
        self.folders = _innermost_folders(file, self._root, under) if under else None
        self.rows = None if self.folders is None else self.folders >= 0
        if exclude:
            kept = _not_excluded(file, exclude)
            self.rows = kept if self.rows is None else self.rows & kept

    def __len__(self) -> int:
        """Return the number of pictures in the whole code file."""
        return self.file.n_items

    @property
    def searched(self) -> NDArray[np.int64]:
        """The numbers of the rows that are searched, ascending."""
        return np.arange(len(self)) if self.rows is None else np.flatnonzero(self.rows)

    def spans_folders(self, rows: Sequence[int] | NDArray[np.int64]) -> bool:
        """Whether some rows lie in several folders: of ``under`` if it has several, else the folders of the files."""
        if self.folders is not None and len(self.under) > 1:
            return len(np.unique(self.folders[rows])) > 1
        return len({os.path.dirname(self.file.path_bytes(int(row))) for row in rows}) > 1

    def find(self, path: bytes) -> tuple[Entry, NDArray[np.uint8]] | None:
        """Return the entry and the code, (code_size,) uint8, of an absolute path, in any folder; or None."""
        row = self.file.find(path.removeprefix(self._root)) if path.startswith(self._root) else None
        return None if row is None else (self.file.entry(row), self.file.codes[row])

    def search(self, code: NDArray[np.uint8], *, top_k: int | None, max_distance: int | None) -> list[Match]:
        """Return the ``top_k`` pictures nearest to a code, (1, code_size) uint8, within ``max_distance``.

        None stands for all matches, and for any distance. Ties are in the order of absolute paths.
        """
        n_bits, rows = self.manifest.n_bits, self.rows
        (found,) = search(self.file.codes, code, n_bits=n_bits, top_k=top_k, max_distance=max_distance, rows=rows)
        return self._matches(found)

    def search_asymmetric(
        self, probabilities: NDArray[np.float64], *, top_k: int | None, max_distance: int | None
    ) -> list[Match]:
        """Return the pictures nearest to probabilities of a 1 in each bit, (n_bits,); see ``search.asymmetric``."""
        from drhn_cli.search.asymmetric import search_asymmetric

        return self._matches(
            search_asymmetric(self.file.codes, probabilities, top_k=top_k, max_distance=max_distance, rows=self.rows)
        )

    def search_words(
        self, layer: ClassLayer, query: WordQuery, *, top_k: int | None, min_probability: float
    ) -> list[Match]:
        """Return the pictures that are likeliest to show the words; see ``words.search_words``."""
        from drhn_cli.retrieval.words import search_words

        indices, probabilities = search_words(
            layer, self.file.codes, query, top_k=top_k, min_probability=min_probability, rows=self.rows
        )
        return [
            Match(path=self._path(row), distance=None, probability=probability)
            for row, probability in zip(indices.tolist(), probabilities.tolist(), strict=True)
        ]

    def showing(self, layer: ClassLayer, query: WordQuery, min_probability: float) -> FileGallery:
        """Return the gallery of the pictures that show the words with at least this probability."""
        from drhn_cli.retrieval.words import probabilities

        narrowed = copy(self)
        rows = slice(None) if self.rows is None else self.rows
        values = np.zeros(len(self))
        values[rows] = probabilities(layer, self.file.codes[rows], query)
        narrowed.probabilities = values if query.wanted else None
        shown = values >= min_probability
        narrowed.rows = shown if self.rows is None else self.rows & shown
        return narrowed

    def labels(self, model: Model, *, top_k: int, min_probability: float) -> Iterator[tuple[bytes, Noun, float]]:
        """Yield path, word and probability of what each picture shows, in the order of paths.

        ``model`` made the codes. See ``words.ClassLayer.labels``.
        """
        from drhn_cli.retrieval.vocabulary import Vocabulary
        from drhn_cli.retrieval.words import ClassLayer

        layer, nouns = ClassLayer(model, self.manifest.n_bits), Vocabulary(model.class_names).labels()
        rows = self.searched
        labels = layer.labels(self.file.codes[rows], nouns, top_k=top_k, min_probability=min_probability)
        for row, chosen in zip(rows.tolist(), labels, strict=True):
            for noun, probability in chosen:
                yield self._path(row), noun, probability

    def _path(self, row: int) -> bytes:
        return self._root + self.file.path_bytes(row)

    def _matches(self, found: Neighbours) -> list[Match]:
        nothing = [None] * len(found)
        scores = nothing if found.scores is None else found.scores.tolist()
        shown = nothing if self.probabilities is None else self.probabilities[found.indices].tolist()
        columns = zip(found.indices.tolist(), found.distances.tolist(), scores, shown, strict=True)
        return [
            Match(path=self._path(row), distance=distance, score=score, probability=probability)
            for row, distance, score, probability in columns
        ]


class TableGallery:
    """An open table, or the pictures of some folders in it; with the methods of ``FileGallery``."""

    def __init__(self, table: CodeTable, under: Sequence[AnyPath] = ()) -> None:
        self.path = table.path
        self.manifest = table.manifest
        self.find = table.find
        self._table = table
        self._under = under

    def __len__(self) -> int:
        return len(self._table)

    def search(self, code: NDArray[np.uint8], *, top_k: int | None, max_distance: int | None) -> list[Match]:
        """See ``FileGallery.search``."""
        found = self._table.search(code, top_k=top_k, max_distance=max_distance, under=self._under)
        return [Match(path=path, distance=distance) for distance, path in found]

    def search_asymmetric(self, *_: object, **__: object) -> NoReturn:
        """Refuse: a table knows Hamming distances only."""
        problem, expected, found = "a table ranks by hamming distance only", "--order hamming", "--order asymmetric"
        raise ConfigError(problem, expected=expected, found=found, hint=_ASK_FILE)

    def search_words(self, *_: object, **__: object) -> NoReturn:
        """Refuse: only codes at hand can be asked what they show."""
        raise ConfigError("a table is not searched by words", hint=_ASK_FILE)

    showing = search_words


Gallery: TypeAlias = FileGallery | TableGallery


@contextmanager
def open_gallery(target: str, under: Sequence[AnyPath] = (), exclude: Sequence[str] = ()) -> Iterator[Gallery]:
    """Open a code file by its path, or a table by its URL; for the other arguments see ``FileGallery``.

    Raises:
        CodeFileError, TableError: there is none, or it cannot be read.
        ConfigError: not a table's URL, or globs for a table.
    """
    if not is_table(target):
        with CodeFile.open(target) as file:
            yield FileGallery(file, under, exclude)
        return
    from drhn_cli.clickhouse.table import CodeTable  # imports what code files do not need

    with CodeTable.open(target) as table:
        if exclude:
            raise ConfigError("a table leaves nothing out", found="--exclude", hint=_ASK_FILE)
        yield TableGallery(table, under)


def _innermost_folders(file: CodeFile, root: bytes, folders: Sequence[AnyPath]) -> NDArray[np.int64]:
    """Return for each row the number of the innermost folder that it lies in, or -1.

    Rows are in the order of their paths, so the rows of a folder are a range, found by bisection.
    """
    prefixes = [os.path.join(absolute_folder(folder), b"") for folder in folders]
    innermost = np.full(file.n_items, -1, dtype=np.int64)
    for number, prefix in sorted(enumerate(prefixes), key=lambda numbered: len(numbered[1])):
        if root.startswith(prefix):
            innermost[:] = number
            continue
        if not prefix.startswith(root):
            expected = f"a folder below {printable(file.root)}"
            raise DrhnError("the folder is outside of the code file", path=folders[number], expected=expected)
        inside = prefix.removeprefix(root)
        beyond = inside[:-1] + bytes([inside[-1] + 1])  # the first path after all that begin with ``inside``
        first, stop = (bisect_left(range(file.n_items), bound, key=file.path_bytes) for bound in (inside, beyond))
        if first == stop:
            expected = f"a folder that has pictures below {printable(file.root)}"
            raise DrhnError("no picture of the code file is in this folder", path=folders[number], expected=expected)
        innermost[first:stop] = number
    return innermost


def _not_excluded(file: CodeFile, globs: Sequence[str]) -> NDArray[np.bool_]:
    """Return for each row whether no glob matches its path or a folder above it, relative to the root."""
    from drhn_cli.images.globs import compile_excludes  # few queries exclude anything

    is_excluded = compile_excludes(globs)

    @cache
    def is_folder_excluded(folder: str) -> bool:
        above = accumulate(folder.split("/"), "{}/{}".format)
        return folder != "" and any(is_excluded(each, True) for each in above)

    paths = (os.fsdecode(entry.path) for entry in file)
    kept = (not (is_folder_excluded(os.path.dirname(path)) or is_excluded(path, False)) for path in paths)
    return np.fromiter(kept, np.bool_, file.n_items)
