"""The commands, each imported when it is asked for: the options of all take longer than most answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

_FUNCTIONS = {
    "hash": "hash_",
    "query": "query",
    "dups": "dups",
    "compare": "compare",
    "index": "index",
    "merge": "merge",
    "push": "push",
    "info": "info",
    "export": "export",
    "import": "import_",
    "train": "train",
    "eval": "eval_",
    "weights": "weights",
}
"""The function of each command. Its module is called as the command is, but for the keyword among them."""

_MODULES = {"import": "import_"}


class _Command(TyperCommand):
    """A command whose help page calls arguments what the usage does, where newer typers add Python's types."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        for parameter in self.params:
            if parameter.param_type_name == "argument":
                vars(parameter)["display_type_rich"] = lambda ctx: None  # noqa: ARG005


@cache
def _command(name: str) -> TyperCommand:
    module = import_module(f"drhn_cli.cli.{_MODULES.get(name, name)}")
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    alone.command(name, cls=_Command)(getattr(module, _FUNCTIONS[name]))
    return cast(TyperCommand, typer.main.get_command(alone))


class _Commands(Mapping[str, TyperCommand]):
    def __getitem__(self, name: str) -> TyperCommand:
        if name not in _FUNCTIONS:
            raise KeyError(name)
        return _command(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_FUNCTIONS)

    def __len__(self) -> int:
        return len(_FUNCTIONS)


class Commands(TyperGroup):
    """The commands as a group, in the order of the help page."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands()  # type: ignore[assignment]  # nobody adds to it

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - where typer's own would make all of them
        """Return their names."""
        return list(self.commands)
