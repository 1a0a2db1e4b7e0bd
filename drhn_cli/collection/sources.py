"""Gather the pictures of all sources, and choose this process's part of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from drhn_cli.collection.shard import Shard
from drhn_cli.errors import AnyPath, DrhnError, SourceError
from drhn_cli.images.find import find_images, find_members
from drhn_cli.images.packed import archive_of, is_empty_archive
from drhn_cli.images.source import FoundFile
from drhn_cli.paths import absolute_path, common_folder, is_below
from drhn_cli.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What is to be hashed.

    Attributes:
        files: of this part; those of an archive in its order.
        n_images: pictures of all parts.
        roots: absolute paths of the sources.
        archives: those of them that are tar archives.
        folder: the deepest that holds all sources, whichever part.
        failures: what could not be looked at.
        missing: absolute paths of sources and folders below which nothing is known.
        complete: whether all sources were there, and nothing vanished while it was looked at.
    """

    files: list[FoundFile]
    n_images: int
    roots: set[bytes]
    archives: set[bytes]
    folder: bytes
    failures: list[DrhnError]
    missing: set[bytes]
    complete: bool

    def covers(self, path: bytes) -> bool:
        """Tell whether a file of this path would have been found if it were there still.

        Not where nothing is known, and not in an archive that was not named: folders are not searched for archives.
        """
        if not is_below(path, self.roots) or is_below(path, self.missing):
            return False
        archive = archive_of(path)
        return archive is None or archive in self.archives


def gather_pictures(
    sources: Sequence[AnyPath],
    shard: Shard | None,
    *,
    enough: int,
    exclude: Sequence[str],
    hidden: bool,
    follow: bool,
    is_known: Callable[[bytes], bool] = lambda _: False,
    is_known_folder: Callable[[bytes], bool] = lambda _: False,
    progress: Progress,
) -> Gathered:
    """Find the pictures of a part, or all.

    Tar archives are looked into one by one, and all members of one are in the same part: no other reads it.

    Args:
        sources: files, folders and tar archives.
        shard: the part; None: all.
        enough: pictures of all parts beyond which they need not be counted.
        exclude: see ``find_images``, as for the other two.
        hidden: take names that begin with a dot.
        follow: follow symbolic links.
        is_known: tells whether a source was a picture, or there have been some below it. It is missing if it is an
            empty folder now, as the mount point of an unplugged drive is, or an empty archive.
        is_known_folder: tells whether there have been pictures below a source. It is missing if it is a file now.
        progress: is advanced by the pictures of each folder and archive.

    Raises:
        SourceError: no source can be read, or they lie on different drives.
    """
    found = find_images(sources, exclude=exclude, hidden=hidden, follow=follow, progress=progress)
    # An empty name, as of a shell variable that is not set, is no source: it is not the working directory.
    raw_sources = (os.fsencode(source) for source in sources)
    roots = {absolute_path(raw) for raw in raw_sources if raw and b"\0" not in raw}
    for root in sorted(filter(is_known, roots - set(found.archives))):
        if _is_empty_folder(root):
            found.failures.append(_emptied("empty, as the mount point of an unplugged drive is", root))
            found.missing.append(root)
        elif is_known_folder(root) and os.path.isfile(root):
            found.failures.append(_emptied("a file in the place of a folder or archive", root))
            found.missing.append(root)
    _refuse_nothing(found.failures, roots, set(found.missing))
    file_paths = {*found.archives, *(file.path for file in found.files)}
    folder = common_folder(os.path.dirname(root) if root in file_paths else root for root in roots)
    prefix = len(os.path.join(folder, b""))

    def is_own(path: bytes) -> bool:
        return shard is None or shard.holds(path[prefix:])

    failures, missing = list(found.failures), set(found.missing)
    files = [file for file in found.files if is_own(file.path)]
    n_images = len(found.files)
    for path in sorted(found.archives, key=is_own, reverse=True):
        if not is_own(path) and n_images >= enough:
            break
        members = find_members(path, exclude=exclude, hidden=hidden)
        n_images += len(members.files)
        progress.advance(len(members.files))
        if is_own(path):
            files += members.files
            failures += members.failures
            missing.update(members.missing)
            if not members.files and is_known(path) and is_empty_archive(path):
                failures.append(_emptied("an archive that holds nothing any more", path))
                missing.add(path)
    if not files:
        _refuse_nothing(failures, roots, missing)
    return Gathered(
        files=files,
        n_images=n_images,
        roots=roots,
        archives=set(found.archives),
        folder=folder,
        failures=failures,
        missing=missing,
        complete=not roots & missing and not found.some_vanished,
    )


def _emptied(problem: str, source: bytes) -> SourceError:
    hint = "if its pictures are gone for good, hash again with --rebuild"
    return SourceError(f"{problem}, so its codes are kept", path=source, hint=hint)


def _refuse_nothing(failures: list[DrhnError], roots: set[bytes], missing: set[bytes]) -> None:
    if failures and roots <= missing:
        raise SourceError(f"no source can be read: {failures[0].message}", hint="nothing was changed")


def _is_empty_folder(path: bytes) -> bool:
    try:
        with os.scandir(path) as entries:
            return not any(entries)
    except OSError:
        return False
