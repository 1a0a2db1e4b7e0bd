"""Options that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import fields
from functools import partial
from io import BufferedIOBase
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, TypeVar, cast

from typer import Argument, Option

from drhn_cli.errors import ConfigError, DrhnError
from drhn_cli.paths import bundled_names

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_T = TypeVar("_T", bound="DataclassInstance")


def _refuse_table(codes: str) -> str:
    from drhn_cli.clickhouse.connection import TableAddress, is_table

    if is_table(codes):
        TableAddress.parse(codes)  # refuses a password, and does not repeat it
        problem, hint = "a table answers drhn query and drhn info alone", "name the code file that was pushed there"
        raise ConfigError(problem, expected="a code file", found=codes, hint=hint)
    return codes


def n_views(tta: bool | None) -> int | None:
    """Return how many views of a picture ``--tta`` asks for."""
    return None if tta is None else 1 + tta


def _devices() -> list[str]:
    return ["auto", "cuda", "mps", "cpu"]


def model_names() -> list[str]:
    """Return the names of the bundled models, for the shell to complete; it may not wait for numpy."""
    return bundled_names(".npz")


def recipe_names() -> list[str]:
    """Return the names of the bundled recipes, for the shell to complete."""
    return bundled_names(".toml")


def known_words(incomplete: str) -> list[str]:
    """Return the nouns that begin so, for the shell to complete; those of the classes of ImageNet.

    Spaces are underscores, which need no quotes and are understood as well.
    """
    from drhn_cli.retrieval.vocabulary import Vocabulary, read_wordnet

    begun = incomplete.replace("_", " ")
    return [noun.name.replace(" ", "_") for noun in Vocabulary(read_wordnet().class_names).nouns(f"{begun}*")]


Device = Annotated[
    str,
    Option(metavar="NAME", help="Where the network runs: auto, cuda, mps or cpu.", autocompletion=_devices),
]
Weights = Annotated[
    str | None,
    Option(
        metavar="NAME|FILE",
        help="A bundled model (see `drhn weights`) or a weights file.",
        autocompletion=model_names,
    ),
]
Words = Annotated[
    list[str] | None,
    Option(
        metavar="NOUN",
        help="Only pictures that show this; see `drhn words`. Repeatable: all of them.",
        autocompletion=known_words,
    ),
]
NotWords = Annotated[
    list[str] | None,
    Option(metavar="NOUN", help="Leave out pictures that may show this. Repeatable.", autocompletion=known_words),
]
Workers = Annotated[
    int | None, Option(min=1, metavar="N", help="Threads that decode pictures.  [default: one for each processor]")
]
Json = Annotated[bool, Option("--json", help="One JSON object a line on stdout.")]
Tta = Annotated[
    bool | None,
    Option(
        "--tta/--no-tta",
        help="Average the activations of two views of each picture, one of them mirrored, or not.  "
        "[default: as the weights say]",
    ),
]
Quiet = Annotated[bool, Option("--quiet", "-q", help="No progress and no summary; errors are still reported.")]
Null = Annotated[
    bool, Option("--null", "-0", help="Paths end with NUL instead of a newline, in the list read and in the output.")
]
Codes = Annotated[str, Argument(metavar="CODES", help="The code file.", callback=_refuse_table)]
Under = Annotated[list[str] | None, Option(metavar="DIR", help="Only pictures in this folder. Repeatable.")]
Exclude = Annotated[
    list[str] | None,
    Option(
        metavar="GLOB",
        help="Skip files and folders of this name or, with a /, of this path below the source or root. Repeatable.",
    ),
]
FilesFrom = Annotated[
    str | None, Option(metavar="FILE|-", help="Read paths from a file or stdin, one a line (NUL-ended with -0).")
]
DataDir = Annotated[Path | None, Option(metavar="DIR", help="Where torchvision keeps CIFAR-10.  [default: data]")]
Download = Annotated[bool, Option("--download", help="Fetch CIFAR-10 if it is not there.")]


def read_files_from(source: str | None, *, null: bool) -> Iterator[bytes]:
    """Yield the paths in a file, in stdin if it is ``-``, or none if it is None."""
    if source is None:
        return
    from drhn_cli.files import os_errors

    reading = os_errors(DrhnError, "cannot read the list of files", path=source)
    with reading, nullcontext(sys.stdin.buffer) if source == "-" else open(source, "rb") as stream:
        yield from read_path_list(stream, null=null)


def read_path_list(stream: BinaryIO, *, null: bool) -> Iterator[bytes]:
    r"""Yield the paths of a list such as ``find`` prints: one a line, or with ``null`` ended by NUL (``find -print0``).

    The list is read lazily. Empty entries are skipped. One ``\r`` at the end of a line is dropped, as
    lists made on Windows have it; a name that holds ``\n`` or ends in ``\r`` needs ``null``, which keeps every byte.
    """
    separator, dropped = (b"\0", b"") if null else (b"\n", b"\r")
    begun: list[bytes] = []  # joined once a path is complete: appending to bytes would take quadratic time
    # read1 does not wait for a full block: the program that writes the list may wait for the answer to its last path.
    read = partial(cast("BufferedIOBase", stream).read1, 1 << 16)
    for block in chain(iter(read, b""), [separator]):
        first, *others = block.split(separator)
        begun.append(first)
        if others:
            paths = [b"".join(begun), *others[:-1]]
            begun = others[-1:]
            yield from filter(None, (path.removesuffix(dropped) for path in paths))


def collect(kind: type[_T], given: Mapping[str, Any]) -> _T:
    """Make a dataclass of the given options that have the names of its fields."""
    return kind(**{field.name: given[field.name] for field in fields(kind) if field.name in given})
