"""Whether one picture is a copy of another, and how it was made of it: decided by their pixels.

The pictures are aligned, both are cut into blocks, and the share of blocks that agree decides. A block agrees if it
correlates, so brightness and contrast do not count; blocks without structure say nothing and are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from drhn_cli.images.source import ImageSource
from drhn_cli.network.copy_code import dct_signs
from drhn_cli.retrieval.alignment import (
    SIDE,
    Features,
    Gray,
    Matrix,
    alignments,
    compose,
    find_features,
    invert,
    map_frame,
    refine,
    scaling,
)
from drhn_cli.search.eight_forms import form_distances

Kind = Literal[
    "same file",
    "same pixels",
    "resized",
    "recompressed",
    "recolored",
    "cropped",
    "framed",
    "turned",
    "mirrored",
    "edited",
    "not opened",
    "same scene",
    "different",
]
COPIES: tuple[Kind, ...] = get_args(Kind)[:-2]
"""All kinds but the last two: one picture was made of the other, or both of a third one."""

RULES = 1
"""Verdicts by other rules are judged again."""

_N_BLOCKS = 12  # along the shorter side
_MIN_BLOCK = 6  # pixels
_MARGIN = 3  # pixels
_SMOOTH, _SMOOTH_SCALE = 1.0, 0.6  # pixels; of a pixel of an enlarged picture
_MIN_DEVIATION = 5.0  # gray levels; a block below is flat
_AGREES, _DISAGREES = 0.9, 0.8  # correlation of a block
_MIN_CLEAR_DEVIATION, _CHANGED = 8.0, 0.75  # a block with such structure that correlates less shows something else
_MIN_ACTIVE = 6  # blocks with structure
_MIN_SHARE = 0.7  # of the active blocks agree
_MIN_SHARE_NEAR_SIGNS, MAX_NEAR_SIGNS = 0.4, 44
_MIN_RECTANGLE, _MAX_DISAGREEING = 50, 0.08
_MIN_SCENE_SHARE = 0.3
_MIN_COVER = 0.6  # of one of the pictures: two crops that share less are pictures of one scene
_MIN_INNER_COVER, _MAX_OUTER_COVER = 0.93, 0.97
_MIN_INTACT = 0.85  # of the blocks; where fewer agree, more was changed than the quality
_MAX_ANGLE = 2.0  # degrees
_MAX_SEAM = 0.02  # of a picture's pixels
_FRAME_LEVELS, _MIN_PLAIN = 4, 0.6  # so many gray levels each way hold so much of a plain frame
_MAX_ENLARGEMENT = 2  # blocks of pictures that were enlarged more would be of one pixel
_COLOR_SIDE = 56
_COLOR_PART = 7  # pixels of a small picture
_MAX_COLOR_CHANGE, _MAX_PART_CHANGE = 5.0, 24  # levels, in the mean and in any part: JPEG and scaling change less


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class OpenedPicture:
    """What is kept of a picture that was opened.

    Attributes:
        width: pixels of the upright picture.
        height: pixels.
        features: by which it is aligned.
        color: (h, w, 3) uint8, small.
        signs: (1, 32) uint8, its DCT signs.
    """

    width: int
    height: int
    features: Features
    color: NDArray[np.uint8]
    signs: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What two pictures are to each other.

    Attributes:
        kind: how one was made of the other, or that neither was.
        share: of the blocks with structure, how many agree, 0..1; None where none were opened, or few agree.
        inner: 0 or 1, the picture that lies inside of the other one, as its crop or in its frame; None: neither.
        box: where the inner one lies in the other: left, top, right and bottom, 0..1.
        detail: pixels of the second picture for a pixel of the first one, along a line, where they show the same.
        lost: whether the first shows what the second one lacks, and the reverse; a plain frame is nothing.
        is_intact: every part that both show looks the same in both, but for its quality.
    """

    kind: Kind
    share: float | None = None
    inner: Literal[0, 1] | None = None
    box: tuple[float, float, float, float] | None = None
    detail: float = 1.0
    lost: tuple[bool, bool] = (False, False)
    is_intact: bool = True

    @property
    def is_copy(self) -> bool:
        """Whether one picture was made of the other, or both of a third one."""
        return self.kind in COPIES

    @property
    def words(self) -> str:
        """What the second picture is to the first."""
        if self.inner is None or self.kind not in ("cropped", "framed"):
            return self.kind
        is_inner = self.inner == 1
        if self.kind == "framed":
            return "without its frame" if is_inner else "framed"
        left, top, right, bottom = self.box or (0, 0, 1, 1)
        share = f"{100 * (right - left) * (bottom - top):.0f} %"
        return f"cropped to {share}" if is_inner else f"the first is {share} of it"

    def reversed(self) -> Verdict:
        """Return the same verdict with the pictures exchanged."""
        inner: Literal[0, 1] | None = None if self.inner is None else (1, 0)[self.inner]
        return replace(self, inner=inner, detail=1 / self.detail, lost=self.lost[::-1])


