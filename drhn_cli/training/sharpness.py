"""Gradients from uphill, which lead to where the loss is flat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_PART = 125
"""Images that move the weights uphill together: more unseen pictures are told right than with 500 (README)."""


def descend_from_uphill(
    network: nn.Module, distance: float, n_images: int, descend: Callable[[slice], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Leave the gradients of a batch in the network, each part of its images taken uphill for itself.

    Args:
        network: has no use for the gradients that it has.
        distance: as for ``moved_uphill``.
        n_images: of the batch.
        descend: replaces the network's gradients by those of some of the images; returns their mean loss and their
            scores, (n, n_classes).

    Returns:
        The mean loss and the scores of the batch, where the weights are.

    Source: sharpness-aware minimisation (Foret et al. 2021, https://arxiv.org/abs/2010.01412) in parts, as by
        Andriushchenko and Flammarion 2022, https://arxiv.org/abs/2206.06232.
    """
    n_parts = max(round(n_images / _PART), 1)
    sums: dict[nn.Parameter, Tensor] = {}
    losses, all_scores = [], []
    for number in range(n_parts):
        part = slice(number * n_images // n_parts, (number + 1) * n_images // n_parts)
        share = (part.stop - part.start) / n_images
        loss, scores = descend(part)
        losses.append(loss * share)
        all_scores.append(scores)
        with moved_uphill(network, distance):
            descend(part)
        for p in network.parameters():
            if p.grad is not None:
                sums[p] = sums[p].add_(p.grad, alpha=share) if p in sums else p.grad * share
    for p, gradient in sums.items():
        p.grad = gradient
    return torch.stack(losses).sum(), torch.cat(all_scores)


@contextmanager
def moved_uphill(network: nn.Module, distance: float) -> Iterator[None]:
    """Move the weights along their gradients for the block: what it adds to those is taken uphill.

    Each layer's weights move by a share of their norm, for batch normalisation makes the function indifferent to
    their scale. Statistics of batch normalisation stay those of the weights where they were.

    Args:
        network: has gradients.
        distance: of the weights of each layer, relative to their norm.

    Source: sharpness-aware minimisation (Foret et al. 2021, https://arxiv.org/abs/2010.01412), with a radius for each
        layer, as by Kwon et al. 2021 (https://arxiv.org/abs/2102.11600) for each weight.
    """
    norms = [(norm, norm.momentum) for norm in network.modules() if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)]
    weights = [p for p in network.parameters() if p.grad is not None and p.ndim > 1]
    before = [p.detach().clone() for p in weights]
    with torch.no_grad():
        for p in weights:
            assert p.grad is not None  # noqa: S101 - chosen by it
            p.add_(p.grad * (distance * p.norm() / (p.grad.norm() + 1e-12)))
    for norm, _ in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in norms:
            norm.momentum = momentum
        with torch.no_grad():
            for p, value in zip(weights, before, strict=True):
                p.copy_(value)
