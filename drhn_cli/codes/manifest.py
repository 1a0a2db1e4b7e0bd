"""The manifest of a code file: which folder, which model and which preprocessing made the codes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from drhn_cli import __version__
from drhn_cli.codes.pack import code_size
from drhn_cli.errors import AnyPath, CodeFileError, ConfigError

IMPORTED_MODEL = "imported"
IMPORTED_FINGERPRINT = "0" * 64
"""For codes that no drhn model made; not a real sha256."""

_TEXTS = ("root", "model", "fingerprint", "drhn_version")
_TYPES: dict[str, type] = {**dict.fromkeys(_TEXTS, str), "bits": int, "n_items": int, "preprocessing": dict}


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One of the parts in which a collection is hashed, each into a code file of its own.

    Attributes:
        number: of this shard, from 1.
        count: of shards.
        finished: whether all of its pictures are in its file, and all sources could be read.

    Raises:
        ConfigError: there is no such shard.
    """

    number: int
    count: int
    finished: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ConfigError(f"no such part: {self.number}/{self.count}", expected=f"1 to {self.count}")

    def holds(self, name: bytes) -> bool:
        """Return whether a picture with this path, relative to the sources' common folder, belongs to this shard.

        The path's hash decides: added or deleted pictures move no others to another shard, and processes that list
        a folder at different times agree on the pictures that both have listed.
        """
        from hashlib import blake2b  # two milliseconds, which reading a code file does without

        digest = blake2b(name, digest_size=8).digest()
        return int.from_bytes(digest) % self.count == self.number - 1

    def path_of(self, codes_path: AnyPath) -> Path:
        """Return the name of this shard's code file: ``codes-00002-of-00004.bin`` of ``codes.bin``."""
        stem, suffix = os.path.splitext(os.fsdecode(codes_path))
        return Path(f"{stem}-{self.number:05}-of-{self.count:05}{suffix}")

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Undo ``dataclasses.asdict``. What is no shard is a CodeFileError, to which the caller adds the path."""
        types = {"number": int, "count": int, "finished": bool}
        is_shard = isinstance(value, dict) and {name: type(inner) for name, inner in value.items()} == types
        if not is_shard or not 1 <= value["number"] <= value["count"]:
            expected = "'part': a number, a count, whether finished"
            raise CodeFileError("damaged manifest", expected=expected, found=repr(value))
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
        shard: which the file holds; None: the file is not a shard.

    Raises:
        ConfigError: ``n_bits`` is out of its range.
    """

    root: str
    n_bits: int
    model: str
    fingerprint: str
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    drhn_version: str = __version__
    shard: Shard | None = None

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
            **self.describe(),
            "format_version": format_version,
            "drhn_version": self.drhn_version,
            "n_items": n_items,
            **({} if self.shard is None else {"part": asdict(self.shard)}),
        }
        # ASCII, because a root that is not UTF-8 holds lone surrogates, which UTF-8 cannot encode but \udcXX can.
        return json.dumps(values, ensure_ascii=True, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_json(cls, text: bytes) -> tuple[Self, int]:
        """Return the manifest and n_items of ``to_json``; keys that this version does not know are ignored.

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
        kept = {name: values[name] for name in (*_TEXTS, "preprocessing")}
        try:
            shard = Shard.from_json(values["part"]) if "part" in values else None
            manifest = cls(n_bits=values["bits"], shard=shard, **kept)
        except ConfigError as error:
            raise CodeFileError("damaged manifest", expected=f"'bits': {error.expected}", found=error.found) from error
        return manifest, values["n_items"]
