"""The data classes of an update, and its plan: which codes stay, and which pictures are decoded.

Nothing here opens or writes a file.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.entries import Entries
from drhn_cli.codes.manifest import LastRun, Shard
from drhn_cli.codes.writer import Block
from drhn_cli.errors import AnyPath
from drhn_cli.images.find import FindResult
from drhn_cli.images.source import ImageFile, archive_of
from drhn_cli.network.model import Model
from drhn_cli.paths import common_folder, is_below, with_folders


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
    later: bool = False  # leave pictures unread of which an older version of the code file did not note all
    root: AnyPath | None = None  # where the folder that paths are relative to has moved; None: it was not moved
    device: str = "auto"  # auto, cuda, mps or cpu
    batch_size: int = 256  # pictures at a time
    workers: int | None = None  # threads that decode, and as many that run the network; None: one for each processor
    max_pixels: int | None = None  # larger pictures are refused; None: as ``DecodeOptions`` has it
    strict: bool = False  # pictures with damage that costs few of their rows are refused, too

    def to_note(self) -> dict[str, Any]:
        """Return the options that a code file notes, JSON-ready: those that decide what it holds."""
        noted = ("exclude", "hidden", "follow", "raw", "keep_missing", "max_pixels")
        values = {name: getattr(self, name) for name in noted}
        return {**values, "exclude": list(self.exclude)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """The content of a code file, with absolute paths."""

    root: bytes  # current location of its root folder; empty if there is no file yet
    codes: NDArray[np.uint8]  # (n, code_size)
    copy_codes: NDArray[np.uint8]  # (n, DCT_BYTES); zeros where the content is not known
    entries: Entries  # of the n rows
    model: Model  # that made the codes
    n_bits: int  # length of a code
    shard: Shard | None = None  # that the file holds; None: it is not a shard
    last_run: LastRun | None = None  # what made the file; None: not known
    is_new: bool = False  # there is no file, or its content is to be discarded

    @cached_property
    def are_read(self) -> NDArray[np.bool_]:
        """Which rows have the content of their picture noted: (n,) bool."""
        return self.entries.are_read()

    @cached_property
    def rows(self) -> dict[bytes, int]:
        """The row of each path."""
        return {path: row for row, path in enumerate(self.entries.paths())}

    def block(self, rows: Sequence[int]) -> Block:
        """Return these rows."""
        at = np.array(rows, np.int64)
        return Block(self.codes[at], self.entries.take(at), self.copy_codes[at])

    @cached_property
    def folders(self) -> set[bytes]:
        """The folders and archives that have pictures, at any depth."""
        return with_folders(os.path.dirname(path) for path in self.rows)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The pictures to be hashed."""

    files: list[ImageFile]  # of this shard; those of an archive in its order
    search: FindResult  # of all sources; its files are those of all shards, without the members of archives
    shard: Shard | None  # None: all of the collection
    folder: bytes  # deepest common folder of all sources

    @property
    def complete(self) -> bool:
        """Whether all sources could be read, and nothing vanished during the search."""
        return self.search.roots.isdisjoint(self.search.missing) and not self.search.some_vanished

    @property
    def found_any(self) -> bool:
        """Whether there is a picture, of any shard; archives of other shards are not opened and count as one."""
        return bool(self.files or self.search.files or (self.shard and self.search.archives))

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
    pending: list[ImageFile] = field(default_factory=list)  # pictures that have to be read
    outdated: dict[bytes, int] = field(default_factory=dict)  # pending path to the row that stays until it is read
    # Pending pictures that keep the code of their row: if the content is the same, or if nothing is known of that.
    recognizable: set[bytes] = field(default_factory=set)
    kept_if_other: set[int] = field(default_factory=set)  # rows of gone paths that stay if no pending picture has them

    def known_digests(self, stored: Stored) -> dict[bytes, bytes]:
        """Return the digests of pending pictures that keep their code if they still have them."""
        rows = {path: self.outdated[path] for path in self.recognizable}
        digests = stored.entries.contents["digest"]
        return {path: digests[row].tobytes() for path, row in rows.items() if stored.are_read[row]}

    def n_unread(self, stored: Stored) -> int:
        """Return how many pictures are read because an older code file does not note all of them."""
        stamps = {file.path: file.stamp for file in self.pending} if not stored.are_read.all() else {}
        return sum(
            path in stamps and not stored.are_read[row] and stamps[path].may_be_same(stored.entries.stamp(row))
            for path, row in self.outdated.items()
        )

    def stored_part(self, stored: Stored) -> Block:
        """Return the rows that stay, with the paths and stamps of today."""
        found = [*self.unchanged, *self.moved]
        block = stored.block([*(row for _, row in found), *self.kept])
        contents = block.entries.contents[: len(found)]
        of_today = Entries.from_stamps([file.path for file, _ in found], [file.stamp for file, _ in found], contents)
        return block._replace(entries=Entries.concatenate([of_today, stored.entries.take(self.kept)]))


