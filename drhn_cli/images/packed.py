"""Pictures in tar archives, as paths: ``shard.tar/name``. This needs no Pillow."""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO
from zlib import crc32

from drhn_cli.errors import AnyPath, ImageError, SourceError
from drhn_cli.files import os_errors
from drhn_cli.images.source import PackedFile
from drhn_cli.paths import absolute_path

if TYPE_CHECKING:
    from drhn_cli.images.archive import TarMember

_ARCHIVE_NAME = re.compile(rb"\.tar(?=[/%s])" % re.escape(os.sep.encode()), re.IGNORECASE)
_MAX_NAME_BYTES = 4096
_lock = threading.Lock()


def archive_of(path: bytes) -> bytes | None:
    """Return the archive that a path leads into: a part of it that is named ``.tar`` and is a file.

    Or a link to nothing, as to an archive on a drive that is not plugged in.
    """
    for match in _ARCHIVE_NAME.finditer(path):
        part = path[: match.end()]
        if os.path.isfile(part) or (os.path.islink(part) and not os.path.exists(part)):
            return part
    return None


def is_there(path: bytes) -> bool:
    """Tell whether there is a file of this path, or the archive that it leads into."""
    return os.path.lexists(path) or archive_of(path) is not None


def is_gone(path: bytes) -> bool:
    """Tell whether there is no file of this path, neither by itself nor in an archive."""
    if os.path.lexists(path):
        return False
    try:
        return locate_packed(path) is None
    except ImageError:
        return True


def is_empty_archive(path: bytes) -> bool:
    """Tell whether an archive can be read and holds nothing but folders."""
    try:
        return next(list_members(path), None) is None
    except SourceError:
        return False


def list_members(archive: bytes) -> Iterator[tuple[TarMember, PackedFile | SourceError]]:
    """Yield each member of an archive but folders, and what it is as a file, or why it is none.

    Raises:
        SourceError: see ``read_members``; also where the archive cannot be opened.
    """
    from drhn_cli.images.archive import read_members  # brings tarfile, which few pictures need

    with os_errors(SourceError, "cannot be read", path=archive), open(archive, "rb", buffering=0) as stream:
        status = os.fstat(stream.fileno())
        for member in read_members(stream, status.st_size, archive):
            if member.kind != "a folder":
                yield member, _as_file(member, archive, status)


def locate_packed(path: AnyPath) -> PackedFile | None:
    """Find what a path into an archive leads to.

    Returns:
        None where the path leads into no archive.

    Raises:
        ImageError: the archive does not hold such a file.
    """
    absolute = absolute_path(path)
    archive = archive_of(absolute)
    if archive is None:
        return None
    try:
        status = os.stat(archive)
    except OSError:  # gone since: whoever opens it will say so
        return None
    with _lock:  # or all threads that make thumbnails would list the same archive
        files, damage = _files_of(archive, status.st_size, status.st_mtime_ns)
    if absolute not in files:
        found, hint = (damage.problem, damage.hint) if damage else (None, None)
        raise ImageError("not in its archive, or no file there", path=path, found=found, hint=hint or "check the path")
    return files[absolute]


@lru_cache(maxsize=4)
def _files_of(archive: bytes, _size: int, _mtime_ns: int) -> tuple[dict[bytes, PackedFile], SourceError | None]:
    files: dict[bytes, PackedFile] = {}
    try:
        # Of a name that is there twice the last one counts, as for tar.
        files.update((file.path, file) for _, file in list_members(archive) if isinstance(file, PackedFile))
    except SourceError as error:  # what came before the damage can be read
        return files, error
    return files, None


def open_packed(file: PackedFile, stream: BinaryIO) -> BinaryIO:
    """Return a file of an archive, open.

    Args:
        file: what was found.
        stream: the archive, opened again.

    Raises:
        ImageError: the archive is not what it was.
    """
    status = os.fstat(stream.fileno())
    if (status.st_size, status.st_mtime_ns) != (file.archive_size, file.mtime_ns):
        raise ImageError("its archive has changed meanwhile", path=file.path, hint="run the same command again")
    return io.BufferedReader(_Window(stream, file.offset, file.size))


def _as_file(member: TarMember, archive: bytes, status: os.stat_result) -> PackedFile | SourceError:
    parts = member.name.split(b"/")
    path = os.fsencode(os.sep).join([archive, *(part for part in parts if part not in (b"", b"."))])
    problem = None
    if member.kind != "file":
        problem = f"{member.kind} in an archive"
    elif member.name.startswith(b"/") or b".." in parts:
        problem = "a name that leads out of its archive"
    elif b"\0" in member.name or len(member.name) > _MAX_NAME_BYTES or path == archive:
        problem = "a name that no file has"
    if problem is not None:
        raw = archive + b"/" + member.name[:_MAX_NAME_BYTES]
        return SourceError(problem, path=raw, expected="a regular file below the archive")
    place = crc32(b"%d %d" % (status.st_size, member.offset))
    return PackedFile(
        path=path,
        size=member.size,
        mtime_ns=status.st_mtime_ns,
        inode=place << 32 | crc32(b"%d" % status.st_ino),
        archive=archive,
        archive_size=status.st_size,
        offset=member.offset,
    )


class _Window(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, stream: BinaryIO, start: int, size: int) -> None:
        self._stream = stream
        self._start = start
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError("before the start")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._stream.seek(self._start + self._at)
        data = self._stream.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
