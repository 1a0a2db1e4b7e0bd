"""What long work tells while it goes on. The core tells a ``Progress``; only the command line draws one."""

from __future__ import annotations

from drhn_cli.errors import DrhnError


class Progress:
    """Hears of long work. This one keeps it to itself; a subclass shows what it wants to show.

    Work is told by the thread that does it for its caller, never by several at a time. An error of a subclass ends the
    work.
    """

    def phase(self, name: str, total: int | None = None) -> None:
        """Begin a phase of ``total`` steps, of which none is done yet.

        Args:
            name: what is done, as in "hashing"; people read it.
            total: of pictures, rows or the like. None: not known.
        """

    def advance(self, n: int = 1) -> None:
        """Tell that ``n`` more steps of the phase are done, those that failed among them."""

    def failure(self, error: DrhnError) -> None:
        """Tell of something that was left out; the work goes on. It counts as a step only by ``advance``."""

    def note(self, text: str) -> None:
        """Tell something worth a line: a clause without a full stop, printable."""


SILENT = Progress()
"""For callers that want to hear nothing."""
