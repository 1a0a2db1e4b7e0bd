"""Exit statuses, as ripgrep has them."""

from enum import IntEnum


class ExitStatus(IntEnum):
    """What the program's exit status says."""

    DONE = 0
    NOTHING_FOUND = 1
    ERROR = 2
    INTERRUPTED = 130
    TERMINATED = 143
