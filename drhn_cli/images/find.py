"""Find the pictures in files and folders, without opening any."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from drhn_cli.errors import AnyPath, DrhnError, SourceError, printable
from drhn_cli.files import FileStamp
from drhn_cli.images.formats import picture_suffixes
from drhn_cli.images.globs import compile_excludes
from drhn_cli.images.source import ImageFile, archive_of, hint_for_absent, list_archive
from drhn_cli.paths import absolute_path
from drhn_cli.progress import SILENT, Progress

_COMPRESSED_NAME = re.compile(rb"\.(gz|bz2|xz|zst|lz4|t[gbx]z2?|zip|7z|rar)$", re.IGNORECASE)


@dataclass(kw_only=True, slots=True)
class FindResult:
    """What ``find_images`` found.

    Attributes:
        files: sorted by path bytes, each path once.
        failures: errors, in the order in which they occur.
        archives: the sources that are tar archives, sorted; ``find_members`` looks into one.
        missing: absolute paths of sources and folders that are not there or cannot be listed. The pictures below them
            may still exist.
        some_vanished: a file or folder vanished between being listed and being read, as on an unplugged drive.
    """

    files: Sequence[ImageFile] = field(default_factory=list)
    failures: list[DrhnError] = field(default_factory=list)
    archives: list[bytes] = field(default_factory=list)
    missing: list[bytes] = field(default_factory=list)
    some_vanished: bool = False


class _Folder(NamedTuple):
    path: bytes
    relative: str  # to the source, with a "/" at the end unless it is the source


def find_images(
    sources: Sequence[AnyPath],
    *,
    exclude: Sequence[str] = (),
    hidden: bool = False,
    follow: bool = False,
    progress: Progress = SILENT,
) -> FindResult:
    """Find the picture files in folders, at any depth, and those named one by one.

    In a folder a picture is a regular file with a suffix of ``picture_suffixes``, in any case. As in ripgrep and fd,
    dot files are skipped without ``hidden`` and symbolic links without ``follow``; a link that leads back to a folder
    above it is a failure. None of these rules, nor ``exclude``, applies to the sources themselves. FIFOs, sockets and
    devices are never opened. Archives among the sources are only listed: see ``find_members``.

    Args:
        sources: files and folders; relative ones are taken from the working directory.
        exclude: globs, see ``compile_excludes``.
        hidden: take files and folders whose name starts with a dot.
        follow: follow symbolic links inside folders.
        progress: is advanced by the files of each folder.
    """
    search = _Search(excluded=compile_excludes(exclude), hidden=hidden, follow=follow, progress=progress)
    for source in sources:
        search.add(source)
    search.found.files = sorted(search.files.values(), key=attrgetter("path"))
    search.found.archives = sorted(search.archives)
    return search.found


def find_members(archive: bytes, *, exclude: Sequence[str] = (), hidden: bool = False) -> FindResult:
    """Find the pictures in a tar archive, as ``find_images`` does in a folder. Only headers are read.

    The files are in the order of the archive; if a name occurs twice, the last one counts. A member with a
    picture's name that is no regular file below the archive is a failure. A damaged archive is in ``failures`` and
    ``missing``: the rest of it cannot be read.
    """
    suffixes, excluded = picture_suffixes(), compile_excludes(exclude)
    files: dict[bytes, ImageFile] = {}
    found = FindResult()
    try:
        for member, file in list_archive(archive):
            parts = [part for part in member.name.split(b"/") if part not in (b"", b".")]
            if not parts or os.path.splitext(parts[-1])[1].lower() not in suffixes:
                continue
            if not hidden and any(part.startswith(b".") and part != b".." for part in parts):
                continue
            names = list(accumulate(map(os.fsdecode, parts), "{}/{}".format))
            if any(excluded(name, name != names[-1]) for name in names):
                continue
            if isinstance(file, SourceError):
                found.failures.append(file)
            else:
                files[file.path] = file
    except SourceError as error:
        found.failures.append(error)
        found.missing.append(archive)
    found.files = list(files.values())
    return found


@dataclass(kw_only=True)
class _Search:
    """One run of ``find_images``: the rules, and what has been found so far."""

    excluded: Callable[[str, bool], bool]
    hidden: bool
    follow: bool
    progress: Progress
    suffixes: frozenset[bytes] = field(default_factory=picture_suffixes)
    files: dict[bytes, ImageFile] = field(default_factory=dict)
    archives: set[bytes] = field(default_factory=set)
    found: FindResult = field(default_factory=FindResult)
    n_reported: int = 0  # files that progress was advanced by

    def add(self, source: AnyPath) -> None:
        raw = os.fsencode(source)
        if not raw or b"\0" in raw:
            hint = "use -0 if the list of files is NUL-separated" if raw else None
            self._fail("not a path", path=raw or None, expected="a file or folder", hint=hint)
            return
        path = absolute_path(raw)
        try:
            status = os.stat(path)
        except OSError as error:
            archive = archive_of(path)
            hint = f"name the archive, {printable(archive)}" if archive else hint_for_absent(raw)
            self._miss(path, error, name=raw if hint else path, hint=hint)
            return
        if stat.S_ISDIR(status.st_mode):
            self._walk(_Folder(path, ""))
        elif not stat.S_ISREG(status.st_mode):
            self.found.missing.append(path)
            self._fail("not a regular file", path=path, expected="a file or folder")
        elif path.lower().endswith(b".tar"):
            self.archives.add(path)
        elif _COMPRESSED_NAME.search(path):
            self.found.missing.append(path)
            hint = "unpack it first: nothing inside could be read on its own"
            self._fail("compressed", path=path, expected="a folder, a picture or a plain tar archive", hint=hint)
        else:
            self._keep(path, status)

    def _walk(self, root: _Folder) -> None:
        # With an explicit stack, as folders nest deeper than Python recurses.
        stack = [root]
        while stack:
            folder = stack.pop()
            try:
                with os.scandir(folder.path) as entries:
                    listed = list(entries)
            except OSError as error:
                self.found.some_vanished |= isinstance(error, FileNotFoundError)
                self._miss(folder.path, error)
                continue
            for entry in listed:
                if entry.name.startswith(b".") and not self.hidden:
                    continue
                try:
                    stack.extend(self._visit(folder, entry))
                except OSError as error:
                    # A file that was listed and is not there was deleted just now, or the drive was unplugged. A file
                    # that is deleted for good is not listed the next time. A link may lead to an unplugged drive.
                    self.found.some_vanished |= isinstance(error, FileNotFoundError) and not entry.is_symlink()
                    self._miss(entry.path, error)
            self.progress.advance(len(self.files) - self.n_reported)
            self.n_reported = len(self.files)

    def _visit(self, folder: _Folder, entry: os.DirEntry[bytes]) -> list[_Folder]:
        """Keep a picture; return the folder that is to be searched, if it is one."""
        if entry.is_symlink() and not self.follow:
            return []
        relative = folder.relative + os.fsdecode(entry.name)
        if entry.is_dir():
            if self.excluded(relative, True):
                return []
            if entry.is_symlink() and _leads_back(entry.path, relative):
                hint = "remove the link or leave it out with --exclude"
                self._fail("link to a folder above it", path=entry.path, hint=hint)
                return []
            return [_Folder(entry.path, f"{relative}/")]
        is_picture = os.path.splitext(entry.name)[1].lower() in self.suffixes
        is_broken = not is_picture and entry.is_symlink() and not os.path.exists(entry.path)  # perhaps of a folder
        if (is_picture or is_broken) and not self.excluded(relative, is_broken):
            status = entry.stat()
            if stat.S_ISREG(status.st_mode):
                self._keep(entry.path, status)
        return []

    def _keep(self, path: bytes, status: os.stat_result) -> None:
        self.files[path] = ImageFile(path=path, stamp=FileStamp.of(status))

    def _miss(self, path: bytes, error: OSError, *, name: bytes | None = None, hint: str | None = None) -> None:
        self.found.missing.append(path)
        if isinstance(error, FileNotFoundError):
            self._fail("no such file or folder", path=name or path, hint=hint)
        else:
            hint = "check its permissions" if isinstance(error, PermissionError) else hint
            self._fail("cannot be read", path=name or path, found=error.strerror, hint=hint)

    def _fail(self, problem: str, **details: Any) -> None:
        self.found.failures.append(SourceError(problem, **details))


def _leads_back(link: bytes, relative: str) -> bool:
    """Whether a link to a folder leads to the source or to a folder between the source and the link."""
    above = Path(os.fsdecode(link)).parents[: relative.count("/") + 1]
    return any(os.path.samefile(link, folder) for folder in above)
