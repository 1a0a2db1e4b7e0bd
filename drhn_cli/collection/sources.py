"""Find the pictures to hash: those of all sources, or of this process's shard."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress

from drhn_cli.codes.manifest import Shard
from drhn_cli.collection.plan import HashOptions, Sources, Stored
from drhn_cli.errors import AnyPath, ConfigError, DrhnError, SourceError
from drhn_cli.images.find import FindResult, find_images, find_members
from drhn_cli.images.source import is_empty_archive
from drhn_cli.paths import common_folder, with_folders
from drhn_cli.progress import Progress

_TORCHRUN = ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID")
_SLURM_ID = "SLURM_ARRAY_TASK_ID"
_SLURM_BOUNDS = ("SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_COUNT")
_BY_HAND = "name the part with --shard I/N, or all pictures with --shard 1/1"


def find_sources(paths: Sequence[AnyPath], options: HashOptions, stored: Stored, progress: Progress) -> Sources:
    """Find the pictures of all sources.

    Tar archives are listed one by one. All members of one are in the same shard, so no other opens it.

    Args:
        paths: files, folders and tar archives.
        options: which pictures are taken.
        stored: the code file's content. A source that had pictures and is empty now, like the mount point of an
            unplugged drive, counts as missing.
        progress: is advanced by the pictures of each folder and archive.

    Raises:
        SourceError: no source can be read, or they lie on different drives.
    """
    found = find_images(
        paths,
        exclude=options.exclude,
        hidden=options.hidden,
        follow=options.follow,
        raw=options.raw,
        progress=progress,
    )
    for root in sorted(found.roots.difference(found.archives)):
        if problem := _why_emptied(root, stored):
            _report_missing(found, root, problem)
    _refuse_nothing(found)
    no_folders = {*found.archives, *(file.path for file in found.files)}
    folder = common_folder(os.path.dirname(root) if root in no_folders else root for root in found.roots)
    prefix = len(os.path.join(folder, b""))

    def is_own(path: bytes) -> bool:
        return options.shard is None or options.shard.holds(path[prefix:])

    files = [file for file in found.files if is_own(file.path)]
    for path in filter(is_own, found.archives):
        members = find_members(path, exclude=options.exclude, hidden=options.hidden, raw=options.raw)
        progress.advance(len(members.files))
        files += members.files
        found.failures.extend(members.failures)
        found.missing.extend(members.missing)
        found.skipped.update(members.skipped)
        if not members.files and path in stored.folders and is_empty_archive(path):
            _report_missing(found, path, "an archive that holds nothing any more")
    if not files:
        _refuse_nothing(found)
    return Sources(files=files, search=found, shard=options.shard, folder=folder)


def _why_emptied(root: bytes, stored: Stored) -> str | None:
    """Return why a source cannot hold the pictures any more that it had; None if it can, or had none."""
    if root in stored.rows or root in stored.folders:
        with suppress(OSError), os.scandir(root) as entries:
            return None if any(entries) else "empty, as the mount point of an unplugged drive is"
        if root in stored.folders and os.path.isfile(root):
            return "a file in the place of a folder or archive"
    return None


def _report_missing(found: FindResult, source: bytes, problem: str) -> None:
    hint = "if its pictures are gone for good, hash again with --rebuild"
    found.failures.append(SourceError(f"{problem}, so its codes are kept", path=source, hint=hint))
    found.missing.append(source)


def _refuse_nothing(found: FindResult) -> None:
    if found.failures and found.roots.issubset(found.missing):
        raise SourceError(f"no source can be read: {found.failures[0].message}", hint="nothing was changed")


def unread_sources(sources: Sources, failures: Sequence[DrhnError]) -> set[bytes]:
    """Return the sources that are not there, or of which nothing could be read, as absolute paths.

    Args:
        sources: what was found.
        failures: of the search, and of pictures that could not be read.
    """
    roots, missing = sources.search.roots, sources.search.missing
    if sources.shard is not None:  # which may hold few pictures of a source
        return roots.intersection(missing)
    failed = {os.fsencode(failure.path) for failure in failures if failure.path is not None}
    found = [file.path for file in sources.files]
    unread = roots & with_folders([*missing, *failed.intersection(found)])
    if unread:
        unread -= with_folders(path for path in found if path not in failed)
    return unread


def choose_shard(text: str | None, environment: Mapping[str, str]) -> tuple[Shard | None, str | None]:
    """Return the shard that is asked for, or else the one that torchrun or a Slurm array gives this process.

    Args:
        text: ``I/N``, if it was given; ``1/1`` means all pictures, also in torchrun and Slurm arrays.
        environment: variables of the process.

    Returns:
        The shard, None for all pictures; and what started the process, if the shard follows from that.

    Raises:
        ConfigError: there is no such shard, or the variables do not say which one it is.
    """
    starter = None
    if text is not None:
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        if match is None:
            raise ConfigError("no part of the pictures", expected="I/N, such as 2/4", found=repr(text))
        shard = Shard(number=int(match[1]), count=int(match[2]))
    elif all(name in environment for name in _TORCHRUN):
        if _SLURM_ID in environment:
            raise ConfigError("torchrun in a Slurm array: which of them shares the pictures out?", hint=_BY_HAND)
        rank, size = _integers(environment, _TORCHRUN[:2])
        shard, starter = Shard(number=rank + 1, count=size), "torchrun"
    elif _SLURM_ID in environment:
        (task,), (first, last, count) = _integers(environment, (_SLURM_ID,)), _integers(environment, _SLURM_BOUNDS)
        # A single task that is resubmitted is a new array, whose variables lack the original task count.
        if first not in (0, 1) or last - first + 1 != count or count < 2:
            problem, expected = "a Slurm array that may be some tasks of a larger one", "all tasks from 0 or 1 on"
            raise ConfigError(problem, expected=expected, found=f"{count} from {first} to {last}", hint=_BY_HAND)
        shard, starter = Shard(number=task - first + 1, count=count), "the Slurm array"
    else:
        return None, None
    return (shard, starter) if shard.count > 1 else (None, None)


def _integers(environment: Mapping[str, str], names: tuple[str, ...]) -> list[int]:
    try:
        return [int(environment[name]) for name in names]
    except (KeyError, ValueError) as error:
        told = " ".join(f"{name}={environment.get(name)}" for name in names)
        raise ConfigError("the environment does not tell the part", found=told, hint=_BY_HAND) from error
