"""Gradients from uphill, which lead to where the loss is flat."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


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
