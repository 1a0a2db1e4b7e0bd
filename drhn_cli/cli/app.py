"""The program: its commands, how errors and signals end it, and its exit statuses.

A command's module is imported when the command is asked for: the options of all commands take longer to build than most
answers. In ``run`` errors become a line on stderr, with ``--json`` an object on stdout too, and an exit status. Ctrl-C
ends a command by ``KeyboardInterrupt``; so does SIGTERM in ``saving_on_sigterm``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from enum import IntEnum
from functools import cache
from importlib import import_module
from itertools import takewhile
from typing import Annotated, Any, Self, cast

import typer
from typer.core import TyperCommand, TyperGroup

from drhn_cli import __version__
from drhn_cli.cli.output import discard, flush, json_path, messages, report, report_error, stdout_error, write_json
from drhn_cli.errors import DrhnError, printable

_COMMANDS = {
    "hash": "collection.hash_",
    "query": "retrieval.query",
    "words": "words.words",
    "label": "words.label",
    "dups": "duplicates.dups",
    "compare": "duplicates.compare",
    "merge": "collection.merge",
    "push": "collection.push",
    "info": "collection.info",
    "export": "collection.export",
    "import": "collection.import_",
    "train": "training.train",
    "eval": "training.eval_",
    "weights": "training.weights",
}
"""The module and the function of each command, in the order of the help page."""

_RENAMED_OPTIONS = {"--paths": "--files-from", "--rank": "--order", "--preset": "--recipe"}

# Older typers use the click package, newer ones have a copy of it inside: this finds the right class in both.
_UsageError: type[Any] = typer.BadParameter.__mro__[1]


class ExitStatus(IntEnum):
    """Exit statuses of the program, as in ripgrep."""

    DONE = 0, "done or found"
    NOTHING_FOUND = 1, "nothing found"
    ERROR = 2, "an error"
    INTERRUPTED = 130, "interrupted by Ctrl-C"
    TERMINATED = 143, "ended by SIGTERM"

    about: str

    def __new__(cls, status: int, about: str) -> Self:
        """Make a member of its value and of what help pages say of it."""
        member = int.__new__(cls, status)
        member._value_, member.about = status, about
        return member


class _Command(TyperCommand):
    """A command whose help page groups its options, and names arguments as its usage line does.

    Typer groups them where rich draws the page; newer typers show Python types of arguments instead of their names.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        for parameter in self.params:
            if parameter.param_type_name == "argument":
                vars(parameter)["display_type_rich"] = lambda ctx: None  # noqa: ARG005

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each ``rich_help_panel``, in the order of their first options."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        for parameter in self.get_params(ctx):
            heading = getattr(parameter, "rich_help_panel", None) or f"{parameter.param_type_name.capitalize()}s"
            if record := parameter.get_help_record(ctx):
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


class _Group(TyperGroup):
    """The commands, each imported when it is asked for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = dict.fromkeys(_COMMANDS)  # type: ignore[assignment]  # typer reads only the names

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | None:  # noqa: ARG002
        return _load_command(cmd_name) if cmd_name in _COMMANDS else None


@cache
def _load_command(name: str) -> TyperCommand:
    module, function = _COMMANDS[name].split(".")
    single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    single.command(name, cls=_Command)(getattr(import_module(f"drhn_cli.cli.{module}"), function))
    return cast(TyperCommand, typer.main.get_command(single))


app = typer.Typer(
    name="drhn",
    cls=_Group,
    rich_markup_mode=None,  # plain help, and no rich to import
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"Exit status: {', '.join(f'{status.value} {status.about}' for status in ExitStatus)}.",
)


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
    from drhn_cli.files import os_errors  # milliseconds that --version need not wait for

    # In a deleted folder relative paths have no meaning, and torch cannot be imported.
    hint = "change to a folder that is there"
    with os_errors(DrhnError, "the working directory is gone", path=None, hint=hint):
        os.getcwd()


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with these arguments, the process's own by default, and return the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        status = app(args=arguments, prog_name="drhn", standalone_mode=False)
        flush()
    except _UsageError as error:
        _show_usage_error(error, given)
        return ExitStatus.ERROR
    except (KeyboardInterrupt, typer.Abort):
        return ExitStatus.INTERRUPTED
    except (BrokenPipeError, SystemExit) as error:
        # The pipe's reader has closed it, which is no error. In a command, typer raises SystemExit instead.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        discard(sys.stdout)
        return ExitStatus.DONE
    except (DrhnError, ModuleNotFoundError) as error:
        error = _without_torch(error) if isinstance(error, ModuleNotFoundError) else error
        report_error(error)
        if "--json" in takewhile("--".__ne__, given):  # an error may come before the options are parsed
            _write_json_error(error)
        return ExitStatus.ERROR
    except OSError as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_code is not typer.echo.__code__:  # which writes help pages, the version and completion scripts
            raise
        report_error(stdout_error(error))
        return ExitStatus.ERROR
    return int(status or ExitStatus.DONE)


def _without_torch(error: ModuleNotFoundError) -> DrhnError:
    """Return the error for what only torch can do, where it is not installed; another missing module is a bug."""
    module = str(error.name).partition(".")[0]
    if module not in ("torch", "torchvision"):
        raise error
    return DrhnError(f"{module} is not installed, and this needs it", hint="install it: pip install torch torchvision")


def _write_json_error(error: DrhnError) -> None:
    try:
        write_json({"error": error.reason, "path": json_path(error.path)})
        flush()
    except (BrokenPipeError, DrhnError):  # stderr has the error
        discard(sys.stdout)


def _show_usage_error(error: Any, arguments: Sequence[str]) -> None:
    with messages():
        error.show()
    for name in (name for name in arguments if name.startswith("-") and os.path.lexists(name)):
        report(f"{printable(name)} begins with a dash; a file of that name is ./{printable(name)}")
    unknown = getattr(error, "option_name", "")
    options = {option for parameter in error.ctx.command.params for option in parameter.opts} if unknown else set()
    today = _RENAMED_OPTIONS.get(unknown)
    if "--set" in options and not today:
        from drhn_cli.training.recipe import setting_of

        today = setting_of(unknown)
    if today and today.split()[0] in options:
        report(f"{unknown} is now {today}")


class Terminated(KeyboardInterrupt):
    """SIGTERM was received; code that saves its work on Ctrl-C saves it now, too."""


@contextlib.contextmanager
def saving_on_sigterm() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C in the block, but end the program with SIGTERM's exit status.

    systemd, Slurm, torchrun, ``timeout`` and ``kill`` stop a program with SIGTERM.
    """
    before = signal.getsignal(signal.SIGTERM)
    if before == signal.SIG_DFL:  # a parent process may have it ignored
        signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        yield
    except Terminated:
        raise typer.Exit(ExitStatus.TERMINATED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise_terminated(*_: object) -> None:
    # Only once: timeout sends the signal twice, and the second must not interrupt the saving.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated
