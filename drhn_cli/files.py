"""Files: opened without waiting, known again, replaced whole or not at all, locked while they are written."""

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


class FileStamp(NamedTuple):
    """What the system says of a file, by which it is known again.

    Attributes:
        size: bytes.
        mtime_ns: time of the last change, nanoseconds since 1970.
        inode: the file's number on its device; 0 where unknown. Of a member of an archive the upper half tells its
            place in the archive and the archive's size, the lower half the archive's inode.
    """

    size: int
    mtime_ns: int
    inode: int = 0

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Make the stamp of a file from its status."""
        return cls(size=status.st_size, mtime_ns=status.st_mtime_ns, inode=status.st_ino)

    def is_same_content(self, other: FileStamp, *, in_archive: bool = False) -> bool:
        """Tell whether two stamps are of the same content, as far as can be seen.

        A copy keeps size and time but has an inode of its own. The copy of an archive keeps the places of its members.
        """
        if (self.size, self.mtime_ns) != (other.size, other.mtime_ns):
            return False
        return not in_archive or self.inode >> 32 == other.inode >> 32


@contextmanager
def os_errors(
    error_type: type[DrhnError],
    problem: str,
    *,
    path: AnyPath | None,
    expected: str | None = None,
    hint: str | None = None,
    absent: DrhnError | None = None,
) -> Iterator[None]:
    """Raise a ``DrhnError`` in the place of an ``OSError`` of the block; ``absent`` where a file is not there."""
    try:
        yield
    except OSError as error:
        if absent is not None and isinstance(error, FileNotFoundError):
            raise absent from error
        found = error.strerror or str(error)
        raise error_type(problem, path=path, expected=expected, found=found, hint=hint) from error


def open_nonblocking(path: AnyPath) -> int:
    """Return a file descriptor for reading; a FIFO gives one at once, where ``open`` would wait for a writer.

    Raises:
        OSError: as ``os.open``.
    """
    return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))


def open_regular(path: AnyPath) -> BinaryIO | None:
    """Return a regular file opened for reading, or None for a pipe or a device.

    Raises:
        OSError: as ``open``, which refuses folders.
    """
    stream = os.fdopen(open_nonblocking(path), "rb")
    if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        return stream
    stream.close()
    return None


def refuse_overwrite(
    path: AnyPath, what: str, is_ours: Callable[[bytes], bool], refusal: Callable[[bytes], DrhnError] | None = None
) -> None:
    """Refuse to replace a file of another kind: a photograph, perhaps. Nothing and an empty file may be replaced.

    Args:
        path: what is going to be written.
        what: the right kind, for people.
        is_ours: tells by its first 2,048 bytes whether a file is of the right kind.
        refusal: makes the error of those bytes, in the place of a general one.

    Raises:
        DrhnError: another file is there, or it cannot be read; or there is no such folder.
    """
    folder = os.path.dirname(os.fsencode(path)) or b"."
    if not os.path.isdir(folder):
        raise DrhnError(f"cannot write the {what}", path=path, found="no such folder", hint="make the folder first")
    if not os.path.isfile(path):
        return
    with os_errors(DrhnError, f"cannot write the {what}", path=path), open(path, "rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if head and not is_ours(head):
        hint = "remove it, or choose another name"
        general = DrhnError(f"another file is in the place of the {what}", path=path, hint=hint)
        raise refusal(head) if refusal else general


@contextmanager
def atomic_write(path: AnyPath) -> Iterator[BinaryIO]:
    """Yield a stream whose content takes the place of ``path`` when the block ends, and vanishes when it raises.

    A crash at any moment leaves the old file or the new one. A symbolic link keeps pointing at the file that is
    written, and a file that is replaced keeps its permissions. The steps are those of SQLite's atomic commit
    (https://sqlite.org/atomiccommit.html).

    Args:
        path: the file to write; its folder exists.

    Yields:
        A binary stream, open for writing and seeking.

    Raises:
        OSError: no space, no permission, not a regular file; the old file is as it was.
    """
    target = Path(os.path.realpath(os.fsdecode(path)))
    mode = _existing_mode(target)
    temporary = target.with_name(_temporary_name(target, os.urandom(8).hex()))
    try:
        # os.open and not tempfile: a new file gets the permissions that the umask gives, not those of a secret.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(temporary, flags, 0o666), "w+b") as stream:
            if mode is not None:
                temporary.chmod(mode)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        # Already gone if all went well. Ctrl-C leads here too. An error of the removal would hide the one that matters.
        with suppress(OSError):
            temporary.unlink()
    _sync_directory(target.parent)


def remove_leftovers(path: AnyPath) -> None:
    """Remove the temporary files of killed writers of ``path``. Only for a caller that holds its lock."""
    target = Path(os.path.realpath(os.fsdecode(path)))
    for leftover in target.parent.glob(_temporary_name(target, "*")):
        with suppress(OSError):  # it is in nobody's way
            leftover.unlink()


def _temporary_name(target: Path, token: str) -> str:
    """Return a hidden, short name that depends on the target's: that may take all of the 255 bytes of a name."""
    return f".drhn-{zlib.crc32(os.fsencode(target.name)):08x}-{token}.tmp"


def _existing_mode(target: Path) -> int | None:
    """Return the permissions of a file that will be replaced, or None where there is none."""
    try:
        status = target.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise OSError(None, "a folder, pipe or device is in its place")
    return stat.S_IMODE(status.st_mode)


def _sync_directory(directory: Path) -> None:
    """Make the rename itself survive a power cut, where the system can: Windows cannot open a folder."""
    # Too late to fail: the new file is in place, and a caller that got an error would believe in the old one.
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def lock_file(
    path: AnyPath,
    what: str,
    error_type: type[DrhnError],
    timeout_seconds: float = 0.0,
    *,
    progress: Progress = SILENT,
) -> Iterator[None]:
    """Hold the lock of a file, which need not exist yet, through a ``with`` block.

    Readers need no lock: they see the old file or the new one. Whoever reads, changes and writes holds it throughout.
    What a killed writer has left behind is removed.

    Args:
        path: the file; a symbolic link shares the lock of what it points at.
        what: what it is, for people.
        error_type: what is raised.
        timeout_seconds: how long to wait for another writer; 0 does not wait, a negative one waits for ever.
        progress: is told if another writer has to be waited for.

    Raises:
        DrhnError: of ``error_type``: another writer still holds it, or the lock file cannot be made beside the file.
    """
    from filelock import FileLock, Timeout  # 10 ms that readers need not wait for

    target = Path(os.path.realpath(os.fsdecode(path)))
    if not target.parent.is_dir():  # filelock would make it, and a mistyped folder would come into being
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
        # The lock file stays beside the file, unless a run that was to make the file has failed. It is removed while
        # it is held: a filelock that has waited for it sees that it is no longer there, and begins anew.
        if is_new and not target.exists():
            with suppress(OSError):  # Windows removes no open file
                lock_path.unlink()
        lock.release()


def _lock_path(target: Path) -> Path:
    name = f".{target.name}.lock"
    if len(os.fsencode(name)) > 255:  # more than a name can have
        name = f".drhn-{zlib.crc32(os.fsencode(target.name)):08x}.lock"
    return target.with_name(name)
