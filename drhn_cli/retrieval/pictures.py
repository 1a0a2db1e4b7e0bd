"""The pictures of a gallery among which copies are looked for: one for each file, however many paths lead to it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.entries import Entry
from drhn_cli.errors import ImageError
from drhn_cli.files import FileStamp
from drhn_cli.images.source import archive_of, digest_of, locate
from drhn_cli.progress import Progress
from drhn_cli.retrieval.gallery import FileGallery
from drhn_cli.retrieval.pairs import Content
from drhn_cli.search.eight_forms import CODE_SIZE

_Path = tuple[int, bytes, Entry]  # its row, absolute, and what is known of it


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A file.

    Attributes:
        row: of the code file.
        path: absolute.
        aliases: other paths that lead to it.
        entry: what the code file notes of it.
        content: the number of its content.
        is_member: it is in an archive, so it cannot be removed by itself.
    """

    row: int
    path: bytes
    aliases: tuple[bytes, ...]
    entry: Entry
    content: int
    is_member: bool


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Pictures:
    """Files and their contents.

    Attributes:
        files: in the order of their rows.
        contents: each once.
        signs: (n_contents, 32) uint8, the DCT signs of each content.
        codes: (n_contents, code_size) uint8.
    """

    files: Sequence[Picture]
    contents: Sequence[Content]
    signs: NDArray[np.uint8]
    codes: NDArray[np.uint8]

    def twins(self) -> list[tuple[int, int]]:
        """Return all pairs of contents with the same signs and sizes, as those with equal pixels have."""
        alike: dict[object, dict[int, None]] = defaultdict(dict)
        for picture in self.files:
            size = picture.entry.width, picture.entry.height
            alike[self.signs[picture.content].tobytes(), size][picture.content] = None
        return [pair for contents in alike.values() for pair in combinations(contents, 2)]


def find_pictures(gallery: FileGallery, *, opens: bool, progress: Progress) -> Pictures:
    """Return the pictures of a gallery whose content is known.

    With ``opens`` those that are gone or have changed are left out, and a note says how many.
    """
    file = gallery.file
    numbers: dict[bytes, int] = {}
    contents: list[Content] = []
    files: list[Picture] = []
    content_rows: list[int] = []
    for paths in _paths_by_file(gallery, opens, progress):
        # A link is not what would be kept of a file that has a name of its own.
        (row, path, entry), *others = sorted(paths, key=lambda each: (len(paths) > 1 and os.path.islink(each[1]), each))
        if entry.digest not in numbers:
            numbers[entry.digest] = len(contents)
            contents.append(Content(source=path, digest=entry.digest))
            content_rows.append(row)
        files.append(
            Picture(
                row=row,
                path=path,
                aliases=tuple(alias for _, alias, _ in others),
                entry=entry,
                content=numbers[entry.digest],
                is_member=archive_of(path) is not None,
            )
        )
    return Pictures(
        files=sorted(files, key=lambda picture: picture.row),
        contents=contents,
        signs=np.ascontiguousarray(file.copy_codes[content_rows, :CODE_SIZE]),
        codes=file.codes[content_rows],
    )


def _paths_by_file(gallery: FileGallery, opens: bool, progress: Progress) -> Iterable[list[_Path]]:
    """Return the paths that lead to each file."""
    file = gallery.file
    rows = gallery.searched.tolist()
    root = os.fsencode(file.root)
    by_file: dict[object, list[_Path]] = defaultdict(list)
    n_unread = n_absent = 0
    for row in rows:
        entry = file.entry(row)
        if not entry.digest:
            n_unread += 1
            continue
        path = os.path.join(root, entry.path)
        identity = _identity(path, entry, opens)
        if identity is None:
            n_absent += 1
        else:
            by_file[identity].append((row, path, entry))
    if n_unread:
        progress.note(f"{n_unread:,} of {len(rows):,} pictures have no copy codes yet and are left out; run drhn hash")
    if n_absent:
        progress.note(f"{n_absent:,} pictures are gone or have changed and are left out; run drhn hash")
    return by_file.values()


def _identity(path: bytes, entry: Entry, opens: bool) -> object:
    """Return a value that all paths to one file share; None if it is gone or has changed."""
    stamp = entry.stamp
    if not opens:
        return stamp.identity or path
    archive = archive_of(path)
    try:
        status = os.stat(archive or path)
    except (OSError, ValueError):
        return None
    if archive is not None:
        return (status.st_dev, stamp.inode, b"member") if status.st_mtime_ns == stamp.mtime_ns else None
    now = FileStamp.of(status)
    return (now.identity or path) if now.may_be_same(stamp) else None


def is_as_hashed(picture: Picture) -> bool:
    """Whether a file still has the content of its digest; it is read where its stamp leaves that open."""
    try:
        file = locate(picture.path)
        if file.stamp.is_same(picture.entry.stamp):
            return True
        return digest_of(file.read()) == picture.entry.digest
    except ImageError:
        return False
