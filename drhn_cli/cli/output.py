"""Output: data on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TextIO

from drhn_cli.errors import AnyPath, DrhnError, printable, shown_name
from drhn_cli.progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress


def write_bytes(data: bytes) -> None:
    """Write bytes to stdout unchanged; ``DrhnError`` where that fails, as on a full disk."""
    with _stdout_errors():
        sys.stdout.buffer.write(data)


def write_json(value: Any) -> None:
    r"""Write one line of JSON to stdout; bytes that are not UTF-8 are lone surrogates, ``\udc80`` to ``\udcff``."""
    write_bytes(json.dumps(value).encode("ascii") + b"\n")


def flush() -> None:
    """Flush stdout; ``DrhnError`` where that fails, as on a full disk."""
    with _stdout_errors():
        sys.stdout.flush()


def discard(stream: TextIO) -> None:
    """Send what is still buffered to the null device, so that the interpreter does not complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def stdout_error(error: OSError) -> DrhnError:
    """Return the error to report when stdout cannot be written, and discard the rest of the output."""
    discard(sys.stdout)
    return DrhnError("cannot write to stdout", found=error.strerror or str(error))


@contextlib.contextmanager
def _stdout_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise stdout_error(error) from error


def report(message: str) -> None:
    """Write one line to stderr."""
    with messages():
        sys.stderr.write(f"drhn: {message}\n")


@contextlib.contextmanager
def messages() -> Iterator[None]:
    """Ignore errors of writing to stderr: a message that nobody can read is no reason to stop."""
    try:
        yield
    except OSError:
        discard(sys.stderr)


def report_error(error: DrhnError) -> None:
    """Write an error on one line of stderr, with its path as ``shown_path`` gives it."""
    path = json_path(error.path)
    report(error.reason if path is None else f"{shown_name(path)}: {error.reason}")


def shown_path(path: bytes) -> bytes:
    """Return an absolute path relative to the working directory where it lies below that."""
    try:
        here = os.path.join(os.getcwdb(), b"")
    except OSError:  # it was removed meanwhile
        return path
    return path.removeprefix(here)


def json_path(path: AnyPath | None) -> str | None:
    """Return ``shown_path`` of a path as text, with surrogates for bytes that are not UTF-8."""
    return None if path is None else os.fsdecode(shown_path(os.fsencode(path)))


def terminal_text(path: AnyPath) -> str:
    """Return a path with control characters, and those that the terminal's encoding lacks, escaped."""
    encoding = sys.stdout.encoding
    return printable(path).encode(encoding, "backslashreplace").decode(encoding)


def path_form(end: bytes) -> Callable[[bytes], bytes]:
    """Return the function by which absolute paths are shown on stdout, in lines that end with ``end``.

    On a terminal control characters are escaped, unless lines end with NUL.
    """
    if sys.stdout.isatty() and end == b"\n":
        return lambda path: terminal_text(shown_path(path)).encode(sys.stdout.encoding)
    return shown_path


def write_summary(values: Mapping[str, Any], line: str, *, json: bool, quiet: bool) -> None:
    """Report what a command did: a JSON object on stdout, a line on stderr, or nothing."""
    if json:
        write_json({name: round(value, 3) if name == "seconds" else value for name, value in values.items()})
    elif not quiet:
        report(line)


def counted(number: int, noun: str) -> str:
    """Return a number and what it counts: ``1 picture``, ``1,000 pictures``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def format_bytes(n_bytes: int) -> str:
    """Return a size with its unit: ``512 bytes``, ``3.2 MB``."""
    if n_bytes < 1000:
        return counted(n_bytes, "byte")
    power = min(4, (len(str(n_bytes)) - 1) // 3)
    size = n_bytes / 1000**power
    return f"{size:.{1 if size < 10 else 0}f} {'kMGT'[power - 1]}B"


def write_rows(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table: drawn on a terminal, else tab-separated with a header line."""
    if sys.stdout.isatty():
        draw_table(headers, rows, text_column=headers[0])
        return
    for row in (headers, *rows):
        write_bytes("\t".join(row).encode("utf-8", "surrogateescape") + b"\n")


