"""Find the pictures in files and folders, without opening any."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BufferedIOBase
from itertools import accumulate
from typing import BinaryIO, NamedTuple, cast

from drhn_cli.errors import AnyPath, DrhnError, SourceError, printable
from drhn_cli.files import FileStamp
from drhn_cli.images.formats import picture_suffixes
from drhn_cli.images.globs import compile_excludes
from drhn_cli.images.source import ImageFile, archive_of, hint_for_absent, list_archive
from drhn_cli.paths import absolute_path
from drhn_cli.progress import SILENT, Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class FindResult:
    """What ``find_images`` found.

    Attributes:
        files: sorted by path bytes, each path once.
        failures: what could not be looked at, in the order met.
        archives: the sources that are tar archives, sorted; ``find_members`` looks into one.
        missing: absolute paths of sources and folders that are not there or cannot be listed. What was known of their
            pictures may still be true.
        some_vanished: a file or folder vanished between being listed and being looked at, as on an unplugged drive.
    """

    files: Sequence[ImageFile] = field(default_factory=list)
    failures: list[DrhnError] = field(default_factory=list)
    archives: list[bytes] = field(default_factory=list)
    missing: list[bytes] = field(default_factory=list)
    some_vanished: bool = False


_COMPRESSED_NAME = re.compile(rb"\.(gz|bz2|xz|zst|lz4|t[gbx]z2?|zip|7z|rar)$", re.IGNORECASE)


class _Folder(NamedTuple):
    path: bytes
    relative: str  # to the source, with a trailing "/" unless it is the source
    status: os.stat_result
    parent: _Folder | None

    def is_inside(self, status: os.stat_result) -> bool:
        """Whether the folder with this status is this one or an ancestor of it."""
        folder: _Folder | None = self
        while folder is not None:
            if os.path.samestat(folder.status, status):
                return True
            folder = folder.parent
        return False


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
    search = _Search(exclude=exclude, hidden=hidden, follow=follow, progress=progress)
    for source in sources:
        search.add(source)
    return search.result()


def find_members(archive: bytes, *, exclude: Sequence[str] = (), hidden: bool = False) -> FindResult:
    """Find the pictures in a tar archive, as ``find_images`` does in a folder. Only headers are read.

    The files are in the order of the archive; of a name that is there twice the last one counts. A member with a
    picture's name that is no regular file below the archive is a failure. So is a damaged archive, and it is missing,
    too, as nothing is known of what comes after the damage.
    """
    suffixes, excluded = picture_suffixes(), compile_excludes(exclude)
    files: dict[bytes, ImageFile] = {}
    failures: list[DrhnError] = []
    missing = []
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
                failures.append(file)
            else:
                files[file.path] = file
    except SourceError as error:
        failures.append(error)
        missing.append(archive)
    return FindResult(files=list(files.values()), failures=failures, missing=missing)


def read_path_list(stream: BinaryIO, *, null: bool) -> Iterator[bytes]:
    r"""Read paths from a list such as ``find`` prints.

    Empty entries are skipped. In lines, one ``\r`` before the ``\n`` is dropped, as lists made on Windows have it and
    names on Unix hardly ever end so; a name that holds ``\n`` or ends in ``\r`` needs ``null``, which keeps every byte.

    Args:
        stream: the list; read as it is needed, never whole.
        null: entries end with a NUL byte (``find -print0``) rather than a newline.

    Yields:
        One path each, as written.
    """
    if null:
        yield from _split_at_nul(stream)
        return
    for line in stream:
        path = line.removesuffix(b"\n").removesuffix(b"\r")
        if path:
            yield path


def _split_at_nul(stream: BinaryIO) -> Iterator[bytes]:
    begun: list[bytes] = []  # joined once a path is whole: adding to bytes would be quadratic where no NUL comes
    # What is there, and no waiting for more: who writes the list may wait for the answer to its last path.
    while block := cast("BufferedIOBase", stream).read1(1 << 16):
        first, *others = block.split(b"\0")
        begun.append(first)
        if others:
            yield from (path for path in (b"".join(begun), *others[:-1]) if path)
            begun = [others[-1]]
    if last := b"".join(begun):
        yield last


class _Search:
    """One run of ``find_images``: the rules, and what has been found so far."""

    def __init__(self, *, exclude: Sequence[str], hidden: bool, follow: bool, progress: Progress) -> None:
        self._excluded = compile_excludes(exclude)
        self._hidden = hidden
        self._follow = follow
        self._progress = progress
        self._n_told = 0
        self._suffixes = picture_suffixes()
        self._files: dict[bytes, ImageFile] = {}
        self._failures: list[DrhnError] = []
        self._archives: set[bytes] = set()
        self._missing: list[bytes] = []
        self._some_vanished = False

    def result(self) -> FindResult:
        files = sorted(self._files.values(), key=lambda file: file.path)
        return FindResult(
            files=files,
            failures=self._failures,
            archives=sorted(self._archives),
            missing=self._missing,
            some_vanished=self._some_vanished,
        )

    def add(self, source: AnyPath) -> None:
        raw = os.fsencode(source)
        if not raw or b"\0" in raw:
            hint = "use -0 if the list of files is NUL-separated" if raw else None
            self._failures.append(SourceError("not a path", path=raw or None, expected="a file or folder", hint=hint))
            return
        path = absolute_path(raw)
        try:
            status = os.stat(path)
        except OSError as error:
            self._missing.append(path)
            archive = archive_of(path)
            hint = f"name the archive, {printable(archive)}" if archive else hint_for_absent(raw)
            self._fail(raw if hint else path, error, hint=hint)
            return
        if stat.S_ISDIR(status.st_mode):
            self._walk(_Folder(path, "", status, None))
        elif stat.S_ISREG(status.st_mode) and path.lower().endswith(b".tar"):
            self._archives.add(path)
        elif stat.S_ISREG(status.st_mode) and _COMPRESSED_NAME.search(path):
            problem, expected = "compressed", "a folder, a picture or a plain tar archive"
            hint = "unpack it first: nothing inside could be read on its own"
            self._failures.append(SourceError(problem, path=path, expected=expected, hint=hint))
            self._missing.append(path)
        elif stat.S_ISREG(status.st_mode):
            self._keep(path, status)
        else:
            self._failures.append(SourceError("not a regular file", path=path, expected="a file or folder"))
            self._missing.append(path)

    def _walk(self, root: _Folder) -> None:
        # A stack of its own: folders nest deeper than Python recurses.
        stack = [root]
        while stack:
            folder = stack.pop()
            try:
                with os.scandir(folder.path) as entries:
                    listed = list(entries)
            except OSError as error:
                self._lose(folder.path, error, vanished=isinstance(error, FileNotFoundError))
                continue
            for entry in listed:
                if entry.name.startswith(b".") and not self._hidden:
                    continue
                try:
                    inner = self._visit(folder, entry)
                except OSError as error:
                    # What was listed and is not there was deleted just now, or the drive was unplugged; a link may lead
                    # to one that is. What is really gone is not listed the next time.
                    is_gone = isinstance(error, FileNotFoundError) and not entry.is_symlink()
                    self._lose(entry.path, error, vanished=is_gone)
                    continue
                if inner is not None:
                    stack.append(inner)
            self._progress.advance(len(self._files) - self._n_told)
            self._n_told = len(self._files)

    def _visit(self, folder: _Folder, entry: os.DirEntry[bytes]) -> _Folder | None:
        """Keep a picture; return a folder that is to be searched."""
        if entry.is_symlink() and not self._follow:
            return None
        relative = folder.relative + os.fsdecode(entry.name)
        if entry.is_dir():
            if self._excluded(relative, True):
                return None
            status = entry.stat()
            if entry.is_symlink() and folder.is_inside(status):
                hint = "remove the link or leave it out with --exclude"
                self._failures.append(SourceError("link to a folder above it", path=entry.path, hint=hint))
                return None
            return _Folder(entry.path, f"{relative}/", status, folder)
        is_picture = os.path.splitext(entry.name)[1].lower() in self._suffixes
        leads_nowhere = not is_picture and entry.is_symlink() and not os.path.exists(entry.path)  # to a folder, perhaps
        if not (is_picture or leads_nowhere) or self._excluded(relative, leads_nowhere):
            return None
        status = entry.stat()
        if stat.S_ISREG(status.st_mode):
            self._keep(entry.path, status)
        return None

    def _keep(self, path: bytes, status: os.stat_result) -> None:
        self._files[path] = ImageFile(path=path, stamp=FileStamp.of(status))

    def _lose(self, path: bytes, error: OSError, *, vanished: bool) -> None:
        self._missing.append(path)
        self._some_vanished = self._some_vanished or vanished
        self._fail(path, error)

    def _fail(self, path: bytes, error: OSError, *, hint: str | None = None) -> None:
        problem = "no such file or folder" if isinstance(error, FileNotFoundError) else "cannot be read"
        found = None if isinstance(error, FileNotFoundError) else error.strerror
        hint = "check its permissions" if isinstance(error, PermissionError) else hint
        self._failures.append(SourceError(problem, path=path, found=found, hint=hint))
