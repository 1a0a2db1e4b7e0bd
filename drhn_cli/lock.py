"""One writer at a time for each file."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from drhn_cli.atomic import remove_leftovers
from drhn_cli.errors import AnyPath, DrhnError


@contextmanager
def lock_file(
    path: AnyPath,
    what: str,
    error_type: type[DrhnError],
    timeout_seconds: float = 0.0,
    *,
    on_wait: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Hold the lock of a file, which need not exist yet, through a ``with`` block.

    Readers need no lock: they see the old file or the new one. Whoever reads, changes and writes holds it throughout.
    What a killed writer has left behind is removed.

    Args:
        path: the file; a symbolic link shares the lock of what it points at.
        what: what it is, for people.
        error_type: what is raised.
        timeout_seconds: how long to wait for another writer; 0 does not wait, a negative one waits for ever.
        on_wait: called once if another writer has to be waited for.

    Raises:
        DrhnError: of ``error_type``: another writer still holds it, or the lock file cannot be made beside the file.

    Source: filelock.
    """
    from filelock import FileLock, Timeout  # 10 ms that readers need not wait for

    target = Path(os.path.realpath(os.fsdecode(path)))
    if not target.parent.is_dir():  # filelock would make it, and a mistyped folder would come into being
        raise error_type(f"cannot lock the {what}", path=path, found="no such folder", hint="make the folder first")
    if not target.name:
        raise error_type(f"a folder is no {what}", path=path, hint="name a file in it")
    name = f".{target.name}.lock"
    if len(os.fsencode(name)) > 255:  # more than a name can have
        name = f".drhn-{zlib.crc32(os.fsencode(target.name)):08x}.lock"
    lock_path = target.with_name(name)
    is_new = not lock_path.exists()
    lock = FileLock(lock_path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if timeout_seconds == 0:
                raise
            on_wait()
            lock.acquire(timeout=timeout_seconds)
    except Timeout as error:
        raise error_type(
            f"another drhn is writing this {what}", path=path, hint="wait for it to end, or name another file with -o"
        ) from error
    except (OSError, NotImplementedError) as error:
        raise error_type(
            f"cannot lock the {what}",
            path=path,
            found=getattr(error, "strerror", None) or str(error),
            hint="write to a folder where files can be made",
        ) from error
    try:
        remove_leftovers(target)
        yield
    finally:
        # The lock file stays beside the file, and goes with the failure of a run that was to make one. It is removed
        # while it is held: filelock sees that what it has waited for is no longer there, and begins anew.
        if is_new and not target.exists():
            with suppress(OSError):  # Windows removes no open file
                lock_path.unlink()
        lock.release()
