"""Files: opened without blocking, compared by their stamps, replaced atomically, locked while they are written."""

from __future__ import annotations

import os
import pickle  # for the name of its error alone: nothing is ever unpickled
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from drhn_cli.errors import AnyPath, DrhnError, printable
from drhn_cli.progress import SILENT, Progress

CORRUPT: tuple[type[Exception], ...] = (
    *(ValueError, TypeError, LookupError, AttributeError, EOFError, SyntaxError, MemoryError, OverflowError),
    *(RuntimeError, zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, pickle.UnpicklingError),
)
"""What zipfile, numpy, json and torch raise on corrupt input. Errors of the system are not among them."""

_HEAD_BYTES = 2048
_MAX_UINT64 = 2**64 - 1


def _within_int64(value: int) -> int:
    return max(-(2**63), min(value, 2**63 - 1))


class FileStamp(NamedTuple):
    """What the file system says of a file, which shows whether it may have changed.

    Attributes:
        size: bytes.
        mtime_ns: time of the last change of its content, nanoseconds since 1970.
        inode: the file's number on its device; 0 where unknown. For an archive member a checksum: in the upper 32 bits
            of archive size and member offset, in the lower 32 bits of the archive's inode.
        ctime_ns: time of the last change of the file or its status, nanoseconds since 1970; 0 where unknown.
        device: number of the device; 0 where unknown. Many devices get another number at every mount.
    """

    size: int
    mtime_ns: int
    inode: int = 0
    ctime_ns: int = 0
    device: int = 0

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Make the stamp of a file from its status. Dates are clamped to 1677..2262, which int64 holds."""
        return cls(
            size=status.st_size,
            mtime_ns=_within_int64(status.st_mtime_ns),
            inode=status.st_ino & _MAX_UINT64,
            ctime_ns=_within_int64(status.st_ctime_ns),
            device=status.st_dev & _MAX_UINT64,
        )

    @property
    def identity(self) -> tuple[int, int] | None:
        """Device and inode, which all paths that lead to one file share; None where one of them is unknown."""
        return (self.device, self.inode) if self.device and self.inode else None

    def is_same(self, other: FileStamp) -> bool:
        """Return whether the file has not changed: its size, times and inode agree, as far as both are known."""
        return self.may_be_same(other) and all(
            a == b or not a or not b for a, b in ((self.inode, other.inode), (self.ctime_ns, other.ctime_ns))
        )

    def may_be_same(self, other: FileStamp) -> bool:
        """Return whether size and time agree, as those of a copy do, or of another file that was given this time."""
        return (self.size, self.mtime_ns) == (other.size, other.mtime_ns)


@contextmanager
def os_errors(
    error_type: type[DrhnError],
    problem: str,
    *,
    path: AnyPath | None = None,
    expected: str | None = None,
    hint: str | None = None,
    absent: DrhnError | None = None,
) -> Iterator[None]:
    """Translate an ``OSError`` of the block to a ``DrhnError``, and a missing file to ``absent`` if that is given."""
    try:
        yield
    except OSError as error:
        if absent is not None and isinstance(error, FileNotFoundError):
            raise absent from error
        found = error.strerror or str(error)
        raise error_type(problem, path=path, expected=expected, found=found, hint=hint) from error


def open_nonblocking(path: AnyPath) -> int:
    """Return a file descriptor for reading. Unlike ``open``, this does not wait for the writer of a FIFO."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))


def open_regular(path: AnyPath) -> BinaryIO | None:
    """Open a file for reading; return None for a pipe or a device. A folder is an ``OSError``, as for ``open``."""
    stream = os.fdopen(open_nonblocking(path), "rb")
    if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        return stream
    stream.close()
    return None


def read_head(path: AnyPath, what: str) -> bytes:
    """Return the first 2,048 bytes of the file that will be replaced; none if there is none.

    ``what`` is the kind of the new file, for messages.

    Raises:
        DrhnError: it cannot be read, or there is no such folder.
    """
    folder = os.path.dirname(os.fsencode(path)) or b"."
    if not os.path.isdir(folder):
        raise DrhnError(f"cannot write the {what}", path=path, found="no such folder", hint="make the folder first")
    if not os.path.isfile(path):
        return b""
    with os_errors(DrhnError, f"cannot write the {what}", path=path), open(path, "rb") as stream:
        return stream.read(_HEAD_BYTES)


def refuse_overwrite(path: AnyPath, what: str, is_ours: Callable[[bytes], bool]) -> None:
    """Refuse to replace a file of another kind, a photograph perhaps. An empty file may be replaced.

    ``is_ours`` tells from the first 2,048 bytes whether a file is of this kind.

    Raises:
        DrhnError: another file is there, or it cannot be read; or there is no such folder.
    """
    head = read_head(path, what)
    if head and not is_ours(head):
        hint = "remove it, or choose another name"
        raise DrhnError(f"another file is in the place of the {what}", path=path, hint=hint)


