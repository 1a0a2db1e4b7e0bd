"""Find the pictures in files and folders, without opening any. Pillow is imported when a search begins."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import accumulate
from pathlib import Path
from typing import Any

from drhn_cli.errors import AnyPath, DrhnError, SourceError, printable
from drhn_cli.files import FileStamp
from drhn_cli.images.globs import compile_excludes
from drhn_cli.images.source import MAX_PATH_BYTES, ImageFile, archive_of, hint_for_absent, list_archive
from drhn_cli.paths import absolute_path
from drhn_cli.progress import SILENT, Progress

_COMPRESSED_NAME = re.compile(rb"\.(gz|bz2|xz|zst|lz4|t[gbx]z2?|zip|7z|rar)$", re.IGNORECASE)


@dataclass(kw_only=True, slots=True)
class FindResult:
    """What ``find_images`` found.

    Attributes:
        files: sorted by path bytes, each path once.
        roots: absolute paths of the sources.
        failures: errors, in the order in which they occur.
        archives: the sources that are tar archives, sorted; ``find_members`` looks into one.
        missing: absolute paths of sources and folders that are not there or cannot be listed. The pictures below them
            may still exist.
        some_vanished: a file or folder vanished between being listed and being read, as on an unplugged drive.
        skipped: how many files were not looked at, for being of another kind; see ``kind_of_skipped``.
    """

    files: Sequence[ImageFile] = field(default_factory=list)
    roots: set[bytes] = field(default_factory=set)
    failures: list[DrhnError] = field(default_factory=list)
    archives: list[bytes] = field(default_factory=list)
    missing: list[bytes] = field(default_factory=list)
    some_vanished: bool = False
    skipped: Counter[str] = field(default_factory=Counter)


def find_images(
    sources: Sequence[AnyPath],
    *,
    exclude: Sequence[str] = (),
    hidden: bool = False,
    follow: bool = False,
    raw: bool = False,
    progress: Progress = SILENT,
) -> FindResult:
    """Find the picture files in folders, at any depth, and those named one by one.

    In a folder a picture is a regular file with a suffix of ``picture_suffixes``, in any case. As in ripgrep and fd,
    dot files are skipped without ``hidden`` and symbolic links without ``follow``; a link that leads back to a folder
    above it is a failure, and a folder is searched once, however many links lead to it. None of these rules, nor
    ``exclude``, applies to the sources themselves. FIFOs, sockets and devices are never opened. Archives among the
    sources are only listed: see ``find_members``.

    Args:
        sources: files and folders; relative ones are taken from the working directory.
        exclude: globs, see ``compile_excludes``.
        hidden: take files and folders whose name starts with a dot.
        follow: follow symbolic links inside folders.
        raw: take RAW files of cameras, too.
        progress: is advanced by the files of each folder.
    """
    search = _Search(exclude, hidden, follow=follow, raw=raw, progress=progress)
    for source in sources:
        search.add(source)
    search.found.files = [search.files[path] for path in sorted(search.files)]
    search.found.archives = sorted(set(search.found.archives))
    if unnamed := search.archives.difference(search.found.archives):
        search.found.skipped["archive"] = len(unnamed)
    return search.found


def find_members(archive: bytes, *, exclude: Sequence[str] = (), hidden: bool = False, raw: bool = False) -> FindResult:
    """Find the pictures in a tar archive, as ``find_images`` does in a folder. Only headers are read.

    The files are in the order of the archive; if a name occurs twice, the last one counts. A member with a
    picture's name that is no regular file below the archive is a failure. A damaged archive is in ``failures`` and
    ``missing``: the rest of it cannot be read.
    """
    search = _Search(exclude, hidden, raw=raw)
    search.add_members(archive)
    search.found.files = list(search.files.values())
    return search.found


class _Search:
    """One search: the rules, and what has been found so far."""

    def __init__(
        self, exclude: Sequence[str], hidden: bool, *, follow: bool = False, raw: bool, progress: Progress = SILENT
    ) -> None:
        from drhn_cli.images.formats import kind_of_skipped, picture_suffixes  # imports Pillow

        self._suffixes, self._excluded = picture_suffixes(raw=raw), compile_excludes(exclude)
        self._kind_of_skipped = kind_of_skipped
        self._hidden, self._follow, self._progress = hidden, follow, progress
        self._n_reported = 0  # files that progress was advanced by
        self.files: dict[bytes, ImageFile] = {}
        self.archives: set[bytes] = set()  # in folders
        self.found = FindResult()

    def add_members(self, archive: bytes) -> None:
        try:
            for member, file in list_archive(archive):
                parts = member.parts
                if not parts:
                    continue
                if not self._hidden and any(part.startswith(b".") and part != b".." for part in parts):
                    continue
                # What is longer than any name is a failure, and not even its folders are listed.
                is_name = len(member.name) <= MAX_PATH_BYTES
                names = list(accumulate(map(os.fsdecode, parts), "{}/{}".format)) if is_name else []
                if any(self._excluded(name, name != names[-1]) for name in names):
                    continue
                self._add_member(parts[-1], file)
        except SourceError as error:
            self.found.failures.append(error)
            self.found.missing.append(archive)

    def _add_member(self, name: bytes, file: ImageFile | SourceError) -> None:
        suffix = os.path.splitext(name)[1].lower()
        if suffix not in self._suffixes:
            self.found.skipped[self._kind_of_skipped(suffix)] += 1
        elif isinstance(file, SourceError):
            self.found.failures.append(file)
        else:
            self.files[file.path] = file

    def add(self, source: AnyPath) -> None:
        raw = os.fsencode(source)
        if not raw or b"\0" in raw:
            hint = "use -0 if the list of files is NUL-separated" if raw else None
            error = SourceError("not a path", path=raw or None, expected="a file or folder", hint=hint)
            self.found.failures.append(error)
            return
        path = absolute_path(raw)
        self.found.roots.add(path)
        try:
            status = os.stat(path)
        except OSError as error:
            archive = archive_of(path)
            hint = f"name the archive, {printable(archive)}" if archive else hint_for_absent(raw)
            self._miss(path, error, name=raw if hint else path, hint=hint)
            return
        if stat.S_ISDIR(status.st_mode):
            self._walk(path)
        elif not stat.S_ISREG(status.st_mode):
            self._miss(path, "not a regular file", expected="a file or folder")
        elif path.lower().endswith(b".tar"):
            self.found.archives.append(path)
        elif _COMPRESSED_NAME.search(path):
            hint = "unpack it first: nothing inside could be read on its own"
            self._miss(path, "compressed", expected="a folder, a picture or a plain tar archive", hint=hint)
        else:
            self.files[path] = ImageFile(path=path, stamp=FileStamp.of(status))

    def _walk(self, root: bytes) -> None:
        # With an explicit stack, as folders nest deeper than Python recurses. Links come last, in a fixed order, and
        # lead to no folder that was searched already: there may be more ways through them than can ever be gone.
        stack, links = [root], list[tuple[int, bytes]]()
        searched: set[tuple[int, int]] = set()
        is_behind_link = False
        n_above = len(os.path.join(root, b""))
        while stack or links:
            if not stack:
                is_behind_link = True
                stack.append(heappop(links)[1])
            folder = stack.pop()
            try:
                if self._follow:
                    status = os.stat(folder)
                    if is_behind_link and (status.st_dev, status.st_ino) in searched:
                        continue
                    searched.add((status.st_dev, status.st_ino))
                with os.scandir(folder) as entries:
                    listed = list(entries)
            except OSError as error:
                self.found.some_vanished |= isinstance(error, FileNotFoundError)
                self._miss(folder, error)
                continue
            for entry in listed:
                try:
                    if not self._visit(entry, os.fsdecode(entry.path[n_above:])):
                        continue
                    if entry.is_symlink():
                        heappush(links, (entry.path.count(b"/"), entry.path))
                    else:
                        stack.append(entry.path)
                except OSError as error:
                    # A file that was listed and is not there was deleted just now, or the drive was unplugged. A file
                    # that is deleted for good is not listed the next time. A link may lead to an unplugged drive.
                    self.found.some_vanished |= isinstance(error, FileNotFoundError) and not entry.is_symlink()
                    self._miss(entry.path, error)
            self._progress.advance(len(self.files) - self._n_reported)
            self._n_reported = len(self.files)

    def _visit(self, entry: os.DirEntry[bytes], relative: str) -> bool:
        """Keep a picture; return whether it is a folder that is to be searched."""
        is_skipped = entry.name.startswith(b".") and not self._hidden
        if is_skipped or (entry.is_symlink() and not self._follow):
            return False
        if entry.is_dir():
            if self._excluded(relative, True):
                return False
            if entry.is_symlink() and _leads_back(entry.path, relative):
                hint = "remove the link or leave it out with --exclude"
                self.found.failures.append(SourceError("link to a folder above it", path=entry.path, hint=hint))
                return False
            return True
        suffix = os.path.splitext(entry.name)[1].lower()
        is_picture = suffix in self._suffixes
        is_broken = not is_picture and entry.is_symlink() and not os.path.exists(entry.path)  # perhaps of a folder
        if self._excluded(relative, is_broken):
            return False
        if not (is_picture or is_broken):
            self._skip(entry, self._kind_of_skipped(suffix))
        else:
            status = entry.stat()
            if stat.S_ISREG(status.st_mode):
                self.files[entry.path] = ImageFile(path=entry.path, stamp=FileStamp.of(status))
        return False

    def _skip(self, entry: os.DirEntry[bytes], kind: str) -> None:
        if kind == "archive":  # which may be a source itself
            self.archives.add(entry.path)
        elif entry.is_file():
            self.found.skipped[kind] += 1

    def _miss(self, path: bytes, problem: str | OSError, *, name: bytes | None = None, **details: Any) -> None:
        if isinstance(problem, PermissionError):
            details["hint"] = "check its permissions"
        if isinstance(problem, FileNotFoundError):
            problem = "no such file or folder"
        elif isinstance(problem, OSError):
            details["found"], problem = problem.strerror, "cannot be read"
        self.found.missing.append(path)
        self.found.failures.append(SourceError(problem, path=name or path, **details))


def _leads_back(link: bytes, relative: str) -> bool:
    """Whether a link to a folder leads to the source or to a folder between the source and the link."""
    above = Path(os.fsdecode(link)).parents[: relative.count("/") + 1]
    return any(os.path.samefile(link, folder) for folder in above)