def draw_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, text_column: str, title: str = "") -> None:
    """Draw a table on the terminal, if it has rows; with a title it is followed by an empty line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, emoji=False)
    if title:
        console.print(title, style="bold", markup=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for header in headers:
        # Folded: nothing is lost, and not every encoding has an ellipsis.
        table.add_column(header, justify="left" if header == text_column else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(terminal_text(cell)) for cell in row))  # plain strings would be read as markup
    if rows:
        console.print(table)
    if title:
        console.print()


def format_number(value: float | None) -> str:
    """Return a fraction with four decimals, or a dash for none."""
    return "-" if value is None else f"{value:.4f}"


def write_description(description: Mapping[str, Any], indent: str = "") -> None:
    """Write a line for each entry; one that would be longer than 240 characters becomes indented lines."""
    for name, value in description.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            value = {str(number): each for number, each in enumerate(value, 1)}
        heading = f"{indent}{printable(name)}:"
        line = f"{heading} {_on_one_line(value)}"
        is_long = isinstance(value, Mapping) and len(line) > 240
        shown = heading if is_long else line
        write_bytes(f"{shown}\n".encode("utf-8", "backslashreplace"))
        if is_long:
            write_description(value, f"{indent}  ")


def _on_one_line(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{printable(name)} {_on_one_line(inner)}" for name, inner in value.items()) or "-"
    if isinstance(value, list | tuple):
        return " ".join(_on_one_line(inner) for inner in value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return format_number(None) if value is None else printable(str(value))


class TerminalProgress(Progress):
    """Progress on stderr: messages, and on a terminal a bar with the rate and the remaining time.

    A context manager: at the end the bar is erased; on Ctrl-C the resume hint of the current phase is reported.
    ``quiet`` reports failures only; ``json`` writes them to stdout, too; ``bar`` is False where several processes
    share the terminal.
    """

    def __init__(
        self, *, quiet: bool, json: bool = False, bar: bool = True, resume_hint: Callable[[str], str] | None = None
    ) -> None:
        self.current = ""  # name of the phase
        self.n_failed = 0
        self._quiet, self._json = quiet, json
        self._resume_hint = resume_hint
        self._draws = bar and not quiet and sys.stderr.isatty()
        self._bar: RichProgress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._resume_hint is not None and error_type is not None and issubclass(error_type, KeyboardInterrupt):
            self.note(f"stopped; {self._resume_hint(self.current)}")

    def phase(self, name: str, total: int | None = None) -> None:
        """Start a new bar."""
        self.current = name
        if not self._draws:
            return
        if self._bar is None:
            self._bar = _new_bar()
            self._bar.start()
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        self._bar.add_task(name, total=total, speed="")

    def advance(self, n: int = 1) -> None:
        """Advance the bar."""
        if self._bar is None:
            return
        (task,) = self._bar.tasks
        completed = task.completed + n
        rate = completed / (task.elapsed or 1)  # rich's own jumps where batches end close to each other
        failed = f"  {self.n_failed:,} failed" if self.n_failed else ""
        speed = f"{rate:,.{1 if rate < 10 else 0}f}/s{failed}" if completed else failed
        self._bar.update(task.id, completed=completed, speed=speed)

    def failure(self, error: DrhnError) -> None:
        """Report and count a failure."""
        self.n_failed += 1
        report_error(error)
        if self._json:
            try:
                write_json({"path": json_path(error.path), "error": error.reason, "failed": True})
            except BrokenPipeError:  # the pictures are hashed even if nobody reads on
                discard(sys.stdout)

    def note(self, text: str) -> None:
        """Report a line unless quiet."""
        if not self._quiet:
            report(text)


def _new_bar() -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    speed = TextColumn("{task.fields[speed]}")
    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn(), speed)
    console = Console(stderr=True, soft_wrap=True)  # a message stays on its line: the terminal wraps it, if it must
    return Progress(*columns, console=console, transient=True)
