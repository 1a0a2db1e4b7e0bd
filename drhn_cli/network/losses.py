"""What training minimises."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from drhn_cli.config import TrainConfig
from drhn_cli.network.model import DRHN

TEACHER_TEMPERATURE, CODE_TEMPERATURE = 0.1, 0.2
"""Of cosines of features, and of similarities of codes, where codes are taught their neighbours."""


def training_loss(
    network: DRHN, activations: Tensor, labels: Tensor, config: TrainConfig, *, features: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the softmax cross-entropy plus the other terms.

    Where shorter codes are trained along, the cross-entropy is its mean over the code lengths, averaged with its mean
    over the runs of as many bits as the shortest code has: each run has to tell the classes apart by itself. Otherwise
    only long codes would teach the bits at the end.

    Args:
        network: gives the scores.
        activations: (n, bits) in 0..1.
        labels: (n,) int64.
        config: label smoothing, and the weights of the terms of quantisation, similarity and teaching.
        features: (n, d) of unit length, what a teacher sees in the images.

    Returns:
        The loss, and the (n, n_classes) scores of the whole code.

    Source: the softmax is the paper's; a loss on every prefix is that of Kusupati et al. 2022,
        https://arxiv.org/abs/2205.13147; the loss on every run is ours.
    """

    def mean_entropy(all_scores: Iterable[Tensor]) -> Tensor:
        entropies = [functional.cross_entropy(s, labels, label_smoothing=config.label_smoothing) for s in all_scores]
        return torch.stack(entropies).mean()

    bits, lengths = network.config.bits, network.config.code_lengths
    by_length = [network.scores(activations, n_bits) for n_bits in lengths]
    loss = mean_entropy(by_length)
    if network.config.nested:
        run = lengths[0]
        starts = [min(start, bits - run) for start in range(run, bits, run)]  # the first run is the shortest code
        loss = (loss + mean_entropy(network.scores(activations, run, first=start) for start in starts)) / 2
        if config.similarity:
            loss = loss + config.similarity * similarity_term(activations, network.config.nested)
    if features is not None:
        loss = loss + config.teaching * teaching_term(activations, features.float(), lengths)
    return loss + config.quantisation * quantisation_term(activations, network.config.threshold), by_length[-1]


def similarity_term(activations: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return how far shorter codes are from finding each two images as alike as the whole codes do.

    That is the squared difference of the two similarities, each the mean product of the bits as -1..1, averaged over
    pairs of images and over lengths. The whole codes are not changed for it.

    Args:
        activations: (n, bits) in 0..1.
        lengths: of the shorter codes.

    Source: distillation of similarities (Tung and Mori 2019, https://arxiv.org/abs/1907.09682), here of a code to its
        own beginning.
    """
    signs = 2 * activations - 1

    def similarities(bits: Tensor) -> Tensor:
        return bits @ bits.T / bits.shape[1]

    whole = similarities(signs.detach())
    return torch.stack([(similarities(signs[:, :n]) - whole).square().mean() for n in lengths]).mean()


def teaching_term(activations: Tensor, features: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return how far codes are from having the neighbours that a teacher's features have.

    For each image, the similarities to all others of the batch make a distribution, by the features' cosines and by the
    codes' bits (their mean product, as -1..1), each at a temperature of its own; the term is the cross-entropy of the
    two, averaged over images and code lengths.

    Args:
        activations: (n, bits) in 0..1, n at least 2.
        features: (n, d) float32 of unit length.
        lengths: of the codes.

    Source: Fang et al. 2021 (SEED, https://arxiv.org/abs/2101.04731), with the batch for a queue and bits for a vector.
    """
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    target = (features @ features.T / TEACHER_TEMPERATURE).masked_fill(itself, -torch.inf).softmax(dim=1)
    signs = 2 * activations - 1

    def entropy(bits: Tensor) -> Tensor:
        similarities = bits @ bits.T / bits.shape[1]
        # Not -inf: times the target's zero it is not a number.
        return functional.cross_entropy((similarities / CODE_TEMPERATURE).masked_fill(itself, -1e4), target)

    return torch.stack([entropy(signs[:, :n_bits]) for n_bits in lengths]).mean()


def quantisation_term(activations: Tensor, threshold: float) -> Tensor:
    """Return how near the activations are to the threshold, on average: 0 where all are 0 or 1, 1 where all are at it.

    Args:
        activations: (n, bits) in 0..1.
        threshold: the paper's t.

    Source: the second term of SSDH (Yang et al. 2015, https://arxiv.org/abs/1507.00101), with the first power.
    """
    distance = torch.where(
        activations > threshold, (activations - threshold) / (1 - threshold), (threshold - activations) / threshold
    )
    return 1 - distance.mean()
