"""Open a picture file so that nothing can block, and say plainly what is wrong where it cannot be opened."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from drhn_cli.errors import AnyPath, ImageError
from drhn_cli.files import open_nonblocking
from drhn_cli.images.absent import hint_for_absent
from drhn_cli.images.packed import locate_packed, open_packed
from drhn_cli.images.source import PackedFile

PictureSource = AnyPath | BinaryIO | PackedFile
"""A file, also one in a tar archive, by its path or as it was found there; or a stream."""

# A picture on stdin is held in memory, as decoders seek; what runs on beyond this is no picture.
MAX_STREAM_BYTES = 1 << 30

_KINDS = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedPicture:
    """A picture's bytes.

    Attributes:
        stream: seekable, at its start.
        path: what errors call it, if it has a name.
        n_bytes: its length, at least 1.
    """

    stream: BinaryIO
    path: AnyPath | None
    n_bytes: int


@contextmanager
def open_picture(source: PictureSource) -> Iterator[OpenedPicture]:
    """Open a regular file, or take a stream, which is read to its end and left open.

    Raises:
        ImageError: it is not there, not a regular file, may not be read, or is empty; its archive is not what it was.
    """
    if isinstance(source, str | bytes | os.PathLike):
        source = locate_packed(source) or source
    if isinstance(source, PackedFile):
        with _open_file(source.archive) as archive:
            _refuse_empty(source.size, source.path)
            yield OpenedPicture(stream=open_packed(source, archive), path=source.path, n_bytes=source.size)
        return
    if not isinstance(source, str | bytes | os.PathLike):
        yield _read_stream(source)
        return
    with _open_file(source) as stream:
        status = os.fstat(stream.fileno())
        _refuse_irregular(status.st_mode, source)
        _refuse_empty(status.st_size, source)
        yield OpenedPicture(stream=stream, path=source, n_bytes=status.st_size)


def _read_stream(stream: BinaryIO) -> OpenedPicture:
    name = getattr(stream, "name", None)
    path = name if isinstance(name, str | bytes) else None
    data = stream.read(MAX_STREAM_BYTES + 1)
    if len(data) > MAX_STREAM_BYTES:
        raise ImageError("too long for a picture", path=path, expected=f"at most {MAX_STREAM_BYTES} bytes")
    _refuse_empty(len(data), path)
    return OpenedPicture(stream=io.BytesIO(data), path=path, n_bytes=len(data))


def _open_file(path: AnyPath) -> BinaryIO:
    # Looked at first, as opening a device may do something; a FIFO may still be swapped in since.
    try:
        _refuse_irregular(os.stat(path).st_mode, path)
        return os.fdopen(open_nonblocking(path), "rb")
    except FileNotFoundError as error:
        hint = hint_for_absent(path) or "check the path; it may have been moved"
        raise ImageError("no such file", path=path, hint=hint) from error
    except PermissionError as error:
        raise ImageError("may not be read", path=path, hint="check its permissions") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        found = error.strerror if isinstance(error, OSError) else str(error)
        hint = "check the path" if isinstance(error, OSError) else "use -0 if the list of files is NUL-separated"
        raise ImageError("cannot be opened", path=path, found=found, hint=hint) from error


def _refuse_irregular(mode: int, path: AnyPath) -> None:
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise ImageError("is a folder", path=path, expected="a picture file", hint="name a picture inside it")
    kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
    hint = "write it to a file, or pipe it in and name it -"
    raise ImageError("not a regular file", path=path, expected="a picture file", found=kind, hint=hint)


def _refuse_empty(n_bytes: int, path: AnyPath | None) -> None:
    if n_bytes == 0:
        hint = "copy or download it again"
        raise ImageError("empty", path=path, expected="a picture", found="0 bytes", hint=hint)
