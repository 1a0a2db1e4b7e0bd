"""The commands, each imported when it is asked for: the options of all take longer than most answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

_PLACES = {
    "hash": "collection.hash_",
    "query": "retrieval.query",
    "dups": "retrieval.dups",
    "compare": "retrieval.compare",
    "merge": "collection.merge",
    "push": "collection.push",
    "info": "collection.info",
    "export": "collection.export",
    "import": "collection.import_",
    "train": "train.train",
    "eval": "eval.eval_",
    "weights": "weights.weights",
}
"""The module and the function of each command."""


class _Command(TyperCommand):
    """A command whose help page calls arguments what the usage does, where newer typers add Python's types."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        for parameter in self.params:
            if parameter.param_type_name == "argument":
                vars(parameter)["display_type_rich"] = lambda ctx: None  # noqa: ARG005


@cache
def _command(name: str) -> TyperCommand:
    module, function = _PLACES[name].split(".")
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    alone.command(name, cls=_Command)(getattr(import_module(f"drhn_cli.cli.{module}"), function))
    return cast(TyperCommand, typer.main.get_command(alone))


class _Commands(Mapping[str, TyperCommand]):
    def __getitem__(self, name: str) -> TyperCommand:
        return _command(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)


class Commands(TyperGroup):
    """The commands as a group, in the order of the help page."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands()  # type: ignore[assignment]  # nobody adds to it

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - where typer's own would make all of them
        """Return their names."""
        return list(self.commands)
