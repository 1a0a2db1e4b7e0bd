"""Pairs of pictures, opened in threads and judged by their pixels; what was found before is not opened again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from drhn_cli.errors import ImageError, about
from drhn_cli.images.source import ImageSource, or_error, read_source, source_name
from drhn_cli.progress import SILENT, Progress
from drhn_cli.retrieval.verdict_cache import VerdictCache
from drhn_cli.retrieval.verify import (
    DIFFERENT,
    MAX_NEAR_SIGNS,
    NOT_OPENED,
    SAME_FILE,
    SAME_PIXELS,
    OpenedPicture,
    Verdict,
    judge_pictures,
    open_picture,
)
from drhn_cli.search.eight_forms import form_distances
from drhn_cli.threads import ThreadPool, n_processors

_BATCH = 64  # pairs between two looks at Ctrl-C, after which their verdicts are kept
_MAX_OPEN = 1024  # pictures that are remembered, some 100 KB each
_MAX_GRAY_CHANGE = 1.5  # levels: equal pixels differ so much at most when they are decoded at different sizes

Pair = tuple[int, int]
"""The numbers of two contents."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """One content that files have.

    Attributes:
        source: a file that has it.
        digest: of its bytes, by which verdicts are kept.
    """

    source: ImageSource
    digest: bytes


def judge_sources(a: ImageSource, b: ImageSource) -> Verdict:
    """Read two pictures, and tell what they are to each other.

    Raises:
        ImageError: one of them cannot be read.
    """
    names = source_name(a), source_name(b)
    sources, opened = [], []
    for source, name in zip((a, b), names, strict=True):
        with about(name):
            sources.append(read_source(source))
            opened.append(open_picture(BytesIO(sources[-1])))
    if sources[0] == sources[1]:
        return SAME_FILE
    return _judge((BytesIO(sources[0]), BytesIO(sources[1])), (opened[0], opened[1]))


def have_equal_pixels(a: ImageSource, b: ImageSource) -> bool:
    """Decode two pictures at full size, and compare them."""
    from drhn_cli.images.decode import decode_image

    return np.array_equal(np.asarray(decode_image(a, rendering=2)), np.asarray(decode_image(b, rendering=2)))


class PairJudge:
    """Judges pairs of contents.

    Args:
        contents: pairs are numbers of these.
        cache: asked first.
        progress: gets pairs, and the pictures that cannot be read.
    """

    def __init__(self, contents: Sequence[Content], cache: VerdictCache, progress: Progress = SILENT) -> None:
        self.unreadable: set[int] = set()
        self._contents, self._cache, self._progress = contents, cache, progress
        self._opened: OrderedDict[int, OpenedPicture] = OrderedDict()
        self._verdicts: dict[Pair, Verdict] = {}

    def judge(self, pairs: Sequence[Pair], phase: str) -> None:
        """Judge pairs; ``verdict`` tells what was found. Pairs with a picture that cannot be read get none."""
        pairs = [pair for pair in dict.fromkeys(pairs) if self.verdict(*pair) is None]
        self._progress.phase(phase, len(pairs))
        unknown = []
        for pair in pairs:
            known = self._cache.get(self._digests(pair))
            if known is None:
                unknown.append(pair)
            else:
                self._verdicts[pair] = known
        self._progress.advance(len(pairs) - len(unknown))
        with ThreadPool(n_processors(), "drhn-pairs") as pool:
            for start in range(0, len(unknown), _BATCH):
                batch = unknown[start : start + _BATCH]
                self._open(pool, sorted({number for pair in batch for number in pair}))
                readable = [pair for pair in batch if self.unreadable.isdisjoint(pair)]
                found = list(zip(readable, pool.map(self._judge, readable), strict=True))
                self._verdicts.update(found)
                self._cache.put((self._digests(pair), verdict) for pair, verdict in found)
                self._progress.advance(len(batch))
                while len(self._opened) > _MAX_OPEN:
                    self._opened.popitem(last=False)

    def verdict(self, first: int, second: int) -> Verdict | None:
        """Return what was found of two contents; None: they have not been judged."""
        found = self._verdicts.get((first, second))
        if found is None and (found := self._verdicts.get((second, first))) is not None:
            return found.reversed()
        return found

    def _digests(self, pair: Pair) -> tuple[bytes, bytes]:
        return self._contents[pair[0]].digest, self._contents[pair[1]].digest

    def _open(self, pool: ThreadPool, numbers: Sequence[int]) -> None:
        """Open the pictures that are not remembered; remember those that are needed now for longest."""
        for number in numbers:
            if number in self._opened:
                self._opened.move_to_end(number)
        absent = [number for number in numbers if number not in self._opened and number not in self.unreadable]
        sources = [self._contents[number].source for number in absent]
        for number, opened in zip(absent, pool.map(partial(or_error, open_picture), sources), strict=True):
            if isinstance(opened, ImageError):
                self.unreadable.add(number)
                self._progress.failure(opened)
            else:
                self._opened[number] = opened

    def _judge(self, pair: Pair) -> Verdict:
        sources = self._contents[pair[0]].source, self._contents[pair[1]].source
        return _judge(sources, (self._opened[pair[0]], self._opened[pair[1]]))


class PixelJudge:
    """Tells which contents have equal pixels, each decoded once.

    Args:
        contents: pairs are numbers of these.
        progress: gets pictures, and those that cannot be read.
    """

    def __init__(self, contents: Sequence[Content], progress: Progress = SILENT) -> None:
        self._contents, self._progress = contents, progress
        self._digests: dict[int, bytes | None] = {}  # of the pixels; None: unreadable

    def judge(self, pairs: Sequence[Pair], phase: str) -> None:
        """See ``PairJudge.judge``."""
        numbers = sorted({number for pair in pairs for number in pair} - self._digests.keys())
        self._progress.phase(phase, len(numbers))
        with ThreadPool(n_processors(), "drhn-pixels") as pool:
            for start in range(0, len(numbers), _BATCH):
                batch = numbers[start : start + _BATCH]
                sources = [self._contents[number].source for number in batch]
                for number, digest in zip(batch, pool.map(partial(or_error, _pixel_digest), sources), strict=True):
                    if isinstance(digest, ImageError):
                        self._progress.failure(digest)
                    self._digests[number] = digest if isinstance(digest, bytes) else None
                self._progress.advance(len(batch))

    def verdict(self, first: int, second: int) -> Verdict | None:
        """See ``PairJudge.verdict``."""
        a, b = self._digests.get(first), self._digests.get(second)
        if a is None or b is None:
            return None
        return SAME_PIXELS if a == b else DIFFERENT


class SignJudge:
    """Decides by DCT signs, (n, 32) uint8, alone; no picture is opened."""

    def __init__(self, signs: NDArray[np.uint8]) -> None:
        self._signs = signs
        self._verdicts: dict[Pair, Verdict] = {}

    def judge(self, pairs: Sequence[Pair], phase: str) -> None:  # noqa: ARG002 - it takes no time
        """Compare the signs of all pairs at once."""
        firsts, seconds = np.array(pairs, np.int64).reshape(-1, 2).T
        is_near = form_distances(self._signs[firsts], self._signs[seconds]) <= MAX_NEAR_SIGNS
        self._verdicts.update(zip(pairs, (NOT_OPENED if near else DIFFERENT for near in is_near.tolist()), strict=True))

    def verdict(self, first: int, second: int) -> Verdict | None:
        """See ``PairJudge.verdict``."""
        return self._verdicts.get((first, second)) or self._verdicts.get((second, first))


Judge: TypeAlias = PairJudge | PixelJudge | SignJudge


def _pixel_digest(source: ImageSource) -> bytes:
    from drhn_cli.images.decode import decode_image

    image = decode_image(source, rendering=2)
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()


def _judge(sources: tuple[ImageSource, ImageSource], opened: tuple[OpenedPicture, OpenedPicture]) -> Verdict:
    verdict = judge_pictures(*opened)
    first, second = opened
    if verdict.kind == "recompressed":
        grays = first.features.gray, second.features.gray
        is_close = np.abs(grays[0].astype(np.int16) - grays[1]).mean() < _MAX_GRAY_CHANGE
        if is_close and have_equal_pixels(*sources):
            return replace(verdict, kind="same pixels", share=1.0)
    return verdict
