"""Orthogonalised momentum for convolutions, Nesterov momentum for the rest, and the schedule of both."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from drhn_cli.training.config import TrainConfig


def orthogonalise(matrices: Tensor, steps: int = 3) -> Tensor:
    """Return the nearest semi-orthogonal matrix, roughly.

    Three steps bring singular values from 0.02 times the Frobenius norm upwards to 0.68..1.21; five bring those from
    0.0016 times upwards there. Smaller ones grow about 3.4-fold in each step.

    Args:
        matrices: one matrix, (rows, columns).
        steps: Newton-Schulz iterations.

    Source: Keller Jordan et al. 2024 (Muon), https://kellerjordan.github.io/posts/muon/; the coefficients are from
        there.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x: Tensor = matrices / (matrices.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(Optimizer):
    """Momentum whose update is orthogonalised, on filters that are kept at a fixed norm.

    Filters are scaled back to norm ``sqrt(out_channels)`` before each step: batch normalisation makes the function
    indifferent to their scale, and a fixed scale makes the learning rate mean the same angle all through training.

    Args:
        parameters: convolution filters, (out_channels, in_channels, k, k).
        rate: learning rate, relative to the filters' norm.
        momentum: of the gradient.

    Source: Keller Jordan 2024, https://github.com/KellerJordan/cifar10-airbench (the method; the code is ours).
    """

    def __init__(self, parameters: list[nn.Parameter], *, rate: float, momentum: float) -> None:
        super().__init__(parameters, {"lr": rate, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step along the orthogonalised Nesterov momentum."""
        if closure is not None:
            raise NotImplementedError("Muon takes its gradients from backward(), not from a closure")
        for group in self.param_groups:
            for filters in group["params"]:
                if filters.grad is None:
                    continue
                state = self.state[filters]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(filters)
                state["momentum"].mul_(group["momentum"]).add_(filters.grad)
                direction = filters.grad.add(state["momentum"], alpha=group["momentum"])
                filters.mul_(len(filters) ** 0.5 / (filters.norm() + 1e-7))
                update = orthogonalise(direction.reshape(len(direction), -1)).view_as(filters)
                filters.add_(update, alpha=-group["lr"])


def make_optimisers(network: nn.Module, config: TrainConfig) -> list[Optimizer]:
    """Return the optimisers of a network: Muon for the filters of residual blocks, Nesterov SGD for all else.

    The stem's filters are few and see raw pixels, so they go with the rest.
    """
    filters = [p for name, p in network.named_parameters() if p.ndim == 4 and not name.startswith("stem")]
    chosen = {id(p) for p in filters}
    matrices = [p for p in network.parameters() if p.ndim > 1 and id(p) not in chosen]
    vectors = [p for p in network.parameters() if p.ndim == 1]
    rest = torch.optim.SGD(
        [
            {"params": matrices, "weight_decay": config.weight_decay / config.rate},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=config.rate,
        momentum=0.9,
        nesterov=True,
    )
    return [Muon(filters, rate=config.conv_rate, momentum=config.momentum), rest]


def rate_at(step: int, n_steps: int, config: TrainConfig) -> float:
    """Return the share of the peak rate at a step: it rises over ``warm_up`` of the steps, then falls to zero.

    Where weights are averaged it stays.

    Source: Keller Jordan 2024, https://github.com/KellerJordan/cifar10-airbench; that it stays, Izmailov et al. 2018,
        https://arxiv.org/abs/1803.05407.
    """
    rise = max(config.warm_up * n_steps, 1.0)
    if config.average:
        return min((step + 1) / rise, 1.0)
    return min((step + 1) / rise, (n_steps - step) / max(n_steps - rise, 1.0), 1.0)


def is_averaged(step: int, n_steps: int, config: TrainConfig) -> bool:
    """Tell whether the weights after a step count for the mean: those after the last one do, however small the share.

    Source: Izmailov et al. 2018, https://arxiv.org/abs/1803.05407.
    """
    return step >= min((1 - config.average) * n_steps, n_steps - 1)


def set_rates(optimisers: list[Optimizer], share: float, config: TrainConfig) -> None:
    """Set each optimiser's learning rate to a share of its peak."""
    for optimiser, peak in zip(optimisers, (config.conv_rate, config.rate), strict=True):
        for group in optimiser.param_groups:
            group["lr"] = peak * share
