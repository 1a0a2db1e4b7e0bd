"""Codes for classes that are far apart at every code length, for a last layer that is not learned."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from drhn_cli.config import NetworkConfig, TrainConfig
from drhn_cli.network.model import DRHN

TRIES_PER_WORD = 400
"""Changes that are tried for each class and part of a code: more come to the same distances."""


def spread_codewords(config: NetworkConfig, seed: int) -> NDArray[np.int8]:
    """Return a code for each class, as far from each other as they come, also those of fewer bits.

    Every part of a code between two lengths, and between two runs of as many bits as the shortest, has as many ones as
    zeros for each class, and each bit is one for half of the classes, as nearly as the numbers allow. Random exchanges
    that keep that so even out the distances, within the part and from the first bit on.

    Args:
        config: gives the classes, the bits and the shorter code lengths.
        seed: of the exchanges.

    Returns:
        (n_classes, bits) of -1 and 1.

    Source: fixed codes as targets are those of OrthoHash (Hoe et al. 2021, https://arxiv.org/abs/2109.14449); how they
        are found is ours.
    """
    rng = np.random.default_rng(seed)
    run = config.code_lengths[0]
    ends = sorted({*config.code_lengths, *range(run, config.bits, run)})
    before = np.zeros((config.n_classes, config.n_classes), np.int64)  # distances of the bits so far
    parts = []
    for start, end in zip([0, *ends], ends, strict=False):
        part = _spread_part(config.n_classes, end - start, before, rng)
        before += _distances(part)
        parts.append(part)
    return np.concatenate(parts, axis=1)


def fix_codewords(network: DRHN, config: TrainConfig) -> None:
    """Make the last layer tell classes by their codewords' bits alone, each with the same weight, and keep it so.

    Then the codes of a class gather around its codeword, and the network's scores order classes as Hamming distance
    does. The weight is what the smoothed labels ask for when codewords are half of the bits apart.
    """
    words = torch.from_numpy(spread_codewords(network.config, config.seed)).float()
    n_classes, n_bits = words.shape
    smoothing = max(config.label_smoothing, 0.01)
    gap = math.log(1 + n_classes * (1 - smoothing) / smoothing)  # between a class's score and each other's
    with torch.no_grad():
        network.classify.weight.copy_(2 * gap / n_bits * words)
        network.classify.bias.zero_()
    network.classify.requires_grad_(False)


def _spread_part(n_classes: int, n_bits: int, before: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int8]:
    """Return codes of a part, (n_classes, n_bits), that even out the distances in it and with those ``before``."""
    words = np.where(np.add.outer(rng.permutation(n_classes), np.arange(n_bits)) % 2, 1, -1).astype(np.int8)
    within = _distances(words)
    for _ in range(TRIES_PER_WORD * n_classes):
        two, columns = rng.integers(n_classes, size=2), rng.integers(n_bits, size=2)
        square = words[np.ix_(two, columns)]
        if square[0, 0] != square[1, 1] or square[0, 1] != square[1, 0] or square[0, 0] == square[0, 1]:
            continue  # only the exchange of 1, -1 above -1, 1 leaves the number of ones in rows and columns alone
        tried = words[two]
        tried[:, columns] *= -1
        changed = (tried[:, None] != words[None]).sum(axis=2)  # (2, n_classes)
        changed[[0, 1], two] = 0
        changed[[0, 1], two[::-1]] = within[two[0], two[1]]  # both change alike
        old, new = within[two], changed
        if ((new**2 + (new + before[two]) ** 2) - (old**2 + (old + before[two]) ** 2)).sum() <= 0:
            words[two] = tried
            within[two], within[:, two] = new, new.T
    return words


def _distances(words: NDArray[np.int8]) -> NDArray[np.int64]:
    between: NDArray[np.int64] = (words[:, None] != words[None]).sum(axis=2)
    return between
