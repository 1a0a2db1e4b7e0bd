"""Which pictures are this process's, where several hash a collection together without talking to each other."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from drhn_cli.errors import AnyPath, ConfigError

_TORCHRUN = ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID")
_SLURM_ID = "SLURM_ARRAY_TASK_ID"
_SLURM_BOUNDS = ("SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_COUNT")
_BY_HAND = "name the part with --shard I/N, or all pictures with --shard 1/1"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One of the parts that a collection is hashed in.

    Attributes:
        number: of this part, from 1.
        count: of parts.
        told_by: who has started the processes, if that is how the part is known.

    Raises:
        ConfigError: there is no such part.
    """

    number: int
    count: int
    told_by: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ConfigError(f"no such part: {self.number}/{self.count}", expected=f"1 to {self.count}")

    def holds(self, name: bytes) -> bool:
        """Tell whether a picture of this path, relative to the folder of all sources, is of this part.

        It follows from the path alone: a picture that comes or goes moves no other one to another part, and processes
        that list a folder at different times still agree on all that they have both seen.
        """
        digest = blake2b(name, digest_size=8).digest()
        return int.from_bytes(digest) % self.count == self.number - 1

    def path_of(self, codes_path: AnyPath) -> Path:
        """Return the name of this part's code file: ``codes-00002-of-00004.bin`` of ``codes.bin``."""
        stem, suffix = os.path.splitext(os.fsdecode(codes_path))
        return Path(f"{stem}-{self.number:05}-of-{self.count:05}{suffix}")


def choose_shard(text: str | None, environment: Mapping[str, str]) -> Shard | None:
    """Return the part that is asked for, or else the one that torchrun or a Slurm array has this process for.

    Args:
        text: ``I/N``, if it was given; ``1/1`` is all pictures, whoever has started the process.
        environment: variables of the process.

    Returns:
        None for all pictures.

    Raises:
        ConfigError: there is no such part, or the variables do not tell which one it is.
    """
    if text is not None:
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        if match is None:
            raise ConfigError("no part of the pictures", expected="I/N, such as 2/4", found=repr(text))
        shard = Shard(number=int(match[1]), count=int(match[2]))
    elif all(name in environment for name in _TORCHRUN):
        if _SLURM_ID in environment:
            raise ConfigError("torchrun in a Slurm array: which of them shares the pictures out?", hint=_BY_HAND)
        rank, size = _integers(environment, _TORCHRUN[:2])
        shard = Shard(number=rank + 1, count=size, told_by="torchrun")
    elif _SLURM_ID in environment:
        shard = _shard_of_array(environment)
    else:
        return None
    return shard if shard.count > 1 else None


def _shard_of_array(environment: Mapping[str, str]) -> Shard:
    (task,), (first, last, count) = _integers(environment, (_SLURM_ID,)), _integers(environment, _SLURM_BOUNDS)
    # One task that is submitted again is an array of its own, and does not know of how many parts it was one.
    if first not in (0, 1) or last - first + 1 != count or count < 2:
        raise ConfigError(
            "a Slurm array that may be some tasks of a larger one",
            expected="all tasks from 0 or 1 on",
            found=f"{count} from {first} to {last}",
            hint=_BY_HAND,
        )
    return Shard(number=task - first + 1, count=count, told_by="the Slurm array")


def _integers(environment: Mapping[str, str], names: tuple[str, ...]) -> list[int]:
    try:
        return [int(environment[name]) for name in names]
    except (KeyError, ValueError) as error:
        told = " ".join(f"{name}={environment.get(name)}" for name in names)
        raise ConfigError("the environment does not tell the part", found=told, hint=_BY_HAND) from error
