"""What a test hears of long work."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from drhn_cli.errors import DrhnError
from drhn_cli.progress import Progress


class Hearing(Progress):
    """Remembers what it is told, and calls what the test wants called then.

    Args:
        begin: by the name of a phase, what is called when it begins.
        advance: by the name of a phase, what is called with the number of its steps at each advance.
        note: called with each note.

    Attributes:
        phases: names and totals.
        steps: for each advance the phase's name, and how far it is then.
        failures: the errors.
        notes: the texts.
    """

    def __init__(
        self,
        *,
        begin: Mapping[str, Callable[[], object]] | None = None,
        advance: Mapping[str, Callable[[int], object]] | None = None,
        note: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.phases: list[tuple[str, int | None]] = []
        self.steps: list[tuple[str, int]] = []
        self.failures: list[DrhnError] = []
        self.notes: list[str] = []
        self._begin = begin or {}
        self._advance = advance or {}
        self._note = note
        self._done = 0

    def phase(self, name: str, total: int | None = None) -> None:
        self.phases.append((name, total))
        self._done = 0
        self._begin.get(name, lambda: None)()

    def advance(self, n: int = 1) -> None:
        self._done += n
        name, _ = self.phases[-1]
        self.steps.append((name, self._done))
        self._advance.get(name, lambda _: None)(n)

    def failure(self, error: DrhnError) -> None:
        self.failures.append(error)

    def note(self, text: str) -> None:
        self.notes.append(text)
        self._note(text)

    def steps_of(self, name: str) -> list[int]:
        """How far a phase was at each advance."""
        return [done for phase, done in self.steps if phase == name]
