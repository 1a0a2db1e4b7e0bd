"""Muon, SGD and their schedule; stochastic weight averaging (SWA) and sharpness-aware minimization (SAM)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from drhn_cli.training.stage import Stage


def newton_schulz(matrix: Tensor, steps: int = 3) -> Tensor:
    """Orthogonalize a (rows, columns) matrix approximately, by Newton-Schulz iterations.

    Three steps bring singular values from 0.02 times the Frobenius norm upwards to 0.68..1.21, five those from 0.0016
    times upwards; smaller ones grow about 3.4-fold a step. Iteration and coefficients: Muon (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon/).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x: Tensor = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(Optimizer):
    """Muon with Nesterov momentum, for convolution filters of shape (out_channels, in_channels, k, k).

    Before each step filters are rescaled to norm ``sqrt(out_channels)``: batch normalization makes the network
    invariant to their scale, and at a fixed scale a learning rate means the same angle throughout training. After
    https://github.com/KellerJordan/cifar10-airbench (Jordan 2024).
    """

    def __init__(self, parameters: list[nn.Parameter], *, lr: float, momentum: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the filters from their gradients."""
        if closure is not None:
            raise NotImplementedError("Muon takes its gradients from backward(), not from a closure")
        for group in self.param_groups:
            for filters in group["params"]:
                if filters.grad is None:
                    continue
                if filters not in self.state:
                    self.state[filters]["momentum"] = torch.zeros_like(filters)
                momentum = self.state[filters]["momentum"]
                momentum.mul_(group["momentum"]).add_(filters.grad)
                direction = filters.grad.add(momentum, alpha=group["momentum"])
                filters.mul_(len(filters) ** 0.5 / (filters.norm() + 1e-7))
                update = newton_schulz(direction.reshape(len(direction), -1)).view_as(filters)
                filters.add_(update, alpha=-group["lr"])


def make_optimizers(network: nn.Module, stage: Stage, head: nn.Module | None = None) -> list[Optimizer]:
    """Return Muon for the filters of the residual blocks and Nesterov SGD for all else, the head's layer included.

    The stem's filters are few and see raw pixels, so SGD trains them too.
    """
    parameters = [*network.named_parameters(), *(head.named_parameters() if head else ())]
    filters = {name: p for name, p in parameters if p.ndim == 4 and not name.startswith("stem")}
    matrices = [p for name, p in parameters if p.ndim > 1 and name not in filters]
    vectors = [p for _, p in parameters if p.ndim == 1]
    weight_decay = stage.weight_decay / stage.lr
    groups: list[dict[str, Any]] = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors}]
    rest = torch.optim.SGD(groups, lr=stage.lr, momentum=0.9, nesterov=True)
    return [Muon(list(filters.values()), lr=stage.muon_lr, momentum=stage.momentum), rest]


def lr_schedule(step: int, n_steps: int, stage: Stage) -> float:
    """Return the learning rate of a step as a share of the peak rate.

    It rises over ``warmup`` of the steps and falls to zero over the rest; with SWA (Izmailov et al. 2018) it stays at
    the peak.
    """
    rise = max(stage.warmup * n_steps, 1.0)
    if stage.swa:
        return min((step + 1) / rise, 1.0)
    return min((step + 1) / rise, (n_steps - step) / max(n_steps - rise, 1.0), 1.0)


def set_learning_rates(optimizers: list[Optimizer], share: float, stage: Stage) -> None:
    """Set each optimizer's learning rate to a share of its peak."""
    for optimizer, peak in zip(optimizers, (stage.muon_lr, stage.lr), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = peak * share


def in_swa(step: int, n_steps: int, stage: Stage) -> bool:
    """Return whether SWA averages the weights after a step; it always does after the last one.

    SWA is stochastic weight averaging (Izmailov et al. 2018, https://arxiv.org/abs/1803.05407).
    """
    return step >= min((1 - stage.swa) * n_steps, n_steps - 1)


def sam_gradients(
    network: nn.Module, stage: Stage, n_images: int, backward: Callable[[slice], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Set the gradients of sharpness-aware minimization (SAM) for a batch; existing gradients are overwritten.

    Each micro-batch perturbs the weights by its own gradient, as in Andriushchenko and Flammarion 2022
    (https://arxiv.org/abs/2206.06232).

    ``backward`` overwrites the gradients by those of a part of the batch, and returns its mean loss and its scores,
    (n, n_classes). Mean loss and scores of the whole batch, at the unperturbed weights, are returned.
    """
    n_parts = max(round(n_images / stage.sam_micro_batch), 1)
    sums: dict[nn.Parameter, Tensor] = {}
    losses, all_scores = [], []
    for number in range(n_parts):
        part = slice(number * n_images // n_parts, (number + 1) * n_images // n_parts)
        share = (part.stop - part.start) / n_images
        loss, scores = backward(part)
        losses.append(loss * share)
        all_scores.append(scores)
        with perturbed(network, stage.sam_rho):
            backward(part)
        for p in network.parameters():
            if p.grad is not None:
                sums[p] = sums[p].add_(p.grad, alpha=share) if p in sums else p.grad * share
    for p, gradient in sums.items():
        p.grad = gradient
    return torch.stack(losses).sum(), torch.cat(all_scores)


@contextmanager
def perturbed(network: nn.Module, rho: float) -> Iterator[None]:
    """Move the weights uphill along their gradients for a ``with`` block, by ``rho`` times the norm of each layer.

    The first step of SAM (Foret et al. 2021, https://arxiv.org/abs/2010.01412), with a radius relative to each layer's
    norm, as batch normalization makes the network invariant to its scale; Kwon et al. 2021
    (https://arxiv.org/abs/2102.11600) do so for each weight. Batch-norm statistics are not updated meanwhile.
    """
    norms = [(norm, norm.momentum) for norm in network.modules() if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)]
    weights = [(p, p.grad, p.detach().clone()) for p in network.parameters() if p.grad is not None and p.ndim > 1]
    with torch.no_grad():
        for p, gradient, _ in weights:
            p.add_(gradient * (rho * p.norm() / (gradient.norm() + 1e-12)))
    for norm, _ in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in norms:
            norm.momentum = momentum
        with torch.no_grad():
            for p, _, before in weights:
                p.copy_(before)
