"""What a code file has to become: which codes stay, which pictures are decoded. Writes nothing, opens nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.entries import Entries
from drhn_cli.codes.manifest import Shard
from drhn_cli.collection.stored import Stored
from drhn_cli.errors import DrhnError
from drhn_cli.files import FileStamp
from drhn_cli.images.source import ImageFile, archive_of
from drhn_cli.paths import common_folder, is_below


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What there is to be hashed.

    Attributes:
        files: of this shard; those of an archive in its order.
        shard: None: all of the collection.
        n_images: pictures of all shards; perhaps not all of them are counted.
        roots: absolute paths of the sources.
        archives: the tar archives among them.
        folder: the deepest that holds all sources, whichever shard.
        failures: what could not be looked at.
        missing: absolute paths of sources and folders below which nothing is known.
        complete: whether all sources were there, and nothing vanished while it was looked at.
    """

    files: list[ImageFile]
    shard: Shard | None
    n_images: int
    roots: set[bytes]
    archives: set[bytes]
    folder: bytes
    failures: list[DrhnError]
    missing: set[bytes]
    complete: bool

    def covers(self, path: bytes) -> bool:
        """Tell whether a file of this path would have been found if it were still there.

        Not where nothing is known, and not in an archive that is no source: folders are not searched for archives.
        """
        if not is_below(path, self.roots) or is_below(path, self.missing):
            return False
        archive = archive_of(path)
        return archive is None or archive in self.archives


@dataclass(frozen=True, kw_only=True)
class UpdatePlan:
    """What is to be done with each picture. Rows are those of ``Stored``.

    Attributes:
        root: folder that paths will be relative to.
        unchanged: pictures whose code stays, and their rows.
        moved: the same for pictures that were found under another path.
        kept: rows that stay without their picture having been found.
        removed: rows that go.
        pending: pictures that have to be decoded.
        outdated: the rows of those pending pictures that had another content; they stay until that is hashed.
    """

    root: bytes
    unchanged: list[tuple[ImageFile, int]] = field(default_factory=list)
    moved: list[tuple[ImageFile, int]] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    pending: list[ImageFile] = field(default_factory=list)
    outdated: dict[bytes, int] = field(default_factory=dict)

    def stored_part(self, stored: Stored) -> tuple[NDArray[np.uint8], Entries]:
        """Return the codes that stay, (m, code_size) uint8, and their entries under the paths and inodes of today."""
        found = [*self.unchanged, *self.moved]
        of_today = Entries.from_stamps([file.path for file, _ in found], [file.stamp for file, _ in found])
        rows = np.array([*(row for _, row in found), *self.kept], np.int64)
        return stored.codes[rows], Entries.concatenate([of_today, stored.entries.take(self.kept)])


def plan_update(
    stored: Stored, sources: Sources, *, is_there: Callable[[bytes], bool], stays: Callable[[bytes], bool]
) -> UpdatePlan:
    """Decide what becomes of each picture that a code file holds, and of each that was found.

    A picture with the size and time of its entry is unchanged; one that was only renamed has the size, time and inode
    of an entry whose path is gone. What was not found is removed where the sources would have shown it, else kept.

    Args:
        stored: what the code file holds.
        sources: what was found.
        is_there: tells whether there still is a file of a path that was not found: what is there has not moved.
        stays: tells whether a picture that is gone keeps its code.
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