SAME_FILE = Verdict(kind="same file", share=1.0)
SAME_PIXELS = Verdict(kind="same pixels", share=1.0)
NOT_OPENED = Verdict(kind="not opened", is_intact=False)
DIFFERENT = Verdict(kind="different", is_intact=False)


def judge_pictures(a: OpenedPicture, b: OpenedPicture) -> Verdict:
    """Tell by their small pictures what two pictures are to each other.

    Where their DCT signs are few bits apart, fewer blocks need to agree. Files with equal pixels are "recompressed"
    here; see ``drhn_cli.retrieval.pairs``.
    """
    found = best_agreement(a.features, b.features)
    if found is None or found.share < _MIN_SCENE_SHARE:
        return DIFFERENT
    is_copy = (
        found.share > _MIN_SHARE
        or (form_distances(a.signs, b.signs)[0] <= MAX_NEAR_SIGNS and found.share > _MIN_SHARE_NEAR_SIGNS)
        or found.rectangle >= _MIN_RECTANGLE
    )
    geometry = _measure(a, b, found.matrix)
    detail, lost = geometry.detail, geometry.lost
    if not is_copy or max(geometry.cover) < _MIN_COVER:
        return Verdict(kind="same scene", share=found.share, detail=detail, lost=lost, is_intact=False)
    is_clear = found.n_changed == 0 and found.share > _MIN_INTACT
    is_recolored = _are_recolored(a, b, found.matrix)
    kind, inner = _name(geometry, is_clear=is_clear, is_recolored=is_recolored)
    if kind == "recompressed" and (a.width, a.height) != (b.width, b.height):
        kind = "resized"
    box = None if inner is None else geometry.boxes[inner]
    is_intact = is_clear and not is_recolored
    return Verdict(kind=kind, share=found.share, inner=inner, box=box, detail=detail, lost=lost, is_intact=is_intact)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Geometry:
    """How two pictures lie on each other; pairs have a value for each picture.

    ``cover`` is the share of the picture that the other one shows, ``lost`` whether more than a plain frame is outside
    of that, ``boxes`` where the picture lies in the other one.
    """

    angle: float  # degrees, 0..180
    is_mirrored: bool
    detail: float
    cover: tuple[float, float]
    lost: tuple[bool, bool]
    boxes: tuple[tuple[float, float, float, float], tuple[float, float, float, float]]


def _measure(a: OpenedPicture, b: OpenedPicture, matrix: Matrix) -> _Geometry:
    gray_a, gray_b = a.features.gray, b.features.gray
    to_full_a, to_full_b = a.width / gray_a.shape[1], b.width / gray_b.shape[1]
    (xx, xy), (yx, yy) = matrix[:, :2]
    determinant = xx * yy - xy * yx
    back = invert(matrix)
    outside_b, outside_a = _outside(gray_a, gray_b, matrix), _outside(gray_b, gray_a, back)
    return _Geometry(
        angle=float(np.degrees(np.arctan2(abs(yx), xx if determinant > 0 else -xx))),
        is_mirrored=determinant < 0,
        detail=float(np.sqrt(abs(determinant)) * to_full_b / to_full_a),
        cover=(1 - float(outside_a.mean()), 1 - float(outside_b.mean())),
        lost=(_shows_something(gray_a, outside_a), _shows_something(gray_b, outside_b)),
        boxes=(_box(matrix, gray_a, gray_b), _box(back, gray_b, gray_a)),
    )


def _outside(a: Gray, b: Gray, matrix: Matrix) -> NDArray[np.bool_]:
    """Return which pixels of ``b`` lie outside of ``a``."""
    import cv2

    inside = cv2.warpAffine(np.full(a.shape, 255, np.uint8), matrix, b.shape[::-1], flags=cv2.INTER_NEAREST)
    outside: NDArray[np.bool_] = inside == 0
    return outside


