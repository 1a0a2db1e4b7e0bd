"""Gather the pictures of all sources, and choose this process's part of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from drhn_cli.errors import AnyPath, DrhnError, SourceError
from drhn_cli.images.find import FoundFile, find_images
from drhn_cli.jobs.shard import Shard


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What is to be hashed.

    Attributes:
        files: of this part, sorted by path.
        n_images: pictures of all parts.
        roots: absolute paths of the sources.
        folder: the deepest that holds all sources, whichever part.
        failures: what could not be looked at.
        missing: absolute paths of sources and folders below which nothing is known.
    """

    files: list[FoundFile]
    n_images: int
    roots: set[bytes]
    folder: bytes
    failures: list[DrhnError]
    missing: set[bytes]


def gather_pictures(
    sources: Sequence[AnyPath], shard: Shard | None, *, exclude: Sequence[str], hidden: bool, follow: bool
) -> Gathered:
    """Find the pictures of a part, or all.

    Args:
        sources: files and folders.
        shard: the part; None: all.
        exclude: see ``find_images``, as for the other two.
        hidden: take names that begin with a dot.
        follow: follow symbolic links.

    Raises:
        SourceError: no source can be read, or they lie on different drives.
    """
    found = find_images(sources, exclude=exclude, hidden=hidden, follow=follow)
    # An empty name, as of a shell variable that is not set, is no source: it is not the working directory.
    raw_sources = (os.fsencode(source) for source in sources)
    roots = {os.path.abspath(raw) for raw in raw_sources if raw and b"\0" not in raw}
    if found.failures and roots <= set(found.missing):
        raise SourceError(f"no source can be read: {found.failures[0].message}", hint="nothing was changed")
    file_paths = {file.path for file in found.files}
    folder = common_folder(os.path.dirname(root) if root in file_paths else root for root in roots)
    prefix = len(os.path.join(folder, b""))
    return Gathered(
        files=[file for file in found.files if shard is None or shard.holds(file.path[prefix:])],
        n_images=len(found.files),
        roots=roots,
        folder=folder,
        failures=found.failures,
        missing=set(found.missing),
    )


def common_folder(folders: Iterable[bytes]) -> bytes:
    """Return the deepest folder that holds all of these.

    Raises:
        SourceError: they lie on different drives.
    """
    try:
        return os.path.commonpath(list(folders))
    except ValueError as error:
        raise SourceError("the sources have no folder in common", hint="make a code file for each drive") from error
