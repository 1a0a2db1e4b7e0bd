"""Settings: frozen dataclasses, validated when made, stored as JSON."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from drhn_cli.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of settings: a subclass is a frozen, keyword-only dataclass of plain values and tuples of them.

    Raises:
        ConfigError: a value is out of its range.
    """

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Validate: a subclass calls ``require`` for each setting."""

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-ready values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild settings from ``to_dict``'s values.

        Raises:
            ConfigError: a name is missing or unknown, or a value is out of its range.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"{cls.__name__} is not complete", expected="named settings", found=repr(values))
        names = {setting.name for setting in fields(cls)}
        if unknown := sorted(values.keys() - names, key=str):
            problem, hint = f"unknown setting {unknown[0]!r} in {cls.__name__}", _hint_for(str(unknown[0]), names)
            raise ConfigError(problem, hint=hint)
        try:
            return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
        except TypeError as error:  # a name is missing, or a value is of another type
            raise ConfigError(f"{cls.__name__} is not complete", found=str(error)) from error


def require(condition: bool, setting: str, expected: str, found: object) -> None:
    """Raise a ``ConfigError`` about a setting's value if the condition does not hold."""
    if not condition:
        raise ConfigError(f"{setting} is out of range", expected=expected, found=repr(found))


def _hint_for(name: str, names: set[str]) -> str:
    update = "update drhn: a newer version wrote this"
    nearest = difflib.get_close_matches(name, sorted(names), n=1)
    return f"did you mean {nearest[0]!r}? Or {update}" if nearest else update
