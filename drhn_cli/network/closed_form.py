"""The hash layer and the class layer in closed form, fitted to the features of a trunk that stays as it is.

The hash layer is PCA and the rotation of iterative quantization (ITQ): Gong and Lazebnik, CVPR 2011, Iterative
quantization: a Procrustean approach to learning binary codes. The class layer is a ridge regression.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from drhn_cli.errors import ConfigError, DrhnError

Floats = NDArray[np.float32] | NDArray[np.float64]

PRIOR_PER_BIT = 16.0
"""So many general pictures for each bit count as much as the own ones; chosen by ``tests.benchmarks.photo_sets``."""

MEAN_PRIOR = 16.0
"""The same for the mean: fewer pictures are needed to estimate a mean than a covariance."""

LABEL_RIDGE = 100.0
"""The ridge of a class layer that is fitted to labels; chosen by ``tests.benchmarks.photo_sets``."""

_SCALES = 2.0 ** np.arange(0, 8, 0.25)  # of logits, for predictions in about 0..1
_ROTATION_ROWS = 4096  # pictures that a rotation is fitted to
_ITERATIONS = 40
_CHUNK_ROWS = 4096
_DEVIATION = 0.5  # of values before the sigmoid, which is nearly straight there: asymmetric order is at its best
_RANK_TOLERANCE = 1e-10  # a direction with less variance, beside the largest, is rounding


@dataclass(frozen=True, eq=False)
class Moments:
    """What the hash layer needs to know of a set of pictures: how many, their mean feature and the covariance."""

    n: int
    mean: NDArray[np.float64]  # (d,)
    covariance: NDArray[np.float64]  # (d, d), divided by n

    @classmethod
    def of(cls, features: Floats) -> Self:
        """Measure features, (n, d); a few thousand rows at a time, so the array may be memory-mapped.

        Raises:
            DrhnError: not two dimensions, fewer than two pictures, or a value that is not finite.
        """
        if features.ndim != 2 or len(features) < 2:
            raise DrhnError("features do not fit", expected="(n, d), n of 2 or more", found=f"shape {features.shape}")
        shift = features[0].astype(np.float64)  # so that what all have in common costs no digits
        total, products = np.zeros(len(shift)), np.zeros((len(shift), len(shift)))
        for chunk in _chunks(features):
            shifted = chunk - shift
            total += shifted.sum(axis=0)
            products += shifted.T @ shifted
        if not np.isfinite(products).all():
            raise DrhnError("features are not finite")
        mean = total / len(features)
        return cls(n=len(features), mean=shift + mean, covariance=products / len(features) - np.outer(mean, mean))

    def mixed(self, general: Moments, prior: float, mean_prior: float) -> Moments:
        """Return these moments mixed with general ones, which have the weight of so many pictures.

        It is the usual estimate where the general ones are what is believed beforehand: of n pictures the covariance
        has the share ``n / (n + prior)``, the mean ``n / (n + mean_prior)`` (Friedman, JASA 1989, Regularized
        discriminant analysis).
        """
        share, mean_share = self.n / (self.n + prior), self.n / (self.n + mean_prior)
        mean = mean_share * self.mean + (1 - mean_share) * general.mean
        return Moments(self.n, mean, share * self.covariance + (1 - share) * general.covariance)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return arrays to store: ``n``, ``mean`` and ``deviation`` float32 (d,), ``correlation``.

        The last holds the correlations above the diagonal, float16 (d (d - 1) / 2,), row by row.
        """
        deviation = np.sqrt(self.covariance.diagonal().clip(0))
        safe = np.where(deviation > 0, deviation, 1)
        correlation = (self.covariance / np.outer(safe, safe))[np.triu_indices(len(safe), 1)].clip(-1, 1)
        return {
            "n": np.array(self.n, np.int64),
            "mean": self.mean.astype(np.float32),
            "deviation": deviation.astype(np.float32),
            "correlation": correlation.astype(np.float16),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """Rebuild moments from the arrays of ``to_arrays``; correlations are as exact as float16.

        Raises:
            DrhnError: an array is missing, has another shape, or holds what no moments are.
        """
        try:
            n, mean, deviation, correlation = (
                np.asarray(arrays[name], np.float64) for name in ("n", "mean", "deviation", "correlation")
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DrhnError("moments are not complete", found=repr(error)) from error
        d = mean.size
        shapes = [array.shape for array in (n, mean, deviation, correlation)]
        if shapes != [(), (d,), (d,), (d * (d - 1) // 2,)]:
            raise DrhnError("moments do not fit each other", found=f"shapes {shapes}")
        is_finite = all(np.isfinite(array).all() for array in (n, mean, deviation, correlation))
        if not is_finite or n < 2 or (deviation < 0).any() or (np.abs(correlation) > 1).any():
            raise DrhnError("moments are damaged")
        matrix = np.zeros((d, d))
        matrix[np.triu_indices(d, 1)] = correlation
        matrix += matrix.T + np.eye(d)
        return cls(n=int(n), mean=mean, covariance=matrix * np.outer(deviation, deviation))


def fit_hash_layer(
    features: Floats,
    lengths: Sequence[int],
    *,
    seed: int = 0,
    general: Moments | None = None,
    prior: float = PRIOR_PER_BIT,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fit the hash layer: bit i of a code is ``weight[i] @ feature + bias[i] > 0``.

    The codes are nested: each length adds the next principal directions and rotates those among themselves, so the
    first bits of a code are as good as a code of that length. A direction is divided by the root of its standard
    deviation: undivided, the first ones decide everything; with a variance of 1, noise counts as much as they.

    Args:
        features: of the pictures to fit to, (n, d), each of unit length.
        lengths: of codes in bits, rising; the last is that of the layer.
        seed: of the rotations' starts and of the pictures that they are fitted to; equal seeds give equal layers.
        general: moments of many pictures of any kind. Few own pictures do not know the directions of a long code, so
            the own moments are mixed with these: the covariance has the share ``n / (n + prior * bits)``.
        prior: general pictures that count as much as the own ones, for each bit.

    Returns:
        weight (bits, d) and bias (bits,), scaled so that the standard deviation of values before the sigmoid is 1/2.

    Raises:
        ConfigError: lengths that do not rise, or more bits than a feature has values.
        DrhnError: features that ``Moments.of`` refuses, or too few pictures, or too many alike, for so many bits.
    """
    moments = Moments.of(features)
    d = len(moments.mean)
    if not lengths or list(lengths) != sorted(set(lengths)) or lengths[0] < 1 or lengths[-1] > d:
        raise ConfigError("code lengths do not fit", expected=f"rising, in 1..{d}", found=str(list(lengths)))
    if general is not None:
        if len(general.mean) != d:
            expected = f"{len(general.mean)} values"
            raise DrhnError("features do not fit the general ones", expected=expected, found=str(d))
        moments = moments.mixed(general, prior * lengths[-1], MEAN_PRIOR)
    elif moments.n <= lengths[-1]:
        expected = f"more than {lengths[-1]}, the bits of a code"
        raise DrhnError("too few pictures", expected=expected, found=str(moments.n))
    directions, deviations = _principal_directions(moments.covariance, lengths[-1])
    projection = directions / np.sqrt(deviations)  # (d, bits)
    rng = np.random.default_rng(seed)
    rows = features[np.sort(rng.permutation(len(features))[:_ROTATION_ROWS])].astype(np.float64)
    projected = (rows - rows.mean(axis=0)) @ projection  # (n, bits)
    blocks = [slice(start, stop) for start, stop in pairwise((0, *lengths))]
    weight = np.concatenate([(projection[:, block] @ itq_rotation(projected[:, block], rng)).T for block in blocks])
    weight *= _DEVIATION / np.sqrt(
        deviations.mean()
    )  # a direction divided by the root of its deviation has its deviation as variance
    return weight.astype(np.float32), (-weight @ moments.mean).astype(np.float32)


def itq_rotation(projected: Floats, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the rotation (b, b) after which the rows of ``projected``, (n, b), are nearest to their signs.

    From a random rotation, the signs and the rotation are fitted to each other in turn, 40 times; the second is
    the orthogonal Procrustes problem.
    """
    b = projected.shape[1]
    single = projected.astype(np.float32)
    rotation = np.linalg.qr(rng.standard_normal((b, b)))[0]
    for _ in range(_ITERATIONS):
        signs = np.where(single @ rotation.astype(np.float32) > 0, np.float32(1), np.float32(-1))
        left, _, right = np.linalg.svd((single.T @ signs).astype(np.float64))
        rotation = left @ right
    return rotation


def fit_class_layer(
    bits: NDArray[np.bool_], targets: Floats, ridge: float = 3.0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fit the class layer: ``weight @ signs + bias`` is nearest to the targets, where a bit is -1 or +1.

    Args:
        bits: of codes, (n, h).
        targets: logits of each picture, or 1 for its class and 0 for others, (n, c).
        ridge: penalty on the squared weights, not on the biases.

    Returns:
        weight (c, h) and bias (c,).

    Raises:
        DrhnError: arrays that do not fit each other, or a target that is not finite.
        ConfigError: a ridge that is not above 0.
    """
    if bits.ndim != 2 or targets.ndim != 2 or len(bits) != len(targets) or not len(bits):
        found = f"shapes {bits.shape} and {targets.shape}"
        raise DrhnError("codes and targets do not fit", expected="(n, h) and (n, c), n of 1 or more", found=found)
    if not 0 < ridge < np.inf:
        raise ConfigError("ridge is out of range", expected="above 0", found=str(ridge))
    if not np.isfinite(targets).all():
        raise DrhnError("targets are not finite")
    mean_sign, mean_target = 2 * bits.mean(axis=0) - 1, targets.mean(axis=0, dtype=np.float64)
    gram = ridge * np.eye(bits.shape[1])
    moment = np.zeros((bits.shape[1], targets.shape[1]))
    for some_bits, some_targets in zip(_chunks(bits), _chunks(targets), strict=True):
        signs = 2 * some_bits - 1 - mean_sign
        gram += signs.T @ signs
        moment += signs.T @ (some_targets - mean_target)
    weight = np.linalg.solve(gram, moment).T  # (c, h)
    return weight.astype(np.float32), (mean_target - weight @ mean_sign).astype(np.float32)


def fit_label_layer(
    bits: NDArray[np.bool_], labels: NDArray[np.int64], n_classes: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fit the class layer to labels: ridge regression of one-hot vectors, scaled to be calibrated.

    One scale for all logits (temperature scaling, Guo et al. 2017, https://arxiv.org/abs/1706.04599) makes the
    cross-entropy of the softmax least where each picture is predicted from the others alone; of a ridge regression
    those leave-one-out predictions follow from one fit.

    Args:
        bits: of codes, (n, h).
        labels: of the pictures, (n,), below ``n_classes``.
        n_classes: how many classes there are.

    Returns:
        weight (c, h) and bias (c,).
    """
    targets = np.eye(n_classes)[labels]
    weight, bias = fit_class_layer(bits, targets, LABEL_RIDGE)
    signs = 2.0 * bits - 1
    centered = signs - signs.mean(axis=0)
    gram = centered.T @ centered + LABEL_RIDGE * np.eye(bits.shape[1])
    leverage = 1 / len(bits) + (centered * np.linalg.solve(gram, centered.T).T).sum(axis=1)
    errors = targets - (signs @ weight.T + bias)
    predictions = targets - errors / (1 - leverage).clip(min=1e-3)[:, None]
    scale = min(_SCALES, key=lambda scale: _cross_entropy(scale * predictions, labels))
    return weight * np.float32(scale), bias * np.float32(scale)


def _cross_entropy(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]).mean())


def _principal_directions(covariance: NDArray[np.float64], n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the directions of the largest variance, (d, n), and the standard deviations in them, (n,)."""
    variances, directions = np.linalg.eigh(covariance)
    variances, directions = variances[::-1], directions[:, ::-1]
    n_known = int((variances > _RANK_TOLERANCE * variances[0]).sum())
    if n_known < n:
        expected = f"{n} directions in which they differ"
        raise DrhnError("pictures are too much alike", expected=expected, found=str(n_known), hint="choose fewer bits")
    return directions[:, :n], np.sqrt(variances[:n])


def _chunks(rows: NDArray[np.generic]) -> Iterator[NDArray[np.float64]]:
    for start in range(0, len(rows), _CHUNK_ROWS):
        yield np.asarray(rows[start : start + _CHUNK_ROWS], np.float64)
