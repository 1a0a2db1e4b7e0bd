"""A picture as one value, whether it is a file or in a tar archive, and how its bytes are read. Needs no Pillow."""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, BinaryIO, TypeVar
from zlib import crc32

from drhn_cli.errors import AnyPath, ImageError, SourceError, about
from drhn_cli.files import FileStamp, open_regular, os_errors
from drhn_cli.paths import absolute_path

if TYPE_CHECKING:
    from drhn_cli.images.archive import TarMember

MAX_BYTES = 2 << 30
"""The longest picture that is read. It is in memory before it is decoded, so that no program can cut it meanwhile."""

MAX_PATH_BYTES = 4095
"""The longest path, and so the longest name of a member of an archive."""

MAX_STREAM_BYTES = 1 << 29
"""The longest picture that is read from a stream, which does not say its length."""

_T = TypeVar("_T")

_URL = re.compile(rb"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_ARCHIVE_NAME = re.compile(rb"\.tar(?=[/%s])" % re.escape(os.sep.encode()), re.IGNORECASE)
_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
_STREAM_HINT = "write it to a file, or pipe it in and name it -"
_listing = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFile:
    """A picture file, or a tar archive of them, as it was when it was found.

    Attributes:
        path: absolute; a symbolic link keeps its own name. A member of an archive has the archive's path, a slash, and
            its name inside.
        stamp: by which a later run recognizes the file. A member has its own size, and the times and the device of the
            archive.
        archive: the archive that it is a member of.
        offset: where its content begins in the archive, in bytes.
    """

    path: bytes
    stamp: FileStamp
    archive: ImageFile | None = None
    offset: int = 0

    def is_unchanged(self) -> bool:
        """Whether the file, or its archive, is still there and as it was when it was found."""
        file = self.archive or self
        with suppress(OSError):
            return FileStamp.of(os.stat(file.path)).may_be_same(file.stamp)
        return False

    def read(self) -> bytes:
        """Return the bytes of the file, at least 1 and at most ``MAX_BYTES``."""
        file = self.archive or self
        with about(file.path if self.archive else None), _opening():
            _regular_file(file.path)
            stream = open_regular(file.path)
            if stream is None:  # a FIFO or device has taken its place meanwhile
                raise ImageError("not a regular file", expected="a picture file", hint=_STREAM_HINT)
        with stream:
            stamp = FileStamp.of(os.fstat(stream.fileno()))
            if self.archive is None:
                return _read(stream, stamp.size)
            if not stamp.may_be_same(self.archive.stamp):
                raise ImageError("its archive has changed meanwhile", hint="run the same command again")
            stream.seek(self.offset)
            return _read(stream, self.stamp.size)


ImageSource = ImageFile | AnyPath | BinaryIO
"""A picture that was found, a path (perhaps into an archive), or a stream such as stdin."""


def read_source(source: ImageSource, head: bytes = b"") -> bytes:
    """Return the bytes of a picture. A stream, of which ``head`` was read, is read to its end and left open."""
    if isinstance(source, str | bytes | os.PathLike):
        source = locate(source)
    return source.read() if isinstance(source, ImageFile) else _read_stream(source, head)


def digest_of(data: bytes) -> bytes:
    """Return 16 bytes that only equal content has: the first half of its SHA-256.

    Processors have instructions for it, so it takes half the time of BLAKE2b. SHA-1 is a tenth faster, but files of
    different content with one digest have been made.
    """
    from hashlib import sha256  # two milliseconds that most queries do without

    return sha256(data, usedforsecurity=False).digest()[:16]


def or_error(load: Callable[[ImageSource], _T], source: ImageSource) -> _T | ImageError:
    """Return what ``load`` makes of a picture, or its error where the picture cannot be read."""
    try:
        return load(source)
    except ImageError as error:
        return without_frames(error)


def without_frames(error: ImageError) -> ImageError:
    """Drop the tracebacks, which would keep half-decoded pictures alive for as long as the error is kept."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def source_name(source: ImageSource) -> AnyPath | None:
    """Return what messages call a picture, if it has a name."""
    if isinstance(source, str | bytes | os.PathLike):
        return source
    name = source.path if isinstance(source, ImageFile) else getattr(source, "name", None)
    return name if isinstance(name, str | bytes) else None


def locate(path: AnyPath) -> ImageFile:
    """Find the picture that a path leads to, which may lie in an archive. The path is made absolute here, once.

    Raises:
        ImageError: there is no such file, it is not a regular one, or its archive does not hold it.
    """
    absolute = absolute_path(path)
    archive = archive_of(absolute)
    with about(path):
        if archive is None:
            return _regular_file(absolute, hint_for_absent(path))
        with about(archive):
            archive_file = _regular_file(archive)
        with _listing:  # otherwise all threads that make thumbnails would list the same archive
            files, damage = _files_of(archive_file)
        if absolute not in files:
            found, hint = (damage.problem, damage.hint) if damage else (None, None)
            raise ImageError("not in its archive, or no file there", found=found, hint=hint or "check the path")
        return files[absolute]


def archive_of(path: bytes) -> bytes | None:
    """Return the archive that a path leads into: the first part of it that ends in ``.tar`` and is a file.

    A broken link counts, too: it may lead to an archive on a drive that is not mounted.
    """
    for match in _ARCHIVE_NAME.finditer(path):
        part = path[: match.end()]
        if os.path.isfile(part) or (os.path.islink(part) and not os.path.exists(part)):
            return part
    return None


def is_there(path: bytes) -> bool:
    """Whether a file of this absolute path exists, or the archive that the path leads into."""
    return os.path.lexists(path) or archive_of(path) is not None


def is_gone(path: bytes) -> bool:
    """Whether no file of this absolute path exists, neither on disk nor in an archive."""
    with suppress(ImageError):
        return not (os.path.lexists(path) or locate(path))
    return True


def is_empty_archive(path: bytes) -> bool:
    """Whether an archive can be read and holds nothing but folders."""
    with suppress(SourceError):
        return next(list_archive(path), None) is None
    return False


def list_archive(archive: bytes) -> Iterator[tuple[TarMember, ImageFile | SourceError]]:
    """Yield the members of an archive except folders, each with its file or the reason why it has none."""
    from drhn_cli.images.archive import read_members  # imports tarfile, which few pictures need

    with about(archive), os_errors(SourceError, "cannot be read", path=archive), open(archive, "rb", 0) as stream:
        archive_file = ImageFile(path=archive, stamp=FileStamp.of(os.fstat(stream.fileno())))
        for member in read_members(stream):
            if member.kind != "a folder":
                yield member, _member_file(member, archive_file)


def hint_for_absent(path: AnyPath) -> str | None:
    """Return what to do about a path that does not exist, if it is a URL or ``-``; else None."""
    raw = os.fsencode(path)
    if raw == b"-":
        return "a list of paths on stdin is read with --files-from -"
    if raw.lower().startswith(b"file:/"):
        return "leave file:// out"
    return "download it first: nothing is fetched from URLs" if _URL.match(raw) else None


@lru_cache(maxsize=4)
def _files_of(archive: ImageFile) -> tuple[dict[bytes, ImageFile], SourceError | None]:
    files: dict[bytes, ImageFile] = {}
    try:
        # Of a name that is there twice the last one counts, as for tar.
        files.update((file.path, file) for _, file in list_archive(archive.path) if isinstance(file, ImageFile))
    except SourceError as error:  # what came before the damage can be read
        return files, error
    return files, None


def _member_file(member: TarMember, archive: ImageFile) -> ImageFile | SourceError:
    problem = None
    if member.kind != "file":
        problem = f"{member.kind} in an archive"
    elif member.name.startswith(b"/") or b".." in member.parts:
        problem = "a name that leads out of its archive"
    elif b"\0" in member.name or len(member.name) > MAX_PATH_BYTES or not member.parts:
        problem = "a name that no file has"
    if problem is not None:
        raw = archive.path + b"/" + member.name[:MAX_PATH_BYTES]
        return SourceError(problem, path=raw, expected="a regular file below the archive")
    path = os.fsencode(os.sep).join([archive.path, *member.parts])
    if len(path) > MAX_PATH_BYTES:
        return SourceError("a name that no file has", path=archive.path, found=f"a path of {len(path)} bytes")
    inode = crc32(b"%d %d" % (archive.stamp.size, member.offset)) << 32 | crc32(b"%d" % archive.stamp.inode)
    stamp = archive.stamp._replace(size=member.size, inode=inode)
    return ImageFile(path=path, stamp=stamp, archive=archive, offset=member.offset)


def _regular_file(path: bytes, hint: str | None = None) -> ImageFile:
    """Return a regular file, which is not opened: opening a device may do something."""
    with _opening(hint):
        status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise ImageError("is a folder", expected="a picture file", hint="name a picture inside it")
    if not stat.S_ISREG(status.st_mode):
        found = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise ImageError("not a regular file", expected="a picture file", found=found, hint=_STREAM_HINT)
    return ImageFile(path=path, stamp=FileStamp.of(status))


@contextmanager
def _opening(hint: str | None = None) -> Iterator[None]:
    """Raise an ``ImageError`` for an error of the system."""
    try:
        yield
    except FileNotFoundError as error:
        raise ImageError("no such file", hint=hint or "check the path; it may have been moved") from error
    except PermissionError as error:
        raise ImageError("may not be read", hint="check its permissions") from error
    except OSError as error:
        raise ImageError("cannot be opened", found=error.strerror, hint="check the path") from error
    except ValueError as error:  # a NUL in the path
        hint = "use -0 if the list of files is NUL-separated"
        raise ImageError("cannot be opened", found=str(error), hint=hint) from error


def _read_stream(stream: BinaryIO, head: bytes) -> bytes:
    data = head + stream.read(MAX_STREAM_BYTES + 1 - len(head))
    _refuse_length(len(data), MAX_STREAM_BYTES)
    return data


def _read(stream: BinaryIO, n_bytes: int) -> bytes:
    """Return ``n_bytes`` of a file, or fewer where it ends before."""
    _refuse_length(n_bytes, MAX_BYTES)
    data = stream.read(n_bytes)
    _refuse_length(len(data), MAX_BYTES)  # it may have become empty meanwhile
    return data


def _refuse_length(n_bytes: int, limit: int) -> None:
    if n_bytes > limit:
        raise ImageError("too long for a picture", expected=f"at most {limit} bytes")
    if not n_bytes:
        raise ImageError("empty", expected="a picture", found="0 bytes", hint="copy or download it again")
