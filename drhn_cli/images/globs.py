"""Globs that leave files and folders out, in the manner of .gitignore, ripgrep and fd."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

_START = re.compile(r"^\.?/")
# Longest first. A character class needs its closing bracket: without one, "[" stands for itself.
_TOKEN = re.compile(r"\\.|\*\*/|/\*\*$|\*+|\?|\[[!^]?\]?[^\]]*\]|.", re.DOTALL)
_WILDCARDS = {"**/": "(?:.*/)?", "/**": "/.*", "**": ".*", "?": "[^/]"}
_NOTHING = "(?!)"  # a regular expression that matches nothing


def compile_excludes(patterns: Sequence[str]) -> Callable[[str, bool], bool]:
    """Build a predicate that says whether a path is left out.

    A pattern without ``/`` matches a file's or folder's own name at any depth; one with ``/`` inside it or in front, or
    ``./`` in front, matches the whole path relative to the source. ``*`` and ``?`` stop at ``/``, ``**`` crosses it,
    ``[a-z]`` and ``[!a-z]`` (or ``[^a-z]``) match one character, a backslash makes the next character stand for itself,
    and a ``/`` at the end means folders only. Case counts. What lies in a folder that is left out is left out too, as
    it is never looked at.

    An empty pattern matches nothing. The predicate takes the path relative to the source, with ``/`` between its parts,
    and whether it is a folder.

    The rules are those of https://git-scm.com/docs/gitignore, without its negation.
    """
    files = _compile(pattern for pattern in patterns if not pattern.endswith("/"))
    folders = _compile(pattern.removesuffix("/") for pattern in patterns)
    return lambda path, is_folder: (folders if is_folder else files).fullmatch(path) is not None


def _compile(globs: Iterable[str]) -> re.Pattern[str]:
    regexes = [f"(?:{_to_regex(glob)})" for glob in globs if glob]
    return re.compile("|".join(regexes) or _NOTHING, re.DOTALL)


def _to_regex(glob: str) -> str:
    anchored = "/" in glob
    regex = "".join(_translate(token) for token in _TOKEN.findall(_START.sub("", glob)))
    return regex if anchored else f"(?:.*/)?{regex}"


def _translate(token: str) -> str:
    if token in _WILDCARDS:
        return _WILDCARDS[token]
    if token.startswith("*"):
        return "[^/]*"
    if token.startswith("\\") and len(token) == 2:
        return re.escape(token[1])
    if token.startswith("[") and len(token) > 2:
        return _character_class(token[1:-1])
    return re.escape(token)


def _character_class(body: str) -> str:
    negated = body[0] in "!^"
    members = body[negated:]
    escaped = re.sub(r"([\\\[\]^&~|])", r"\\\1", members)
    candidate = f"(?!/)[{'^' if negated else ''}{escaped}]"
    try:
        re.compile(candidate)
    except re.error:  # a range the wrong way round, such as [z-a]
        return re.escape(f"[{body}]")
    return candidate
