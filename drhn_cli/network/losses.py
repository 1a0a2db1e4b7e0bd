"""What training minimises."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from drhn_cli.config import TrainConfig
from drhn_cli.network.model import DRHN


def training_loss(network: DRHN, activations: Tensor, labels: Tensor, config: TrainConfig) -> tuple[Tensor, Tensor]:
    """Return the softmax cross-entropy, averaged over the code lengths that are trained, plus the quantisation term.

    Args:
        network: gives the scores.
        activations: (n, bits) in 0..1.
        labels: (n,) int64.
        config: label smoothing, and the weight of the quantisation term.

    Returns:
        The loss, and the (n, n_classes) scores of the whole code.

    Source: the softmax is the paper's; a loss on every prefix is that of Kusupati et al. 2022,
        https://arxiv.org/abs/2205.13147.
    """
    losses = []
    for n_bits in network.config.code_lengths:
        scores = network.scores(activations, n_bits)
        losses.append(functional.cross_entropy(scores, labels, label_smoothing=config.label_smoothing))
    loss = torch.stack(losses).mean()
    return loss + config.quantisation * quantisation_term(activations, network.config.threshold), scores


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
