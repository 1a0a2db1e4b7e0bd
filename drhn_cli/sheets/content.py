"""What stands on a sheet, whatever it is drawn as."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MARK = b"drhn sheet"
"""Stands in the first bytes of every sheet, so that no other file is taken for one."""


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A small copy of a picture, as a person would see it.

    Attributes:
        data: a WebP or JPEG file.
        media_type: ``image/webp`` or ``image/jpeg``.
        width: in pixels.
        height: in pixels.
    """

    data: bytes
    media_type: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Card:
    """A picture and what is known of it. All text is one printable line, and still to be escaped.

    Attributes:
        name: of the file.
        folder: where it lies; empty for the code file's root, and for what is no file.
        path: absolute, to be linked; None for what is no file.
        picture: its thumbnail, or the reason why there is none.
        distance: bits that differ from the query; None for the query itself.
    """

    name: str
    folder: str
    path: bytes | None
    picture: Thumbnail | str
    distance: int | None = None


@dataclass(frozen=True, kw_only=True)
class Section:
    """A query and its answer.

    Attributes:
        query: what was looked for.
        summary: the answer in a line.
        matches: nearest first; made while they are drawn.
    """

    query: Card
    summary: str
    matches: Iterator[Card]


@dataclass(frozen=True, kw_only=True)
class About:
    """Where the answers come from. Text as in ``Card``.

    Attributes:
        codes: name of the code file.
        summary: what it holds, in a line.
    """

    codes: str
    summary: str
