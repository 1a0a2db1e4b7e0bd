"""What training minimises."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from drhn_cli.network.drhn import DRHN
from drhn_cli.training.config import TrainConfig


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
        loss = loss + config.teaching * teaching_term(network, activations, features.float())
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


def teaching_term(network: DRHN, activations: Tensor, features: Tensor) -> Tensor:
    """Return how far a teacher's features are from what the network recalls of them from the codes.

    That is 1 - cosine, averaged over images and code lengths: features that are linear in the bits bring pictures that
    the teacher finds alike near to each other.

    Args:
        network: has a layer that recalls features.
        activations: (n, bits) in 0..1.
        features: (n, d) float32 of unit length.

    Source: regression of a teacher's features (FitNets, Romero et al. 2014, https://arxiv.org/abs/1412.6550), by their
        direction and from every length of the code.
    """
    recalled = (network.recalled(activations, n_bits) for n_bits in network.config.code_lengths)
    return torch.stack([1 - functional.cosine_similarity(one, features).mean() for one in recalled]).mean()


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
