"""Ranges in braces, as in the names of many shards, where the shell was kept from expanding them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import product

from drhn_cli.errors import ConfigError, display_path

MAX_NAMES = 1_000_000

_RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}", re.ASCII)


def expand_braces(name: str) -> Iterator[str]:
    """Yield the names that ``{000..099}`` stands for, in order: numbers up or down, all as wide as a padded end.

    Several ranges give all combinations, the last one running fastest. A name without a range, or of something that is
    there, stands for itself.

    Raises:
        ConfigError: there are more than ``MAX_NAMES``.

    Source: the manual of bash, brace expansion.
    """
    texts = _RANGE.split(name)[::3]
    ranges = _RANGE.findall(name)
    if not ranges or os.path.lexists(name):
        yield name
        return
    numbers = [_numbers(first, last) for first, last in ranges]
    n_names = 1
    for each in numbers:
        n_names *= abs(each.stop - each.start)
    if n_names > MAX_NAMES:
        problem = f"{display_path(name)} stands for too many names"
        raise ConfigError(problem, expected=f"at most {MAX_NAMES}", found=str(n_names))
    widths = [_width(first, last) for first, last in ranges]
    for chosen in product(*numbers):
        filled = [f"{number:0{width}}" for number, width in zip(chosen, widths, strict=True)]
        yield "".join(part for both in zip(texts, [*filled, ""], strict=True) for part in both)


def _numbers(first: str, last: str) -> range:
    step = 1 if int(first) <= int(last) else -1
    return range(int(first), int(last) + step, step)


def _width(first: str, last: str) -> int:
    is_padded = any(len(end) > 1 and end.startswith("0") for end in (first, last))
    return max(len(first), len(last)) if is_padded else 0