def _shows_something(gray: Gray, outside: NDArray[np.bool_]) -> bool:
    """Whether what lies outside is more than a seam or a frame of hardly more than one gray."""
    levels = np.bincount(gray[outside], minlength=256)
    if levels.sum() < _MAX_SEAM * gray.size:
        return False
    plain = np.convolve(levels, np.ones(2 * _FRAME_LEVELS + 1, np.int64), "same").max()
    return bool(plain < _MIN_PLAIN * levels.sum())


def _box(matrix: Matrix, inner: Gray, outer: Gray) -> tuple[float, float, float, float]:
    corners = (map_frame(matrix, inner) + 0.5) / outer.shape[::-1]
    (left, top), (right, bottom) = corners.min(0).clip(0, 1).tolist(), corners.max(0).clip(0, 1).tolist()
    return left, top, right, bottom


def _name(geometry: _Geometry, *, is_clear: bool, is_recolored: bool) -> tuple[Kind, Literal[0, 1] | None]:
    """Return what kind of copy it is, and which picture lies inside of the other."""
    cover = geometry.cover
    inner: Literal[0, 1] | None = None
    if max(cover) > _MIN_INNER_COVER and min(cover) < min(_MAX_OUTER_COVER, max(cover) - _MAX_SEAM):
        inner = 0 if cover[0] > cover[1] else 1
    if geometry.is_mirrored:
        return "mirrored", inner
    if geometry.angle > _MAX_ANGLE:
        return "turned", inner
    if inner is not None:
        return ("cropped" if geometry.lost[1 - inner] else "framed"), inner
    if not is_clear or min(cover) < _MAX_OUTER_COVER:
        return "edited", None
    return ("recolored" if is_recolored else "recompressed"), None


