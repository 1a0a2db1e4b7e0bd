"""The training loss and its terms, other than distillation's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from drhn_cli.network.drhn import DRHN
from drhn_cli.training.distillation import distillation_loss
from drhn_cli.training.stage import Stage


def total_loss(
    network: DRHN,
    activations: Tensor,
    labels: Tensor,
    stage: Stage,
    *,
    predictions: Sequence[Tensor] = (),
    features: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the weighted sum of all losses, and the scores of the whole code, (n, n_classes).

    Cross-entropy of the softmax is the paper's loss. With nested code lengths it is averaged over the lengths, as in
    Matryoshka representations (Kusupati et al. 2022, https://arxiv.org/abs/2205.13147), and then with its mean over
    segments of the shortest code's length: otherwise only long codes would train the last bits.

    Activations are (n, bits) in 0..1, labels (n,) int64, a teacher's features and their predictions (n, d).
    """

    def mean_cross_entropy(all_scores: Iterable[Tensor]) -> Tensor:
        each = [functional.cross_entropy(s, labels, label_smoothing=stage.label_smoothing) for s in all_scores]
        return torch.stack(each).mean()

    bits, lengths = network.config.bits, network.config.code_lengths
    by_length = [network.scores(activations, n_bits) for n_bits in lengths]
    loss = mean_cross_entropy(by_length)
    if network.config.nested:
        run = lengths[0]
        starts = [min(start, bits - run) for start in range(run, bits, run)]  # the first run is the shortest code
        loss = (loss + mean_cross_entropy(network.scores(activations, run, first=start) for start in starts)) / 2
        if stage.prefix_similarity:
            loss = loss + stage.prefix_similarity * prefix_similarity_loss(activations, network.config.nested)
    if features is not None:
        loss = loss + stage.distill_weight * distillation_loss(predictions, features.float())
    return loss + stage.quantization * quantization_loss(activations, network.config.threshold), by_length[-1]


def prefix_similarity_loss(activations: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return the mean squared error of the pairwise similarities of code prefixes, relative to the whole code's.

    A similarity is the mean product of two codes' bits as -1..1; the error is averaged over pairs and lengths. This is
    similarity-preserving distillation (Tung and Mori 2019, https://arxiv.org/abs/1907.09682) of a code into its own
    prefixes, so no gradient reaches the whole code's similarities. Activations are (n, bits) in 0..1.
    """
    signs = 2 * activations - 1

    def similarities(bits: Tensor) -> Tensor:
        return bits @ bits.T / bits.shape[1]  # (n, n)

    whole = similarities(signs.detach())
    return torch.stack([(similarities(signs[:, :n]) - whole).square().mean() for n in lengths]).mean()


def quantization_loss(activations: Tensor, threshold: float) -> Tensor:
    """Return how close activations in 0..1 are to the threshold: 0 if all are 0 or 1, 1 if all are at the threshold.

    The second term of SSDH (Yang et al. 2015, https://arxiv.org/abs/1507.00101), with the first power of the distance.
    """
    distance = torch.where(
        activations > threshold, (activations - threshold) / (1 - threshold), (threshold - activations) / threshold
    )
    return 1 - distance.mean()
