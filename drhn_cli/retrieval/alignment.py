"""How one picture lies in another: keypoints, or the frames laid on each other, then refined by intensities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 224
"""The longer side of the gray pictures that are compared, in pixels."""

_N_KEYPOINTS = 400
_MIN_MATCHES = 5
_MAX_RATIO = 0.85  # of the distances of the nearest and the second nearest descriptor (Lowe 2004)
_MAX_DESCRIPTOR_DISTANCE = 70  # bits of 256
_MAX_RESIDUAL = 4.0  # pixels
_SCALES = 0.15, 7.0
_MIN_FRAME_CORRELATION = 0.7  # of frames of 32 x 32 pixels
_FRAME_SIDE = 32
_ECC_STEPS, _ECC_FILTER = 12, 3
_MAX_ECC_CHANGE = 0.15  # relative; more than that, and it has run away

Gray = NDArray[np.uint8]
Matrix = NDArray[np.float64]
"""An affine map of pixel coordinates, (2, 3)."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Features:
    """What alignment needs of a picture.

    Attributes:
        gray: (h, w) uint8, its longer side ``SIDE``.
        points: (k, 2) float32, the keypoints of the picture, and those of its mirror image in the same coordinates.
        descriptors: (k, 32) uint8, ORB, of either.
    """

    gray: Gray
    points: tuple[NDArray[np.float32], NDArray[np.float32]]
    descriptors: tuple[NDArray[np.uint8], NDArray[np.uint8]]


def find_features(gray: Gray) -> Features:
    """Find the keypoints of a gray picture, (h, w) uint8.

    Source: Rublee, Rabaud, Konolige, Bradski 2011, ORB: an efficient alternative to SIFT or SURF.
    """
    import cv2

    cv2.setNumThreads(1)  # pairs are compared in threads of ours
    orb = cv2.ORB_create(nfeatures=_N_KEYPOINTS, edgeThreshold=12, fastThreshold=10)
    points, descriptors = [], []
    for form in (gray, np.ascontiguousarray(gray[:, ::-1])):
        keypoints, found = orb.detectAndCompute(form, None)
        points.append(np.array([each.pt for each in keypoints], np.float32).reshape(-1, 2))
        descriptors.append(np.empty((0, 32), np.uint8) if found is None else found)
    points[1][:, 0] = gray.shape[1] - 1 - points[1][:, 0]
    return Features(gray=gray, points=(points[0], points[1]), descriptors=(descriptors[0], descriptors[1]))


def alignments(a: Features, b: Features) -> Iterator[Matrix]:
    """Yield maps from ``a`` to ``b`` that may be right: by keypoints, of ``a`` and of its mirror image, then by frames.

    A map by keypoints is a similarity that RANSAC has found (Fischler and Bolles 1981); a map by frames is the best of
    the eight ways in which the frame of ``a`` can be turned and mirrored to lie on that of ``b``.
    """
    for mirrored in (False, True):
        matrix = _match_keypoints(a, b, mirrored)
        if matrix is not None:
            yield matrix
    yield from _match_frames(a.gray, b.gray)


def _match_keypoints(a: Features, b: Features, mirrored: bool) -> Matrix | None:
    import cv2

    if min(len(a.descriptors[mirrored]), len(b.descriptors[0])) < _MIN_MATCHES:
        return None
    pairs = cv2.BFMatcher(cv2.NORM_HAMMING).knnMatch(a.descriptors[mirrored], b.descriptors[0], k=2)
    good = [
        (pair[0].queryIdx, pair[0].trainIdx)
        for pair in pairs
        if len(pair) == 2
        and pair[0].distance < _MAX_RATIO * pair[1].distance
        and pair[0].distance < _MAX_DESCRIPTOR_DISTANCE
    ]
    if len(good) < _MIN_MATCHES:
        return None
    rows_a, rows_b = np.array(good).T
    # RANSAC looks for similarities that turn and scale, so the points of the mirror image are mirrored for it.
    points, flip = a.points[mirrored][rows_a], _flip(a.gray.shape[1]) if mirrored else _IDENTITY
    matrix, inliers = cv2.estimateAffinePartial2D(
        _apply(flip, points),
        b.points[0][rows_b],
        method=cv2.RANSAC,
        ransacReprojThreshold=_MAX_RESIDUAL,
        maxIters=500,
        confidence=0.995,
    )
    if matrix is None or inliers.sum() < _MIN_MATCHES or not _SCALES[0] < np.hypot(*matrix[:, 0]) < _SCALES[1]:
        return None
    return compose(matrix, flip)


