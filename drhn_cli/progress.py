"""Progress of long work, as the core reports it. Only the command line shows it."""

from __future__ import annotations

from drhn_cli.errors import DrhnError


class Progress:
    """Receives reports of long work. This one ignores them; a subclass shows them.

    Only the thread that called the work reports. An error that a subclass raises ends the work.
    """

    def phase(self, name: str, total: int | None = None) -> None:
        """Begin a phase, such as "hashing", of ``total`` pictures, rows or the like; None if not known."""

    def advance(self, n: int = 1) -> None:
        """Report that ``n`` more steps of the phase are done, including those that failed."""

    def failure(self, error: DrhnError) -> None:
        """Report something that was left out; the work goes on. ``advance`` counts it as a step."""

    def note(self, text: str) -> None:
        """Show a line of text: a clause without a full stop, printable."""


SILENT = Progress()
"""The default: nothing is shown."""