def _are_recolored(a: OpenedPicture, b: OpenedPicture, matrix: Matrix) -> bool:
    """Whether two pictures differ in their colors where both show the same, everywhere or in a part."""
    import cv2

    to_small_a, to_small_b = (scaling(each.features.gray.shape, each.color.shape) for each in (a, b))
    small = compose(to_small_b, compose(matrix, invert(to_small_a)))
    size, part = b.color.shape[1::-1], (_COLOR_PART,) * 2
    laid = cv2.blur(cv2.warpAffine(a.color, small, size, flags=cv2.INTER_LINEAR), part)
    inside = cv2.warpAffine(np.full(a.color.shape[:2], 255, np.uint8), small, size, flags=cv2.INTER_NEAREST)
    inside = cv2.erode(inside, np.ones(part, np.uint8)) > 0
    if not inside.any():
        return False
    change = np.abs(laid.astype(np.int16) - cv2.blur(b.color, part))[inside]  # (pixels, 3)
    return bool(change.mean() > _MAX_COLOR_CHANGE or change.max() > _MAX_PART_CHANGE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How well a picture agrees with another that it is laid on.

    Attributes:
        share: of the blocks with structure, how many agree, 0..1.
        rectangle: blocks of the largest rectangle in which hardly one disagrees.
        n_changed: blocks that show something else.
        matrix: the map from the first picture's gray pixels to those of the second.
    """

    share: float
    rectangle: int
    n_changed: int
    matrix: Matrix


def open_picture(source: ImageSource) -> OpenedPicture:
    """Decode a picture and find its keypoints.

    Raises:
        ImageError: it cannot be read.
    """
    import cv2

    from drhn_cli.images.decode import decode_reduced

    decoded = decode_reduced(source, min_side=SIDE, rendering=2)
    pixels = np.asarray(decoded.image)
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    width, height = decoded.size
    return OpenedPicture(
        width=width,
        height=height,
        features=find_features(_shrink(gray, SIDE)),
        color=_shrink(pixels, _COLOR_SIDE),
        signs=dct_signs(pixels)[np.newaxis],
    )


def _shrink(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return a picture whose longer side is ``side``, 16 pixels or more each way; tiny ones are doubled at most."""
    import cv2

    height, width = pixels.shape[:2]
    factor = min(side / max(height, width), _MAX_ENLARGEMENT)
    size = max(16, round(width * factor)), max(16, round(height * factor))
    small: NDArray[np.uint8] = cv2.resize(
        pixels, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    )
    return small


def best_agreement(a: Features, b: Features) -> Agreement | None:
    """Return the agreement of two pictures by the map that makes most blocks agree; None where none can be found."""
    best = None
    for matrix in alignments(a, b):
        found = _agreement(a.gray, b.gray, matrix)
        if found is not None and (best is None or found.share > best.share):
            best = found
        if best is not None and best.share > 0.9:
            break
    return best


def _agreement(a: Gray, b: Gray, matrix: Matrix) -> Agreement | None:
    """Lay the picture that covers more on the other one, and count the blocks that agree."""
    is_a_inner = abs(np.linalg.det(matrix[:, :2])) * a.size < b.size
    outer, inner, onto = (b, a, invert(matrix)) if is_a_inner else (a, b, matrix)
    onto, laid, smooth, inside = _lay(outer, inner, onto)
    # Beside a frame the blurred edge of the picture is that of the frame, too.
    within = slice(_MARGIN, -_MARGIN), slice(_MARGIN, -_MARGIN)
    share, rectangle, n_changed = _count_blocks(laid[within], smooth[within], inside[within])
    matrix = invert(onto) if is_a_inner else onto
    return Agreement(share=share, rectangle=rectangle, n_changed=n_changed, matrix=matrix)


def _lay(source: Gray, target: Gray, matrix: Matrix) -> tuple[Matrix, Gray, Gray, NDArray[np.bool_]]:
    """Lay a picture on another, both blurred until they are equally sharp; say where it covers the other one."""
    import cv2

    height, width = target.shape
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    sigma = max(_SMOOTH, _SMOOTH_SCALE * scale)  # of a pixel of the target: enlarged pictures are blurred as it is
    smooth = cv2.GaussianBlur(target, (0, 0), sigma)
    source_sigma = np.sqrt(max(sigma**2 / scale**2 - (0.0 if scale < 1 else 0.25), 0.09))
    blurred = cv2.GaussianBlur(source, (0, 0), float(source_sigma))
    matrix = refine(matrix, blurred, smooth)
    laid = cv2.warpAffine(blurred, matrix, (width, height), flags=cv2.INTER_LINEAR)
    full = np.full(source.shape, 255, np.uint8)
    inside = cv2.warpAffine(full, matrix, (width, height), flags=cv2.INTER_NEAREST) > 0
    return matrix, laid, smooth, inside


def _count_blocks(a: Gray, b: Gray, inside: NDArray[np.bool_]) -> tuple[float, int, int]:
    """Return the share of blocks that agree, the largest rectangle of them, and how many show something else."""
    height, width = a.shape
    block = max(_MIN_BLOCK, min(height, width) // _N_BLOCKS)
    rows, columns = height // block, width // block

    def blocks(pixels: NDArray[np.uint8] | NDArray[np.bool_]) -> NDArray[np.float32]:
        cut = pixels[: rows * block, : columns * block].reshape(rows, block, columns, block)
        return cut.transpose(0, 2, 1, 3).reshape(rows, columns, -1).astype(np.float32)  # (rows, columns, pixels)

    of_a, of_b = blocks(a), blocks(b)
    of_a -= of_a.mean(2, keepdims=True)
    of_b -= of_b.mean(2, keepdims=True)
    deviation_a, deviation_b = np.sqrt((of_a**2).mean(2)), np.sqrt((of_b**2).mean(2))
    active = (blocks(inside).min(2) > 0) & (np.maximum(deviation_a, deviation_b) > _MIN_DEVIATION)
    if active.sum() < _MIN_ACTIVE:
        return 0.0, 0, 0
    correlation = (of_a * of_b).mean(2) / np.maximum(deviation_a * deviation_b, 1e-3)
    if np.median(correlation[active]) < -0.3:  # a negative
        correlation = -correlation
    agrees, disagrees = active & (correlation > _AGREES), active & (correlation <= _DISAGREES)
    strongest = np.maximum(deviation_a, deviation_b)
    changed = active & (strongest > _MIN_CLEAR_DEVIATION) & (correlation < _CHANGED)
    return float(agrees.sum() / active.sum()), _largest_rectangle(agrees, disagrees), int(changed.sum())


def _largest_rectangle(agrees: NDArray[np.bool_], disagrees: NDArray[np.bool_]) -> int:
    """Return the most agreeing blocks of a rectangle in which at most 8 % of the active ones disagree."""
    integral = np.zeros((2, agrees.shape[0] + 1, agrees.shape[1] + 1), np.int64)
    integral[:, 1:, 1:] = np.stack([agrees, disagrees]).cumsum(1).cumsum(2)
    top, bottom = np.triu_indices(integral.shape[1], 1)
    left, right = np.triu_indices(integral.shape[2], 1)
    strips = integral[:, bottom] - integral[:, top]  # (2, row ranges, columns + 1)
    n_agreeing, n_disagreeing = strips[:, :, right] - strips[:, :, left]  # (row ranges, column ranges) each
    return int((n_agreeing * (n_disagreeing <= _MAX_DISAGREEING * (n_agreeing + n_disagreeing))).max())
