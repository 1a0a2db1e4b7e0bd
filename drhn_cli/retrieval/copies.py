"""Groups of copies in a code file: found by their codes, decided by their pixels, with the one to keep first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.reader import CodeFile
from drhn_cli.errors import AnyPath, CodeFileError
from drhn_cli.paths import absolute_folder, is_below
from drhn_cli.progress import SILENT, Progress
from drhn_cli.retrieval.gallery import FileGallery
from drhn_cli.retrieval.pairs import Judge, PairJudge, PixelJudge, SignJudge
from drhn_cli.retrieval.pictures import Picture, Pictures, find_pictures, is_as_hashed
from drhn_cli.retrieval.verdict_cache import VerdictCache
from drhn_cli.retrieval.verify import SAME_FILE, Verdict
from drhn_cli.search.eight_forms import nearest_pairs
from drhn_cli.search.hamming import search
from drhn_cli.search.near_duplicates import join

Like = Literal["file", "pixels", "copy"]
Keep = Literal["largest", "oldest", "newest", "shortest-path"]

# The nearest pictures of each one, by DCT signs and by the codes of the network, are opened if they are so near. The
# first find what was turned, mirrored, recolored; the second find crops.
_N_NEAREST = 5
_MAX_SIGN_DISTANCE = 90  # bits of 255
_MAX_CODE_SHARE = 5 / 32  # of the bits of a code
_QUERIES = 1 << 10

_LOSSY = (b".jpg", b".jpeg", b".webp", b".avif", b".heic", b".heif", b".gif")
_MIN_DETAIL = 0.95  # pixels of the kept picture for a pixel of another, along a line
_NS_PER_SECOND = 1_000_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class CopyOptions:
    """What to look for, and which copy to keep.

    Attributes:
        like: equal bytes, equal pixels, or edited copies as well.
        opens: open pictures; otherwise their signs decide, and it is not asked whether they are still there.
        across: only groups that span folders, see ``FileGallery.spans_folders``.
        chain: a group is what hangs together; otherwise all of its pictures are copies of the first.
        keep: which picture of a group comes first.
        keep_in: folders whose pictures come before all others, and never go.
        cache: keep verdicts in the user's cache folder.
    """

    like: Like = "copy"
    opens: bool = True
    across: bool = False
    chain: bool = False
    keep: Keep = "largest"
    keep_in: Sequence[AnyPath] = ()
    cache: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """A picture of a group.

    Attributes:
        picture: the file.
        verdict: what it is to the first picture of its group, which comes first in the verdict; None: it is that.
        may_go: it shows nothing that the first one does not show at least as well.
    """

    picture: Picture
    verdict: Verdict | None
    may_go: bool


def find_copies(gallery: FileGallery, options: CopyOptions, progress: Progress = SILENT) -> list[list[Copy]]:
    """Return groups of two pictures or more, in the order of their first rows, the one to keep first in each.

    Raises:
        CodeFileError: the code file has no copy codes.
    """
    _require_copy_codes(gallery.file)
    pictures = find_pictures(gallery, opens=options.opens, progress=progress)
    cached = options.cache and options.like == "copy" and options.opens
    with VerdictCache.of_user() if cached else VerdictCache(None) as cache:
        judge = _choose_judge(pictures, options, cache, progress)
        groups = _Finder(pictures, gallery.file.n_bits, options, judge, progress).groups()
    if options.across:
        groups = [group for group in groups if gallery.spans_folders([copy.picture.row for copy in group])]
    return sorted(groups, key=lambda group: min(copy.picture.row for copy in group))


def _require_copy_codes(file: CodeFile) -> None:
    if file.manifest.copy_codes is None:
        raise CodeFileError(
            "the code file has no copy codes",
            path=file.path,
            hint="bring it up to date with drhn hash, or take --like similar, which tells what is merely alike",
        )


def _choose_judge(pictures: Pictures, options: CopyOptions, cache: VerdictCache, progress: Progress) -> Judge:
    if not options.opens:
        return SignJudge(pictures.signs)
    if options.like == "pixels":
        return PixelJudge(pictures.contents, progress)
    return PairJudge(pictures.contents, cache, progress)


class _Finder:
    """Groups of pictures of one gallery."""

    def __init__(self, pictures: Pictures, n_bits: int, options: CopyOptions, judge: Judge, progress: Progress) -> None:
        self._pictures, self._n_bits, self._options = pictures, n_bits, options
        self._judge, self._progress = judge, progress
        self._kept_folders = {absolute_folder(folder) for folder in options.keep_in}

    def groups(self) -> list[list[Copy]]:
        """Return all groups, in no order."""
        pictures = self._pictures
        pairs = [] if self._options.like == "file" else self._candidates()
        self._judge.judge(pairs, "opening pairs")
        verdicts = ((pair, self._judge.verdict(*pair)) for pair in pairs)
        linked = [pair for pair, verdict in verdicts if verdict is not None and verdict.is_copy]
        of_content = np.arange(len(pictures.contents))
        join(of_content, np.array(linked, np.int64).reshape(-1, 2).T)
        components = defaultdict(list)
        for picture in pictures.files:
            components[int(of_content[picture.content])].append(picture)
        several = [component for component in components.values() if len(component) > 1]
        groups = self._split(several, sorted(linked))
        return [self._describe(still) for group in groups if len(still := self._unchanged(group)) > 1]

    def _candidates(self) -> list[tuple[int, int]]:
        """Return pairs of contents that may be copies."""
        if self._options.like == "pixels":
            return self._pictures.twins()
        signs, codes = self._pictures.signs, self._pictures.codes
        found = nearest_pairs(signs, top_k=_N_NEAREST, max_distance=_MAX_SIGN_DISTANCE, progress=self._progress)
        pairs = set(map(tuple, found.tolist()))
        if self._options.opens:
            self._progress.phase("comparing codes", len(codes))
            pairs |= self._near_codes(codes)
        return sorted(pairs)

    def _near_codes(self, codes: NDArray[np.uint8]) -> set[tuple[int, int]]:
        pairs = set()
        n_bits, n_nearest = self._n_bits, _N_NEAREST + 1  # one of them is the picture itself
        radius = int(_MAX_CODE_SHARE * n_bits)
        for start in range(0, len(codes), _QUERIES):
            queries = codes[start : start + _QUERIES]
            for row, found in enumerate(
                search(codes, queries, n_bits=n_bits, top_k=n_nearest, max_distance=radius), start
            ):
                pairs |= {(min(row, other), max(row, other)) for other in found.indices.tolist() if other != row}
            self._progress.advance(len(queries))
        return pairs

    def _split(self, components: list[list[Picture]], linked: Iterable[tuple[int, int]]) -> list[list[Picture]]:
        """Return groups whose pictures are all copies of the first, or with ``chain`` the components themselves."""
        neighbours: dict[int, set[int]] = defaultdict(set)
        for pair in linked:
            neighbours[pair[0]].add(pair[1])
            neighbours[pair[1]].add(pair[0])
        groups: list[list[Picture]] = []
        while components:
            ordered = [self._order(component, neighbours) for component in components]
            pairs = [(first.content, one.content) for first, *others in ordered for one in others]
            self._judge.judge([pair for pair in pairs if pair[0] != pair[1]], "comparing with the one to keep")
            components = []
            for first, *others in ordered:
                near: list[Picture] = []
                far: list[Picture] = []
                for one in others:
                    (near if self._options.chain or self._is_copy(first, one) else far).append(one)
                groups.append([first, *near])
                if len(far) > 1:
                    components.append(far)
        return groups

    def _order(self, component: list[Picture], neighbours: dict[int, set[int]]) -> list[Picture]:
        """Return pictures in the order in which they are kept."""
        ordered = sorted(component, key=self._rank)
        last = []
        if self._options.keep == "largest":
            # More pixels are no gain where they are a frame, or where the picture was cut and enlarged.
            while any(self._is_fuller(one, ordered[0], neighbours) for one in ordered[1:]):
                last.append(ordered.pop(0))
        return ordered + last

    def _is_fuller(self, one: Picture, first: Picture, neighbours: dict[int, set[int]]) -> bool:
        """Whether a picture is what the first one was cut from, or what it has framed since, with as much detail."""
        if one.content not in neighbours[first.content] or self._is_kept(first):
            return False
        verdict = self._judge.verdict(first.content, one.content)
        if verdict is None or verdict.kind not in ("cropped", "framed") or verdict.detail < _MIN_DETAIL:
            return False
        if verdict.kind == "cropped":
            return verdict.inner == 0
        # A younger one may as well be a crop that has lost a plain margin.
        return verdict.inner == 1 and one.entry.stamp.mtime_ns <= first.entry.stamp.mtime_ns

    def _rank(self, picture: Picture) -> tuple[Any, ...]:
        """Return a key by which the picture to keep comes first."""
        entry, options = picture.entry, self._options
        age = entry.stamp.mtime_ns // _NS_PER_SECOND
        is_lossless = not picture.path.lower().endswith(_LOSSY)
        by_choice: dict[Keep, tuple[int, ...]] = {
            # Of equal sizes the older one: a PNG made of a JPEG has more bytes, but nothing more in them.
            "largest": (-entry.width * entry.height, age, is_lossless, -entry.stamp.size),
            "oldest": (age, -entry.width * entry.height),
            "newest": (-age, -entry.width * entry.height),
            "shortest-path": (len(picture.path),),
        }
        return (not self._is_kept(picture), *by_choice[options.keep], picture.is_member, picture.path)

    def _is_kept(self, picture: Picture) -> bool:
        return any(is_below(path, self._kept_folders) for path in (picture.path, *picture.aliases))

    def _is_copy(self, first: Picture, one: Picture) -> bool:
        verdict = self._verdict(first, one)
        return verdict is not None and verdict.is_copy

    def _verdict(self, first: Picture, one: Picture) -> Verdict | None:
        return SAME_FILE if first.content == one.content else self._judge.verdict(first.content, one.content)

    def _unchanged(self, group: list[Picture]) -> list[Picture]:
        """Return the pictures whose files are as they were when they were hashed, so that their digests hold."""
        if not self._options.opens:
            return group
        return [picture for picture in group if is_as_hashed(picture)]

    def _describe(self, group: list[Picture]) -> list[Copy]:
        first, *others = group
        copies = [Copy(picture=first, verdict=None, may_go=False)]
        for one in others:
            verdict = self._verdict(first, one)
            copies.append(Copy(picture=one, verdict=verdict, may_go=self._may_go(one, verdict)))
        return copies

    def _may_go(self, picture: Picture, verdict: Verdict | None) -> bool:
        if not self._options.opens or picture.is_member:  # unopened, the one to keep may be gone
            return False
        if verdict is None or not verdict.is_copy or not verdict.is_intact:
            return False
        is_original = verdict.inner == 1 and not verdict.lost[0]  # the first is this picture in a frame
        is_finer = 1 / verdict.detail < _MIN_DETAIL and self._options.keep == "largest"
        is_changed = verdict.kind in ("recolored", "edited")
        return not (verdict.lost[1] or is_original or is_finer or is_changed or self._is_kept(picture))
