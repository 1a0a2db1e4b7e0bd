"""Names that people choose from. Apart from ``config``, whose classes take milliseconds that a query does not have."""

from __future__ import annotations

import re
from typing import Literal, get_args

from drhn_cli.errors import ConfigError

Rank = Literal["hamming", "asymmetric"]


def check_rank(rank: str) -> None:
    """Refuse an unknown order of matches.

    Raises:
        ConfigError: it is no ``Rank``.
    """
    if rank not in get_args(Rank):
        raise ConfigError("rank is out of range", expected=" or ".join(get_args(Rank)), found=rank)


def check_device(name: str) -> None:
    """Refuse what names no device, without asking whether the device is there.

    Raises:
        ConfigError: it is none of ``auto``, ``cuda``, ``mps`` and ``cpu``, the last three with a number or without.
    """
    if not re.fullmatch(r"auto|(cuda|mps|cpu)(:\d+)?", name):
        raise ConfigError(f"unknown device {name!r}", expected="auto, cuda, mps or cpu, or such as cuda:0")
