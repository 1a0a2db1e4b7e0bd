"""The command reference and the man pages, written from the help of the commands.

``python -m drhn_cli.cli.manual`` writes both in a checkout: what stands between the marks of ``README.md``, which is
otherwise written by hand, and ``man/*.1``, which the wheel installs. A test holds them equal to the program's help.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import typer

from drhn_cli.cli.app import ExitStatus, app

REFERENCE = Path(__file__).with_name("README.md")
MAN_FOLDER = Path(__file__).with_name("man")

_DATE = "December 1, 2026"  # of the man pages
_MARKED = re.compile(r"(<!-- generated: (\S+) -->\n).*?(?=<!-- end of generated -->)", re.DOTALL)
_ROFF = str.maketrans({"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti", '"': r"\(dq"})


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """An argument or an option: its names (none for an argument), what it takes, what it means."""

    names: Sequence[str] = ()
    value: str = ""
    about: str
    is_required: bool = False


@dataclass(frozen=True, kw_only=True)
class Help:
    """The help of a command, in parts: a sentence, command lines, paragraphs, arguments and options."""

    name: str
    summary: str
    examples: Sequence[str]
    text: Sequence[str]
    arguments: Sequence[Parameter]
    options: Sequence[Parameter]


@cache
def helps() -> dict[str, Help]:
    """Return the help of the program, named ``drhn``, and of each command by its name."""
    group: Any = typer.main.get_command(app)
    commands = {name: group.get_command(None, name) for name in group.list_commands(None)}
    return {
        "drhn": _help("drhn", group),
        **{name: _help(f"drhn {name}", command) for name, command in commands.items()},
    }


def _help(name: str, command: Any) -> Help:
    summary, *paragraphs = inspect.cleandoc(command.help).split("\n\n")
    examples = [each for each in paragraphs if "\n" not in each and not each.endswith(".")]
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    help_option = Parameter(names=("-h", "--help"), about="Show a help page and exit.")
    return Help(
        name=name,
        summary=summary,
        examples=examples,
        text=[each for each in paragraphs if each not in examples],
        arguments=[Parameter(value=each.metavar, about=each.help, is_required=each.required) for each in arguments],
        options=[*map(_option, options), help_option],
    )


def _option(option: Any) -> Parameter:
    value = "" if option.is_flag else option.metavar or "|".join(option.type.choices)
    about, *notes = re.split(r"  \[(.*)\]$", option.help)[:2]
    if not notes and option.default not in (None, False) and not option.required:
        notes = [f"default: {option.default}"]
    about = " ".join([about, *(f"{note[0].upper()}{note[1:]}." for note in notes), *["Required."] * option.required])
    return Parameter(names=[*sorted(option.opts, key=len), *option.secondary_opts], value=value, about=about)


def reference(text: str) -> str:
    """Return the text of the command reference with its marked parts generated anew."""
    return _MARKED.sub(lambda part: part[1] + "\n".join(_markdown(part[2])) + "\n", text)


def _markdown(name: str) -> Iterator[str]:
    """Yield the lines of a marked part: ``statuses``, or all that the help of a command says."""
    if name == "statuses":
        yield from ("| status | meaning |", "|---|---|")
        yield from (f"| {status.value} | {status.about} |" for status in ExitStatus)
        return
    page = helps()[name]
    yield from (page.summary, "", "```text", _usage(page), "", *page.examples, "```", "")
    for paragraph in page.text:
        yield from (paragraph, "")
    yield from ("| option | meaning |", "|---|---|")
    for each in (*page.arguments, *page.options):
        *first, last = each.names or [each.value]
        shown = [*first, f"{last} {each.value}".strip() if each.names else last]
        names = ", ".join(f"`{one}`" for one in shown).replace("|", r"\|")
        yield f"| {names} | {each.about} |"


def _usage(page: Help) -> str:
    arguments = [each.value if each.is_required else f"[{each.value}]" for each in page.arguments]
    return " ".join([page.name, "[OPTIONS]", *(arguments if page.name != "drhn" else ["COMMAND", "..."])])


def man_pages() -> dict[str, str]:
    """Return the mdoc source of each man page by its file name."""
    return {f"{page.name.replace(' ', '-')}.1": "\n".join(_mdoc(page)) + "\n" for page in helps().values()}


def _mdoc(page: Help) -> Iterator[str]:
    title = page.name.replace(" ", "-")
    yield r".\" Written by python -m drhn_cli.cli.manual from the help of the command. Change that instead."
    yield from (f".Dd {_DATE}", f".Dt {title.upper()} 1", ".Os", ".Sh NAME", f".Nm {title}")
    yield f".Nd {_roff(page.summary[0].lower() + page.summary[1:].removesuffix('.'))}"
    yield from (".Sh SYNOPSIS", f".Nm {page.name}", ".Op Ar options")
    yield from (f".{'Ar' if each.is_required else 'Op Ar'} {_roff(each.value)}" for each in page.arguments)
    if page.name == "drhn":
        yield from (".Ar command", ".Op Ar ...")
    yield from (".Sh DESCRIPTION", _roff(page.summary))
    for paragraph in page.text:
        yield from (".Pp", _roff(paragraph))
    others = [other for other in helps().values() if other is not page]
    if page.name == "drhn":
        yield from (".Sh COMMANDS", ".Bl -tag -width Ds")
        for other in others:
            yield from (f".It {other.name.removeprefix('drhn ')}", _roff(other.summary))
        yield ".El"
    yield from (".Sh OPTIONS", ".Bl -tag -width Ds")
    for each in (*page.arguments, *page.options):
        names = " , ".join(f"Fl {_roff(name[1:])}" for name in each.names)
        value = f"Ar {_roff(each.value)}" if each.value else ""
        yield from (f".It {' '.join(filter(None, (names, value)))}", _roff(each.about))
    yield from (".El", ".Sh EXIT STATUS", ".Bl -tag -width Ds")
    for status in ExitStatus:
        yield from (f".It {status.value}", f"{status.about[0].upper()}{status.about[1:]}.")
    yield from (".El", ".Sh EXAMPLES", ".Bd -literal", *(_roff(example) for example in page.examples), ".Ed")
    yield from (".Sh SEE ALSO", " ,\n".join(sorted(f".Xr {other.name.replace(' ', '-')} 1" for other in others)))


def _roff(text: str) -> str:
    """Return text that roff takes literally, each sentence on a line of its own."""
    sentences = re.sub(r"(?<=[^. ][.?]) (?=[A-Z-])", "\n", " ".join(text.split("\n"))).translate(_ROFF)
    return re.sub(r"^(?=\.)", r"\&", sentences, flags=re.MULTILINE)


def main() -> None:
    """Write the reference and the man pages anew."""
    REFERENCE.write_text(reference(REFERENCE.read_text(encoding="utf-8")), encoding="utf-8")
    for name, source in man_pages().items():
        (MAN_FOLDER / name).write_text(source, encoding="utf-8")


if __name__ == "__main__":
    main()
