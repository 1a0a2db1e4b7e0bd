"""Settings: frozen dataclasses, validated when made, stored as JSON."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Self

from drhn_cli.errors import ConfigError

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", tuple: "a list"}


def setting(default: Any, about: str, expected: str = "", holds: Callable[[Any], bool] = lambda _: True) -> Any:
    """Return a dataclass field with what it is about, the values it expects, and whether a value is one of them.

    ``holds`` sees only values of the default's type. A default of None means that the setting may be left out.
    """
    return field(default=default, metadata={"about": about, "expected": expected, "holds": holds})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of settings: a subclass is a frozen, keyword-only dataclass of plain values and tuples of them.

    Raises:
        ConfigError: a value is out of its range.
    """

    def __post_init__(self) -> None:
        for one in fields(self):
            value, default = getattr(self, one.name), one.default
            if default is MISSING or value is default is None:
                continue
            if default is not None:
                kind = type(default)
                is_kind = type(value) is kind or (kind is float and type(value) is int)
                require(is_kind, one.name, one.metadata.get("expected") or _KINDS[kind], value)
            if "holds" in one.metadata:
                require(one.metadata["holds"](value), one.name, one.metadata["expected"], value)
        self.check()

    def check(self) -> None:
        """Validate what more than one setting decides: a subclass calls ``require``."""

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
        refuse_unknown(values, [one.name for one in fields(cls)], cls.__name__)
        try:
            return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
        except TypeError as error:  # a name is missing, or a list holds another type
            raise ConfigError(f"{cls.__name__} is not complete", found=str(error)) from error


def require(condition: bool, setting: str, expected: str, found: object) -> None:
    """Raise a ``ConfigError`` about a setting's value if the condition does not hold."""
    if not condition:
        raise ConfigError(f"{setting} is out of range", expected=expected, found=repr(found))


def refuse_unknown(names: Iterable[object], known: Collection[str], where: str) -> None:
    """Raise a ``ConfigError`` about the first name that is not known; it names the nearest one that is."""
    if unknown := sorted({str(name) for name in names} - set(known)):
        hint = "update drhn: a newer version wrote this"
        if nearest := difflib.get_close_matches(unknown[0], sorted(known), n=1):
            hint = f"did you mean {nearest[0]!r}? Or {hint}"
        raise ConfigError(f"unknown setting {unknown[0]!r} in {where}", hint=hint)
