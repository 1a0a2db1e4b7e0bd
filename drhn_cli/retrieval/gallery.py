"""What queries are looked up in: a code file or a table, which answer alike."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from drhn_cli.clickhouse.scheme import is_table
from drhn_cli.codes.entries import Entry
from drhn_cli.codes.reader import CodeFile
from drhn_cli.errors import AnyPath, ConfigError
from drhn_cli.retrieval.folders import find_kept, locate_rows
from drhn_cli.search.hamming import Neighbours

if TYPE_CHECKING:
    from drhn_cli.clickhouse.table import CodeTable
    from drhn_cli.search.cuda import DeviceSearch

    Codes: TypeAlias = CodeFile | CodeTable

_ASK_FILE = "ask the code file"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A code that was found.

    Attributes:
        distance: bits that differ.
        path: of its picture, absolute.
        score: what gives the order by asymmetric rank; None where the distance does.
    """

    distance: int
    path: bytes
    score: float | None = None


class Gallery(Protocol):
    """Codes, or those of some folders. Paths are absolute; equal distances or scores are in their order."""

    def find(self, path: bytes) -> tuple[Entry, NDArray[np.uint8]] | None:
        """Return what is known of a picture, in these folders or not, and its code, (code_size,) uint8; or None."""
        ...

    def search(self, code: NDArray[np.uint8], *, top_k: int | None, max_distance: int | None) -> list[Found]:
        """Return what is nearest to a code, (1, code_size) uint8: ``top_k`` within ``max_distance``, None for any."""
        ...

    def search_asymmetric(
        self, probabilities: NDArray[np.float64], *, top_k: int | None, max_distance: int | None
    ) -> list[Found]:
        """Return what is nearest by asymmetric score to probabilities of a 1, (n_bits,)."""
        ...


def open_codes(target: str) -> Codes:
    """Open a code file, or connect to a table: a context manager either way.

    Raises:
        CodeFileError, TableError: there is none, or it cannot be read.
        ConfigError: not a table's URL.
    """
    if not is_table(target):
        return CodeFile.open(target)
    from drhn_cli.clickhouse.table import CodeTable  # brings what a code file does not need

    return CodeTable.open(target)


def gallery_of(
    codes: Codes, under: Sequence[AnyPath] = (), *, exclude: Sequence[str] = (), device: str = "cpu"
) -> Gallery:
    """Return how to search in open codes, or in those of some folders, without those that a glob leaves out.

    On cuda the codes of a file are searched by Hamming distance on the GPU, if they fit its memory.

    Raises:
        DrhnError: a folder outside of the code file.
        ConfigError: globs, which a table knows nothing of.
    """
    if isinstance(codes, CodeFile):
        return _FileGallery(codes, under, exclude, device)
    if exclude:
        raise ConfigError("a table leaves nothing out", found="--exclude", hint=_ASK_FILE)
    return _TableGallery(codes, under)


class _FileGallery:
    def __init__(self, file: CodeFile, under: Sequence[AnyPath], exclude: Sequence[str], device: str) -> None:
        self._file = file
        self._device = device
        self._root = os.path.join(os.fsencode(file.root), b"")
        rows = locate_rows(file, under) >= 0 if under else None
        if exclude:
            kept = find_kept(file, exclude)
            rows = kept if rows is None else rows & kept
        self._rows = rows

    def find(self, path: bytes) -> tuple[Entry, NDArray[np.uint8]] | None:
        row = self._file.find(path[len(self._root) :]) if path.startswith(self._root) else None
        return None if row is None else (self._file.entry(row), self._file.codes[row])

    def search(self, code: NDArray[np.uint8], *, top_k: int | None, max_distance: int | None) -> list[Found]:
        if self._on_gpu is None:
            (found,) = self._file.search(code, top_k=top_k, max_distance=max_distance, rows=self._rows)
        else:
            (found,) = self._on_gpu.search(code, top_k=top_k, max_distance=max_distance)
        return self._name(found)

    def search_asymmetric(
        self, probabilities: NDArray[np.float64], *, top_k: int | None, max_distance: int | None
    ) -> list[Found]:
        from drhn_cli.search.asymmetric import search_asymmetric

        codes = self._file.codes
        return self._name(
            search_asymmetric(codes, probabilities, top_k=top_k, max_distance=max_distance, rows=self._rows)
        )

    @cached_property
    def _on_gpu(self) -> DeviceSearch | None:
        """The codes on the GPU that is asked for, or None."""
        if not self._device.startswith("cuda"):
            return None
        from drhn_cli.network.devices import choose_device
        from drhn_cli.search.cuda import load_on_gpu

        return load_on_gpu(self._file.codes, self._file.n_bits, choose_device(self._device), self._rows)

    def _name(self, found: Neighbours) -> list[Found]:
        scores = [None] * len(found) if found.scores is None else found.scores.tolist()
        columns = zip(found.indices.tolist(), found.distances.tolist(), scores, strict=True)
        return [
            Found(distance=distance, path=self._root + self._file.path_bytes(row), score=score)
            for row, distance, score in columns
        ]


class _TableGallery:
    def __init__(self, table: CodeTable, under: Sequence[AnyPath]) -> None:
        self._table = table
        self._under = under

    def find(self, path: bytes) -> tuple[Entry, NDArray[np.uint8]] | None:
        return self._table.find(path)

    def search(self, code: NDArray[np.uint8], *, top_k: int | None, max_distance: int | None) -> list[Found]:
        found = self._table.search(code, top_k=top_k, max_distance=max_distance, under=self._under)
        return [Found(distance=distance, path=path) for distance, path in found]

    def search_asymmetric(
        self,
        probabilities: NDArray[np.float64],  # noqa: ARG002
        *,
        top_k: int | None,  # noqa: ARG002
        max_distance: int | None,  # noqa: ARG002
    ) -> list[Found]:
        raise ConfigError(
            "a table ranks by hamming distance only",
            expected="--rank hamming",
            found="--rank asymmetric",
            hint=_ASK_FILE,
        )