def plan_update(
    stored: Stored,
    sources: Sources,
    *,
    is_there: Callable[[bytes], bool],
    stays: Callable[[bytes], bool],
    later: bool = False,
) -> UpdatePlan:
    """Decide what to do with each picture in the code file, and with each that was found.

    A picture with the stamp of its entry is unchanged. Where only size and time are those of an entry, of this path or
    of one that is gone, the picture has to be read, and its digest decides. The entry of a picture not found is removed
    if the sources cover its path, unless it ``stays``.

    Args:
        stored: what the code file holds.
        sources: what was found.
        is_there: returns whether a path that was not found still exists; if so, it was not renamed.
        stays: returns whether a picture not found is kept.
        later: leave unchanged pictures unread although the code file does not have all of them.
    """
    # Shards of a collection have the same root, even one that holds nothing yet.
    has_root = stored.rows or (sources.shard is not None and not stored.is_new)
    plan = UpdatePlan(root=common_folder([sources.folder, stored.root]) if has_root else sources.folder)
    gone = _GonePictures(stored, sources, is_there)
    for file in sources.files:
        row = stored.rows.get(file.path)
        is_moved = row is None
        if row is None and (row := gone.claim(file)) is None:
            plan.pending.append(file)
            continue
        stamp, is_read = stored.entries.stamp(row), bool(stored.are_read[row])
        # A file system without inodes leaves it open which picture was moved.
        is_same = file.stamp.is_same(stamp) and (not is_moved or stamp.inode != 0)
        may_be_same = file.stamp.may_be_same(stamp)
        if is_same and (is_read or later):
            (plan.moved if is_moved else plan.unchanged).append((file, row))
        elif may_be_same and later and not is_read:
            plan.kept.append(row)
        else:
            plan.pending.append(file)
            plan.outdated[file.path] = row
            if is_same or (may_be_same and is_read):
                plan.recognizable.add(file.path)
            if is_moved and gone.stays(stored.entries.path(row), stays):
                plan.kept_if_other.add(row)
    for path, row in gone.rows.items():  # sorted, so archive by archive
        (plan.kept if gone.stays(path, stays) else plan.removed).append(row)
    return plan


class _GonePictures:
    """Rows whose path was not found, until a picture is found that may be theirs."""

    def __init__(self, stored: Stored, sources: Sources, is_there: Callable[[bytes], bool]) -> None:
        self.rows = {path: stored.rows[path] for path in sorted(stored.rows.keys() - {f.path for f in sources.files})}
        self._stored, self._is_there = stored, is_there
        self._covered = {path for path in self.rows if sources.covers(path)}
        self._by_inode: dict[tuple[int, int, int], bytes] = {}
        self._by_name: dict[tuple[int, int, bytes], bytes] = {}
        self._by_time: dict[tuple[int, int], list[bytes]] = defaultdict(list)
        for path, row in self.rows.items():
            size, mtime_ns, inode, *_ = stored.entries.stamp(row)
            if inode:
                self._by_inode[size, mtime_ns, inode] = path
            # A copy has another inode. Where the original may be on a drive that is away, it has not moved.
            if stored.are_read[row] and path in self._covered:
                self._by_name[size, mtime_ns, os.path.basename(path)] = path
                self._by_time[size, mtime_ns].append(path)

    def claim(self, file: ImageFile) -> int | None:
        """Return the row of a gone path that this picture may have had, which no other gets then."""
        for path in self._candidates(file):
            if path in self.rows and not self._is_there(path):
                return self.rows.pop(path)
        return None

    def _candidates(self, file: ImageFile) -> Iterator[bytes]:
        size, mtime_ns, inode, *_ = file.stamp
        if path := self._by_inode.get((size, mtime_ns, inode)):
            row = self._stored.rows[path]
            if self._stored.are_read[row] or file.stamp.is_same(self._stored.entries.stamp(row)):
                yield path
        if path := self._by_name.get((size, mtime_ns, os.path.basename(file.path))):
            yield path
        others = self._by_time.get((size, mtime_ns), [])
        while others:
            yield others.pop()

    def stays(self, path: bytes, stays: Callable[[bytes], bool]) -> bool:
        """Return whether a row is kept if its picture is nowhere."""
        return path not in self._covered or stays(path)
