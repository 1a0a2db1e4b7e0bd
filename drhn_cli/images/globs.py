"""Exclude patterns in the manner of .gitignore."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache

from drhn_cli.errors import ConfigError

_START = re.compile(r"^\.?/")
# Longest first. A character class needs its closing bracket: without one, "[" stands for itself.
_TOKEN = re.compile(r"\\.|\*\*/|/\*\*$|\*+|\?|\[[!^]?\]?[^\]]*\]|.", re.DOTALL)
_WILDCARDS = {"**/": "(?:.*/)?", "/**": "/.*", "**": ".*", "?": "[^/]"}

# A regular expression tries all ways to share a path out to the gaps of a pattern: a power of the path's length, by
# these weights. Beyond that an automaton is slower on ordinary paths, and as fast on all others.
_GAPS = {"**": 2, "**/": 2, "/**": 2}
_MAX_GAPS = 4


def compile_excludes(patterns: Sequence[str]) -> Callable[[str, bool], bool]:
    r"""Build a predicate that says whether a path is left out.

    A pattern without ``/`` matches a file's or folder's own name at any depth; one with ``/`` inside it or in front, or
    ``./`` in front, matches the whole path relative to the source. ``*`` and ``?`` stop at ``/``, ``**`` crosses it,
    ``[a-z]`` and ``[!a-z]`` (or ``[^a-z]``) match one character, a backslash makes the next character stand for itself,
    and a ``/`` at the end means folders only. Case counts. What lies in a folder that is left out is left out too, as
    it is never looked at.

    An empty pattern matches nothing. The predicate takes the path relative to the source, with ``/`` between its parts,
    and whether it is a folder.

    The rules are those of https://git-scm.com/docs/gitignore, without its negation.

    Raises:
        ConfigError: a pattern begins with ``!``, which is a negation there; ``\!`` is the character.
    """
    for pattern in patterns:
        if pattern.startswith("!"):
            hint = f"leave out fewer files, or write \\{pattern} for a name that begins with !"
            raise ConfigError("--exclude has no negation by !", found=pattern, hint=hint)
    files = _compile([pattern for pattern in patterns if not pattern.endswith("/")])
    folders = _compile([pattern.removesuffix("/") for pattern in patterns])
    return lambda path, is_folder: any(matches(path) for matches in (folders if is_folder else files))


def _compile(globs: Sequence[str]) -> list[Callable[[str], object]]:
    """Return a matcher of all simple patterns together, and one for each of the others."""
    regexes: list[str] = []
    matchers: list[Callable[[str], object]] = []
    for glob in filter(None, globs):
        tokens = _TOKEN.findall(_START.sub("", glob))
        if "/" not in glob:
            tokens.insert(0, "**/")
        if sum(_GAPS.get(token, token.startswith("*")) for token in tokens) <= _MAX_GAPS:
            regexes.append("".join(map(_translate, tokens)))
        else:
            matchers.append(_Automaton(tokens).matches)
    if regexes:
        matchers.append(re.compile("|".join(f"(?:{regex})" for regex in regexes), re.DOTALL).fullmatch)
    return matchers


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


class _Automaton:
    """Follows all ways through a pattern at once: states are bits, one for each item and a last one for the end.

    An item takes one character, or is a loop that takes any number, or a fork around the loop and the slash after it.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self._takers: list[tuple[int, str]] = []  # state and regular expression of what it takes
        self._loops = self._slash_loops = self._forks = 0
        n = 0
        for part in tokens:
            if part == "**/":
                self._forks |= 1 << n
                self._loops |= 2 << n
                self._takers.append((n + 2, "/"))
                n += 3
            elif part == "/**":
                self._takers.append((n, "/"))
                self._loops |= 2 << n
                n += 2
            elif part.startswith("*"):
                self._loops |= 1 << n
                self._slash_loops |= 0 if part == "**" else 1 << n
                n += 1
            else:
                regex = _translate(part)
                # A range the wrong way round stands for itself.
                regexes = list(map(re.escape, part)) if regex == re.escape(part) else [regex]
                self._takers += enumerate(regexes, n)
                n += len(regexes)
        self._end = 1 << n
        self._taking = cache(self._find_taking)

    def matches(self, path: str) -> bool:
        """Whether the pattern matches a whole path."""
        states = self._skip(1)
        for character in path:
            loops = self._loops & ~self._slash_loops if character == "/" else self._loops
            states = self._skip((states & self._taking(character)) << 1 | states & loops)
        return bool(states & self._end)

    def _find_taking(self, character: str) -> int:
        """Return the states that take a character."""
        return sum(1 << n for n, regex in self._takers if re.fullmatch(regex, character, re.DOTALL))

    def _skip(self, states: int) -> int:
        """Add the states that can be reached without a character: behind loops, and on both sides of forks."""
        added = states
        while added:
            forked = added & self._forks
            added = ((added & self._loops) << 1 | forked << 1 | forked << 3) & ~states
            states |= added
        return states
