"""The manifest of a code file: which folder, which model and which preprocessing made the codes."""

from __future__ import annotations

import json
import math
import ntpath
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from drhn_cli import __version__
from drhn_cli.codes.pack import code_size
from drhn_cli.errors import AnyPath, CodeFileError, ConfigError

IMPORTED_MODEL = "imported"
IMPORTED_FINGERPRINT = "0" * 64
"""For codes that no drhn model made; not a real sha256."""

DCT_BYTES, HEAD_BYTES = 32, 32
"""Bytes of a copy code: signs of the DCT, and what the copy head adds."""

COPY_CODE_SIZES = (0, DCT_BYTES, DCT_BYTES + HEAD_BYTES)

_TEXTS = ("root", "model", "fingerprint", "drhn_version")
_TYPES: dict[str, type] = {**dict.fromkeys(_TEXTS, str), "bits": int, "n_items": int, "preprocessing": dict}

MAX_ROOT_BYTES = 4096
_MAX_DEPTH = 32  # of JSON; to_json of what was read must not exhaust the stack
_SHA256 = re.compile("[0-9a-f]{64}")


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
class CopyCodes:
    """How the copy codes of a file were made. Those that were made otherwise cannot be compared.

    Attributes:
        dct: version of the signs of the DCT, ``drhn_cli.network.copy_code.DCT_VERSION``, from 1.
        head: sha256 of the copy head, 64 hexadecimal digits. None: rows have no bytes of one.
    """

    dct: int
    head: str | None = None

    @property
    def size(self) -> int:
        """Bytes of a copy code."""
        return DCT_BYTES + (HEAD_BYTES if self.head is not None else 0)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Undo ``dataclasses.asdict``. Other values are a CodeFileError, to which the caller adds the path."""
        if isinstance(value, dict) and value.keys() == {"dct", "head"}:
            dct, head = value["dct"], value["head"]
            is_head = head is None or (isinstance(head, str) and _SHA256.fullmatch(head))
            if type(dct) is int and dct > 0 and is_head:
                return cls(dct=dct, head=head)
        raise CodeFileError("damaged manifest", expected="'copy_codes': a dct, a head", found=repr(value))


@dataclass(frozen=True, kw_only=True)
class LastRun:
    """What ``drhn hash`` was asked for when it last changed the file; of a merged file, what would make the whole.

    Attributes:
        sources: absolute paths, as ``os.fsdecode`` gives them. None: too many to be noted.
        options: which pictures were taken, and how they were hashed; JSON-ready.
    """

    sources: Sequence[str] | None
    options: Mapping[str, Any]

    @classmethod
    def from_json(cls, sources: Any, options: Any) -> Self | None:
        """Return the run that a manifest notes, or None. Other values are a CodeFileError without a path."""
        if options is None:
            return None
        are_sources = sources is None or (isinstance(sources, list) and all(type(each) is str for each in sources))
        if not are_sources or not isinstance(options, dict):
            expected = "'sources': a list of paths, 'options': an object"
            raise CodeFileError("damaged manifest", expected=expected, found=f"{sources!r:.200} {options!r:.200}")
        return cls(sources=sources, options=options)


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
        copy_codes: how they were made; None: the file has none.
        last_run: what made the file. None: not known, not ``drhn hash``, or parts that were made in different ways.

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
    copy_codes: CopyCodes | None = None
    last_run: LastRun | None = None

    def __post_init__(self) -> None:
        code_size(self.n_bits)

    @property
    def copy_code_size(self) -> int:
        """Bytes of a copy code; 0 where the file has none."""
        return 0 if self.copy_codes is None else self.copy_codes.size

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
            "copy_codes": self.copy_codes and asdict(self.copy_codes),
            "sources": self.last_run and self.last_run.sources,
            "options": self.last_run and self.last_run.options,
        }
        # ASCII, because a root that is not UTF-8 holds lone surrogates, which UTF-8 cannot encode but \udcXX can.
        return json.dumps(values, ensure_ascii=True, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_json(cls, text: bytes) -> tuple[Self, int]:
        """Return the manifest and n_items of ``to_json``; keys that this version does not know are ignored.

        Raises:
            CodeFileError: not JSON, or a key is missing or of another type. The caller adds the path.
        """
        values = _read_object(text)
        for name, kind in _TYPES.items():
            if type(values.get(name)) is not kind:
                found = type(values[name]).__name__ if name in values else "nothing"
                raise CodeFileError("damaged manifest", expected=f"{name!r} of type {kind.__name__}", found=found)
        _check_root(values["root"])
        if not _SHA256.fullmatch(values["fingerprint"]):
            expected = "'fingerprint' of 64 hexadecimal digits"
            raise CodeFileError("damaged manifest", expected=expected, found=repr(values["fingerprint"]))
        kept = {name: values[name] for name in (*_TEXTS, "preprocessing")}
        try:
            shard = Shard.from_json(values["part"]) if "part" in values else None
            copy_codes = CopyCodes.from_json(values["copy_codes"]) if values.get("copy_codes") is not None else None
            last_run = LastRun.from_json(values.get("sources"), values.get("options"))
            manifest = cls(n_bits=values["bits"], shard=shard, copy_codes=copy_codes, last_run=last_run, **kept)
        except ConfigError as error:
            raise CodeFileError("damaged manifest", expected=f"'bits': {error.expected}", found=error.found) from error
        return manifest, values["n_items"]


def _read_object(text: bytes) -> dict[str, Any]:
    """Read JSON strictly: no NaN or infinity, no deep nesting, no text that is not what ``os.fsdecode`` gives."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name}, which is no JSON")

    try:
        values = json.loads(text, parse_constant=refuse)
        _check_values(values, _MAX_DEPTH)
    except (ValueError, RecursionError) as error:
        raise CodeFileError("damaged manifest", expected="JSON", found=str(error)) from error
    if not isinstance(values, dict):
        raise CodeFileError("damaged manifest", expected="a JSON object", found=type(values).__name__)
    return values


def _check_values(value: Any, depth: int) -> None:
    if isinstance(value, dict | list):
        if not depth:
            raise ValueError(f"nested deeper than {_MAX_DEPTH}")
        for inner in value:
            _check_values(inner, depth - 1)
        if isinstance(value, dict):
            for inner in value.values():
                _check_values(inner, depth - 1)
    elif isinstance(value, str):
        os.fsencode(value)  # a lone surrogate that stands for no byte is a UnicodeEncodeError, which is a ValueError
    elif isinstance(value, float) and not math.isfinite(value):  # 1e999
        raise ValueError("a number beyond all numbers")


def _check_root(root: str) -> None:
    # Of any system: a code file that was made on Windows is searched on Linux.
    parts = root.split("/") if posixpath.isabs(root) else re.split(r"[\\/]", root)
    is_absolute = posixpath.isabs(root) or ntpath.isabs(root)
    is_sound = is_absolute and "\0" not in root and len(os.fsencode(root)) < MAX_ROOT_BYTES
    if not is_sound or ".." in parts:
        raise CodeFileError("damaged manifest", expected="'root': an absolute path", found=f"{root!r:.200}")