def _match_frames(a: Gray, b: Gray) -> Iterator[Matrix]:
    small_a, small_b = _standardize(a), _standardize(b)
    forms = [
        (float((form * small_b).mean()), transposed, flip_x, flip_y)
        for transposed in (False, True)
        for flip_x in (False, True)
        for flip_y in (False, True)
        for form in [(small_a.T if transposed else small_a)[:: -1 if flip_y else 1, :: -1 if flip_x else 1]]
    ]
    correlation, transposed, flip_x, flip_y = max(forms)
    if correlation < _MIN_FRAME_CORRELATION:
        return
    turned_h, turned_w = a.shape[::-1] if transposed else a.shape
    turn = np.array([[0, 1, 0], [1, 0, 0]], np.float64) if transposed else _IDENTITY
    if flip_x:
        turn = compose(_flip(turned_w), turn)
    if flip_y:
        turn = compose(np.array([[1, 0, 0], [0, -1, turned_h - 1]], np.float64), turn)
    yield compose(scaling((turned_h, turned_w), b.shape), turn)


def refine(matrix: Matrix, source: Gray, target: Gray) -> Matrix:
    """Refine a map from ``source`` to ``target`` so that their intensities agree; it stays where that fails.

    Source: Evangelidis and Psarakis 2008, Parametric Image Alignment using Enhanced Correlation Coefficient
        Maximization.
    """
    import cv2

    steps = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _ECC_STEPS, 1e-3)
    backward = cv2.invertAffineTransform(matrix).astype(np.float32)
    try:
        _, backward = cv2.findTransformECC(target, source, backward, cv2.MOTION_AFFINE, steps, None, _ECC_FILTER)
    except cv2.error:  # it does not converge
        return matrix
    refined: Matrix = cv2.invertAffineTransform(backward).astype(np.float64)
    change = np.linalg.norm(refined[:, :2] - matrix[:, :2]) / np.linalg.norm(matrix[:, :2])
    return refined if change < _MAX_ECC_CHANGE else matrix


def invert(matrix: Matrix) -> Matrix:
    """Return the map back."""
    inverse = np.linalg.inv(matrix[:, :2])
    return np.column_stack([inverse, -inverse @ matrix[:, 2]])


def compose(outer: Matrix, inner: Matrix) -> Matrix:
    """Return the map that applies ``inner``, then ``outer``."""
    return np.column_stack([outer[:, :2] @ inner[:, :2], outer[:, :2] @ inner[:, 2] + outer[:, 2]])


def scaling(source: tuple[int, ...], target: tuple[int, ...]) -> Matrix:
    """Return the map from a picture to a smaller or larger version of it, by their shapes, (h, w, ...)."""
    x, y = target[1] / source[1], target[0] / source[0]
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2]])


def map_frame(matrix: Matrix, gray: NDArray[Any]) -> NDArray[np.float64]:
    """Return where a map takes the corners of a picture's frame, (4, 2), in turn from the upper left one."""
    height, width = gray.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64) - 0.5
    return _apply(matrix, corners)


_IDENTITY: Matrix = np.array([[1, 0, 0], [0, 1, 0]], np.float64)


def _flip(width: int) -> Matrix:
    return np.array([[-1, 0, width - 1], [0, 1, 0]], np.float64)


def _apply(matrix: Matrix, points: NDArray[Any]) -> NDArray[Any]:
    moved: NDArray[Any] = points @ matrix[:, :2].T + matrix[:, 2]
    return moved.astype(points.dtype)


def _standardize(gray: Gray) -> NDArray[np.float32]:
    """Return a frame of 32 x 32 with mean 0 and variance 1."""
    import cv2

    small = cv2.resize(gray, (_FRAME_SIDE, _FRAME_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    small -= small.mean()
    standardized: NDArray[np.float32] = small / max(float(small.std()), 1e-3)
    return standardized
