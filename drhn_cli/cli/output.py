"""What people and programs see: data on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from drhn_cli.errors import AnyPath, DrhnError, display_path

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from rich.table import Table


def write_bytes(data: bytes) -> None:
    """Write to stdout as it is, so that any path survives.

    Raises:
        DrhnError: stdout takes no more, as on a full disk.
    """
    with _stdout_errors():
        sys.stdout.buffer.write(data)


def write_json(value: Any) -> None:
    r"""Write one JSON object on a line of stdout.

    Bytes of a path that are not UTF-8 stand as lone surrogates, ``\udc80`` to ``\udcff``: Python's ``surrogateescape``.
    """
    write_bytes(json.dumps(value).encode("ascii") + b"\n")


def flush() -> None:
    """Hand everything written so far to whoever reads it, as the end of every command does.

    Raises:
        DrhnError: stdout takes no more, as on a full disk.
    """
    with _stdout_errors():
        sys.stdout.flush()


def discard(stream: TextIO) -> None:
    """Let what is still buffered go nowhere, so that the interpreter does not complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def stdout_error(error: OSError) -> DrhnError:
    """Return what to tell of an error of writing to stdout, to which nothing more will be written."""
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
    """Go on where stderr takes no more: that a message cannot be read is no reason to stop."""
    try:
        yield
    except OSError:
        discard(sys.stderr)


def report_error(error: DrhnError) -> None:
    """Write an error on one line of stderr, its path as ``shown_path`` has it."""
    if error.path is None:
        report(error.message)
    else:
        report(f"{display_path(shown_path(os.fsencode(error.path)))}: {error.reason}")


@contextlib.contextmanager
def telling_how_to_go_on(hint: Callable[[], str], *, quiet: bool) -> Iterator[None]:
    """On Ctrl-C in the block, tell on stderr what to do to go on later, as it is then."""
    try:
        yield
    except KeyboardInterrupt:
        if not quiet:
            report(f"stopped; {hint()}")
        raise


def telling_to_wait(path: AnyPath, *, quiet: bool) -> Callable[[], None]:
    """Return what tells on stderr that another run, which writes the same code file, is waited for."""
    return lambda: None if quiet else report(f"{display_path(path)}: waiting for another drhn, which is writing it")


def shown_path(path: bytes) -> bytes:
    """Return an absolute path as it is shown: relative where it lies below the working directory."""
    try:
        here = os.path.join(os.getcwdb(), b"")
    except OSError:  # it was removed meanwhile
        return path
    return path.removeprefix(here)


def terminal_text(path: AnyPath) -> str:
    """Return a path as text that the terminal on stdout does not obey and has characters for; others are escaped."""
    encoding = sys.stdout.encoding
    return display_path(path).encode(encoding, "backslashreplace").decode(encoding)


def path_form(end: bytes) -> Callable[[bytes], bytes]:
    """Return what makes of an absolute path what stdout takes, before ``end``.

    On a terminal that is text which it does not obey; a NUL as the end asks for the bytes all the same.
    """
    if sys.stdout.isatty() and end == b"\n":
        return lambda path: terminal_text(shown_path(path)).encode(sys.stdout.encoding)
    return shown_path


def write_summary(summary: DataclassInstance, told: str, *, json: bool, quiet: bool) -> None:
    """Tell what a command did: a JSON object on stdout, or a line for people on stderr, or nothing."""
    if json:
        values = asdict(summary)
        write_json({name: round(value, 3) if name == "seconds" else value for name, value in values.items()})
    elif not quiet:
        report(told)


def counted(number: int, noun: str) -> str:
    """Return a number and what it counts: ``1 picture``, ``1,000 pictures``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def write_rows(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table: drawn on a terminal, tab-separated with a line of headers otherwise."""
    if not sys.stdout.isatty():
        for row in (headers, *rows):
            write_bytes("\t".join(row).encode("utf-8", "surrogateescape") + b"\n")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for header in headers:
        # Folded, as the sign of an ellipsis is not in every encoding, and nothing is lost.
        table.add_column(header, justify="left" if header == headers[0] else "right", overflow="fold")
    for row in rows:
        # Text, and printable: a name is neither markup nor an escape sequence.
        table.add_row(*(Text(terminal_text(cell)) for cell in row))
    print_table(table)


def print_table(table: Table, *, title: str = "") -> None:
    """Draw a table on the terminal, if it has rows; a title stands above it, and then an empty line below."""
    from rich.console import Console

    console = Console(highlight=False, emoji=False)
    if title:
        console.print(title, style="bold", markup=False)
    if table.row_count:
        console.print(table)
    if title:
        console.print()


def format_number(value: float | None) -> str:
    """Return a fraction with four decimals, or a dash for none."""
    return "-" if value is None else f"{value:.4f}"


class ShowProgress(Protocol):
    """Draws progress."""

    def __call__(
        self, done: int | None, total: int | None, n_failed: int = 0, description: str | None = None, /
    ) -> None:
        """Draw how many things are done, how many there are, and how many failed; another description begins anew.

        None leaves a thing as it is.
        """


@contextlib.contextmanager
def progress_bar(description: str, *, quiet: bool) -> Iterator[ShowProgress]:
    """Show progress, its rate and the remaining time on stderr while the block runs, if that is a terminal.

    Args:
        description: stands before the bar.
        quiet: show nothing.

    Yields:
        What draws it.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    told = TextColumn("{task.fields[told]}")
    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn(), told)
    console = Console(stderr=True, soft_wrap=True)  # a message stays on its line: the terminal wraps it, if it must
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(description, total=None, told="")

        def show(done: int | None, total: int | None, n_failed: int = 0, description: str | None = None, /) -> None:
            if description is not None:
                progress.reset(task, description=description, told="")
            progress.update(task, completed=done, total=total)
            so_far = progress.tasks[task]
            rate = so_far.completed / (so_far.elapsed or 1)  # rich's own jumps where batches end close to each other
            failed = f"  {n_failed:,} failed" if n_failed else ""
            progress.update(task, told=f"{rate:,.{1 if rate < 10 else 0}f}/s{failed}" if so_far.completed else failed)

        yield show
