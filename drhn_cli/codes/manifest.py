"""The manifest of a code file: which folder, which model, which preprocessing made the codes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from drhn_cli import __version__
from drhn_cli.codes.pack import code_size
from drhn_cli.errors import CodeFileError, ConfigError

IMPORTED_MODEL = "imported"
IMPORTED_FINGERPRINT = "0" * 64
"""Of codes that no network of ours made: the sha256 of nothing that is known."""

_TYPES: dict[str, type] = {
    "root": str,
    "bits": int,
    "model": str,
    "fingerprint": str,
    "preprocessing": dict,
    "drhn_version": str,
    "n_items": int,
}


@dataclass(frozen=True, kw_only=True)
class CodePart:
    """Which part of a collection a code file holds, where several are hashed apart.

    Attributes:
        number: of this part, from 1.
        count: of parts.
        finished: whether all of its pictures are there, of sources that could all be read.
    """

    number: int
    count: int
    finished: bool = True

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Undo ``dataclasses.asdict``.

        Raises:
            CodeFileError: it is no such part. The caller adds the path.
        """
        types = {"number": int, "count": int, "finished": bool}
        if (
            not isinstance(value, dict)
            or {name: type(inner) for name, inner in value.items()} != types
            or not 1 <= value["number"] <= value["count"]
        ):
            raise CodeFileError(
                "damaged manifest", expected="'part': a number, a count, whether finished", found=repr(value)
            )
        return cls(**value)


@dataclass(frozen=True, kw_only=True)
class CodeManifest:
    """What made the codes.

    Attributes:
        root: folder that the paths are relative to, as ``os.fsdecode`` gives it (undecodable bytes as surrogates).
        n_bits: length of a code, 1..4096.
        model: name of the model.
        fingerprint: sha256 of weights, preprocessing and threshold, 64 hexadecimal digits. Codes with different
            fingerprints cannot be compared.
        preprocessing: how a picture became the network's input, JSON-ready.
        drhn_version: version of drhn that wrote the file.
        part: of a collection whose parts are hashed apart; None: all that was asked for.

    Raises:
        ConfigError: ``n_bits`` is out of its range.
    """

    root: str
    n_bits: int
    model: str
    fingerprint: str
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    drhn_version: str = __version__
    part: CodePart | None = None

    def __post_init__(self) -> None:
        code_size(self.n_bits)

    def describe(self) -> dict[str, Any]:
        """Return what ``drhn info`` shows of it, JSON-ready."""
        return {
            "bits": self.n_bits,
            "root": self.root,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "preprocessing": dict(self.preprocessing),
        }

    def to_json(self, *, n_items: int, format_version: int) -> bytes:
        """Return the manifest as JSON in ASCII. Equal manifests give equal bytes: sorted keys, no time of day."""
        values = {
            "format_version": format_version,
            "root": self.root,
            "bits": self.n_bits,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "preprocessing": dict(self.preprocessing),
            "drhn_version": self.drhn_version,
            "n_items": n_items,
            **({} if self.part is None else {"part": asdict(self.part)}),
        }
        # ASCII, because a root that is not UTF-8 holds lone surrogates, which UTF-8 cannot carry but \udcXX can.
        return json.dumps(values, ensure_ascii=True, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_json(cls, text: bytes) -> tuple[Self, int]:
        """Undo ``to_json``; keys that this version does not know are ignored.

        Returns:
            The manifest, and the number of items it speaks of.

        Raises:
            CodeFileError: not JSON, or a key is missing or of another type. The caller adds the path.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CodeFileError("damaged manifest", expected="JSON", found=str(error)) from error
        if not isinstance(values, dict):
            raise CodeFileError("damaged manifest", expected="a JSON object", found=type(values).__name__)
        for name, kind in _TYPES.items():
            if type(values.get(name)) is not kind:
                found = type(values[name]).__name__ if name in values else "nothing"
                raise CodeFileError("damaged manifest", expected=f"{name!r} of type {kind.__name__}", found=found)
        try:
            manifest = cls(
                root=values["root"],
                n_bits=values["bits"],
                model=values["model"],
                fingerprint=values["fingerprint"],
                preprocessing=values["preprocessing"],
                drhn_version=values["drhn_version"],
                part=CodePart.from_json(values["part"]) if "part" in values else None,
            )
        except ConfigError as error:
            raise CodeFileError("damaged manifest", expected=f"'bits': {error.expected}", found=error.found) from error
        return manifest, values["n_items"]
