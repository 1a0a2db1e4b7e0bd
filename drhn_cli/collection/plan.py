"""The data classes of an update, and its plan: which codes stay, and which pictures are decoded.

Nothing here opens or writes a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.entries import Entries
from drhn_cli.codes.manifest import Shard
from drhn_cli.errors import AnyPath
from drhn_cli.files import FileStamp
from drhn_cli.images.find import FindResult
from drhn_cli.images.source import ImageFile, archive_of
from drhn_cli.network.model import Model
from drhn_cli.paths import common_folder, is_below


@dataclass(frozen=True, kw_only=True)
class HashOptions:
    """What ``drhn hash`` is asked for: how pictures are found and hashed."""

    exclude: Sequence[str] = ()  # globs of files and folders to leave out
    hidden: bool = False  # take files and folders whose names begin with a dot
    follow: bool = False  # follow symbolic links
    raw: bool = False  # hash RAW files of cameras by their previews
    shard: Shard | None = None  # only the pictures of this shard; None: all
    weights: str | None = None  # a bundled model or a weights file; None: the code file's, or the default
    n_bits: int | None = None  # length of the codes; None: that of the code file, or the network's
    views: int | None = None  # 1 or 2, whose activations are averaged; None: as in the code file, or in the model
    rebuild: bool = False  # hash all pictures again, and discard the old codes
    keep_missing: bool = False  # keep the codes of files that are gone
    root: AnyPath | None = None  # where the folder that paths are relative to has moved; None: it was not moved
    device: str = "auto"  # auto, cuda, mps or cpu
    batch_size: int = 256  # pictures at a time
    workers: int | None = None  # threads that decode, and as many that run the network; None: one for each processor
    max_pixels: int | None = None  # larger pictures are refused; None: as ``DecodeOptions`` has it
    strict: bool = False  # pictures with damage that costs few of their rows are refused, too


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """The content of a code file, with absolute paths."""

    root: bytes  # current location of its root folder; empty if there is no file yet
    codes: NDArray[np.uint8]  # (n, code_size)
    entries: Entries  # of the n rows
    model: Model  # that made the codes
    n_bits: int  # length of a code
    shard: Shard | None = None  # that the file holds; None: it is not a shard
    is_new: bool = False  # there is no file, or its content is to be discarded

    @cached_property
    def rows(self) -> dict[bytes, int]:
        """The row of each path."""
        return {path: row for row, path in enumerate(self.entries.paths())}

    @cached_property
    def folders(self) -> set[bytes]:
        """The folders and archives that have pictures, at any depth."""
        folders: set[bytes] = set()
        for path in self.rows:
            while (path := os.path.dirname(path)) not in folders:
                folders.add(path)
        return folders


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The pictures to be hashed."""

    files: list[ImageFile]  # of this shard; those of an archive in its order
    search: FindResult  # of all sources; its files are those of all shards, without the members of archives
    shard: Shard | None  # None: all of the collection
    n_images: int  # number of pictures in all shards, or a lower bound
    folder: bytes  # deepest common folder of all sources

    @property
    def complete(self) -> bool:
        """Whether all sources could be read, and nothing vanished during the search."""
        return self.search.roots.isdisjoint(self.search.missing) and not self.search.some_vanished

    @cached_property
    def _missing(self) -> set[bytes]:
        return set(self.search.missing)

    def covers(self, path: bytes) -> bool:
        """Return whether a file of this path would have been found if it still existed.

        False below a missing folder, and in an archive that is not a source: archives in folders are not opened.
        """
        if not is_below(path, self.search.roots) or is_below(path, self._missing):
            return False
        archive = archive_of(path)
        return archive is None or archive in self.search.roots


@dataclass(frozen=True, kw_only=True)
class UpdatePlan:
    """What is to be done with each picture. Rows are those of ``Stored``."""

    root: bytes  # folder that paths will be relative to
    unchanged: list[tuple[ImageFile, int]] = field(default_factory=list)  # pictures whose code stays, and their rows
    moved: list[tuple[ImageFile, int]] = field(default_factory=list)  # the same, found under another path
    kept: list[int] = field(default_factory=list)  # rows that stay although their picture was not found
    removed: list[int] = field(default_factory=list)  # rows to drop
    pending: list[ImageFile] = field(default_factory=list)  # pictures that have to be decoded
    outdated: dict[bytes, int] = field(default_factory=dict)  # changed pictures: path to row, which stays until hashed

    def stored_part(self, stored: Stored) -> tuple[NDArray[np.uint8], Entries]:
        """Return the codes that stay, (m, code_size) uint8, and their entries with the current paths and stamps."""
        found = [*self.unchanged, *self.moved]
        of_today = Entries.from_stamps([file.path for file, _ in found], [file.stamp for file, _ in found])
        rows = np.array([*(row for _, row in found), *self.kept], np.int64)
        return stored.codes[rows], Entries.concatenate([of_today, stored.entries.take(self.kept)])


def plan_update(
    stored: Stored, sources: Sources, *, is_there: Callable[[bytes], bool], stays: Callable[[bytes], bool]
) -> UpdatePlan:
    """Decide what to do with each picture in the code file, and with each that was found.

    A picture with the size and time of its entry is unchanged; a renamed one has the size, time and inode of an entry
    whose path is gone. The entry of a picture not found is removed if the sources cover its path, unless it ``stays``.

    Args:
        stored: what the code file holds.
        sources: what was found.
        is_there: returns whether a path that was not found still exists; if so, it was not renamed.
        stays: returns whether a picture not found is kept.
    """
    # Shards of a collection have the same root, even one that holds nothing yet.
    has_root = stored.rows or (sources.shard is not None and not stored.is_new)
    plan = UpdatePlan(root=common_folder([sources.folder, stored.root]) if has_root else sources.folder)
    gone = stored.rows.keys() - {file.path for file in sources.files}
    stamps = {path: stored.entries.stamp(stored.rows[path]) for path in sorted(gone)}
    by_stamp: dict[FileStamp, bytes] = {stamp: path for path, stamp in stamps.items() if stamp.inode}
    for file in sources.files:
        row = stored.rows.get(file.path)
        if row is not None and file.has_content(stored.entries.stamp(row)):
            plan.unchanged.append((file, row))
            continue
        old_path = by_stamp.pop(file.stamp, None) if row is None else None
        if old_path is not None and not is_there(old_path):
            del stamps[old_path]
            plan.moved.append((file, stored.rows[old_path]))
            continue
        if row is not None:
            plan.outdated[file.path] = row
        plan.pending.append(file)
    for path in stamps:  # sorted, so archive by archive
        (plan.removed if sources.covers(path) and not stays(path) else plan.kept).append(stored.rows[path])
    return plan