@contextmanager
def atomic_write(path: AnyPath) -> Iterator[BinaryIO]:
    """Yield a binary stream that replaces the file ``path`` when the block ends, and is discarded when it raises.

    A crash at any moment leaves the old file or the new one. If ``path`` is a symbolic link, its target is replaced.
    Permissions are kept where the file system has them, but for setuid and setgid; while it is written the file is
    never open to more people than the one that it replaces. The steps are those of SQLite's atomic commit
    (https://sqlite.org/atomiccommit.html).

    Raises:
        OSError: no space, no permission, not a regular file; the old file is unchanged.
    """
    target = Path(os.path.realpath(os.fsdecode(path)))
    mode = None
    with suppress(FileNotFoundError):
        mode = target.stat().st_mode
    if mode is not None and not stat.S_ISREG(mode):
        raise OSError(None, "a folder, pipe or device is in its place")
    temporary = target.with_name(_temporary_name(target, os.urandom(8).hex()))
    try:
        # os.open and not tempfile: a new file gets the permissions that the umask gives, not those of a secret.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        permissions = 0o666 if mode is None else mode & 0o777
        with os.fdopen(os.open(temporary, flags, permissions), "w+b") as stream:
            if mode is not None:
                with suppress(OSError):  # FAT, exFAT and shares of other systems refuse
                    temporary.chmod(permissions)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        # After a successful rename there is nothing to remove. An error here would hide the original one.
        with suppress(OSError):
            temporary.unlink()
    _sync_directory(target.parent)


def remove_leftovers(path: AnyPath) -> None:
    """Remove the temporary files of killed writers of ``path``. Only for a caller that holds its lock."""
    target = Path(os.path.realpath(os.fsdecode(path)))
    for leftover in target.parent.glob(_temporary_name(target, "*")):
        with suppress(OSError):  # it does no harm
            leftover.unlink()


def _temporary_name(target: Path, token: str) -> str:
    """Return a hidden name with a checksum of the target's name, which may have all of the 255 bytes of a name."""
    return f".drhn-{zlib.crc32(os.fsencode(target.name)):08x}-{token}.tmp"


def _sync_directory(directory: Path) -> None:
    """Fsync the folder, so the rename survives a power cut. Windows cannot."""
    # The new file is in place, so an error here would be misleading.
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def lock_file(
    path: AnyPath, what: str, error_type: type[DrhnError], timeout_seconds: float = 0.0, *, progress: Progress = SILENT
) -> Iterator[None]:
    """Hold the lock of a file, which need not exist yet, and remove the temporary files of killed writers.

    Readers need no lock, because files are replaced atomically. A caller that changes a file holds the lock from
    reading to writing.

    Args:
        path: the file; a symbolic link shares the lock of its target.
        what: its kind, for messages.
        error_type: of the errors.
        timeout_seconds: how long to wait for another writer; forever if negative.
        progress: gets a note if another writer has to be waited for.

    Raises:
        DrhnError: of ``error_type``: another writer still holds it, or the lock file cannot be made beside the file.
    """
    from filelock import FileLock, Timeout  # takes 10 ms to import, which readers do not need

    target = Path(os.path.realpath(os.fsdecode(path)))
    if not os.path.isdir(target.parent):  # filelock would make it, even if its name is a typing error
        raise error_type(f"cannot lock the {what}", path=path, found="no such folder", hint="make the folder first")
    if not target.name:
        raise error_type(f"a folder is no {what}", path=path, hint="name a file in it")
    lock_path = _lock_path(target)
    is_new = not lock_path.exists()
    lock = FileLock(lock_path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if timeout_seconds == 0:
                raise
            progress.note(f"{printable(path)}: waiting for another drhn, which is writing it")
            lock.acquire(timeout=timeout_seconds)
    except Timeout as error:
        hint = "wait for it to end, or name another file with -o"
        raise error_type(f"another drhn is writing this {what}", path=path, hint=hint) from error
    except (OSError, NotImplementedError) as error:
        found, hint = getattr(error, "strerror", None) or str(error), "write to a folder where files can be made"
        raise error_type(f"cannot lock the {what}", path=path, found=found, hint=hint) from error
    try:
        remove_leftovers(target)
        yield
    finally:
        # The lock file stays, unless a run fails before it has created the file. It is removed while it is held: a
        # filelock that waits for it notices, and retries.
        if is_new and not target.exists():
            with suppress(OSError):  # Windows removes no open file
                lock_path.unlink()
        lock.release()


def _lock_path(target: Path) -> Path:
    name = f".{target.name}.lock"
    if len(os.fsencode(name)) > 255:  # longer than a name may be
        name = f".drhn-{zlib.crc32(os.fsencode(target.name)):08x}.lock"
    return target.with_name(name)
