"""The commands put together, and errors turned into messages and exit statuses."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from drhn_cli import __version__
from drhn_cli.cli.commands import Commands
from drhn_cli.cli.output import discard, flush, messages, report, report_error, stdout_error
from drhn_cli.cli.status import ExitStatus
from drhn_cli.errors import DrhnError, printable

app = typer.Typer(
    name="drhn",
    cls=Commands,
    rich_markup_mode=None,  # plain help, and no rich to import
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done or found, 1 nothing found, 2 an error, 130 interrupted.",
)


# Older typers use the click package, newer ones a copy inside: this is the right class of either.
_UsageError: type[Any] = typer.BadParameter.__mro__[1]


_RENAMED = {"--rank": "--order"}
"""Options that had another name."""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"drhn {__version__}")
        raise typer.Exit


@app.callback()
def drhn(
    version: Annotated[  # noqa: ARG001 - its callback does it
        bool,
        typer.Option("--version", "-V", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Find pictures by content.

    drhn hash ./photos -o codes.bin          hash a folder into one small file

    drhn query img.jpg codes.bin --top 10    find the pictures most like one

    drhn train ./labelled -o weights.npz     train a network on your own classes
    """
    _require_working_directory()


def _require_working_directory() -> None:
    """Refuse to run in a folder that was removed: relative paths mean nothing there, and torch cannot be imported."""
    try:
        os.getcwd()
    except OSError as error:
        hint = "change to a folder that is there"
        raise DrhnError("the working directory is gone", found=error.strerror, hint=hint) from error


def _is_of_echo(error: OSError) -> bool:
    """Tell whether it was typer that could not write: a help page, the version, a completion script."""
    place = error.__traceback__
    while place and place.tb_next:
        place = place.tb_next
    return place is not None and place.tb_frame.f_code is typer.echo.__code__


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name. Default: the process's own.

    Returns:
        The exit status.
    """
    try:
        status = app(args=arguments, prog_name="drhn", standalone_mode=False)
        flush()
    except _UsageError as error:
        with messages():
            error.show()
        given = sys.argv[1:] if arguments is None else arguments
        for name in (name for name in given if name.startswith("-") and os.path.lexists(name)):
            report(f"{printable(name)} begins with a dash; a file of that name is ./{printable(name)}")
        for old, new in _RENAMED.items():
            if any(name.partition("=")[0] == old for name in given):
                report(f"{old} is now {new}")
        return ExitStatus.ERROR
    except (KeyboardInterrupt, typer.Abort):
        return ExitStatus.INTERRUPTED
    except (BrokenPipeError, SystemExit) as error:
        # The reader has enough, which is no failure. Inside a command typer makes an exit with status 1 of it.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        discard(sys.stdout)
        return ExitStatus.DONE
    except DrhnError as error:
        report_error(error)
        return ExitStatus.ERROR
    except OSError as error:
        if not _is_of_echo(error):
            raise
        report_error(stdout_error(error))
        return ExitStatus.ERROR
    return int(status or ExitStatus.DONE)
