"""Every error that drhn raises for its user: which file, what was expected, what was found, what to do.

The core raises these and never prints or exits; the command line prints each as one line on stderr. Any other exception
is a bug and keeps its traceback.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_MAX_SHOWN = 400  # characters of a path in a message

AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def printable(text: AnyPath) -> str:
    """Return a path or other foreign text as one line, with control characters and undecodable bytes escaped."""
    decoded = os.fsdecode(text)
    if decoded.isprintable():
        return decoded
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in decoded)


def shown_name(path: AnyPath) -> str:
    """Return a path as messages show it: printable, and of one that is longer than any line its beginning and end."""
    text = printable(path)
    half = _MAX_SHOWN // 2
    return text if len(text) <= _MAX_SHOWN else f"{text[:half]}...{text[-half:]}"


class DrhnError(Exception):
    """An error that the user can do something about.

    Args:
        problem: what went wrong, as a clause without a full stop.
        path: the file, if it is about one.
        expected: what would have been right.
        found: what was there instead.
        hint: what to do, with the flag or command.
    """

    def __init__(
        self,
        problem: str,
        *,
        path: AnyPath | None = None,
        expected: str | None = None,
        found: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.problem, self.path = problem, path
        self.expected, self.found, self.hint = expected, found, hint
        super().__init__(problem)

    def __str__(self) -> str:
        return self.message

    @property
    def message(self) -> str:
        """The whole error on one line: ``path: problem (expected X, found Y); hint``."""
        text = self.problem if self.path is None else f"{shown_name(self.path)}: {self.problem}"
        details = [f"{word} {value}" for word, value in (("expected", self.expected), ("found", self.found)) if value]
        if details:
            text += f" ({', '.join(details)})"
        return printable(f"{text}; {self.hint}" if self.hint else text)

    @property
    def reason(self) -> str:
        """The message without the path, for lists that name the path in a column of its own."""
        return self.message if self.path is None else self.message.removeprefix(f"{shown_name(self.path)}: ")


@contextmanager
def about(path: AnyPath | None) -> Iterator[None]:
    """Add a path to errors of the block that name none, so that what raises them need not know it."""
    try:
        yield
    except DrhnError as error:
        if error.path is None:
            error.path = path
        raise


class ConfigError(DrhnError):
    """A setting is out of its range or contradicts another."""


class ImageError(DrhnError):
    """A picture cannot be read."""


class SourceError(DrhnError):
    """A folder or list of pictures cannot be read, or holds nothing of use."""


class WeightsError(DrhnError):
    """A weights file is foreign, damaged, of a newer version, or does not fit the network it describes."""


class CheckpointError(DrhnError):
    """A training checkpoint is foreign, damaged, or belongs to another run."""


class CodeFileError(DrhnError):
    """A code file is foreign, damaged, of a newer version, or was made with another model."""


class TableError(DrhnError):
    """A table cannot be reached, is foreign or incomplete, or was made with another model."""
