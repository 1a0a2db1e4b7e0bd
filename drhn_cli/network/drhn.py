"""The Deep Residual Hashing Network in torch.

Source: Jimenez-Lepe and Mendez-Vazquez, Deep Residual Hashing Network for Image Retrieval (the abstract is all that is
published; the README says how each of its words is read); residual learning: He et al. 2015,
https://arxiv.org/abs/1512.03385.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from drhn_cli.config import Activation, Layer, NetworkConfig

_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": partial(functional.relu, inplace=True),
    "relu6": partial(functional.relu6, inplace=True),
}


class DRHN(nn.Module):
    """Input -> (Conv -> ReLU -> BN) -> six residual groups -> average pooling -> hash layer -> class scores.

    Args:
        config: the shape of the network.
        n_features: of a teacher; a layer that recalls them from the codes is trained along and not kept. 0: none.
    """

    def __init__(self, config: NetworkConfig, *, n_features: int = 0) -> None:
        super().__init__()
        self.config = config
        self._trunk: list[tuple[Layer, nn.Module, nn.Module]] = []
        for layer in config.layers():
            conv = nn.Conv2d(
                layer.in_channels,
                layer.out_channels,
                layer.kernel,
                stride=layer.stride,
                padding=layer.kernel // 2,
                groups=layer.groups,
                bias=False,
            )
            norm = nn.BatchNorm2d(layer.out_channels)
            _add_module(self, layer.conv, conv)
            _add_module(self, layer.norm, norm)
            self._trunk.append((layer, conv, norm))
        self.hash = nn.Linear(config.widths[-1], config.bits, bias=not config.hash_norm)
        self.hash_norm = nn.BatchNorm1d(config.bits) if config.hash_norm else nn.Identity()
        self.classify = nn.Linear(config.bits, config.n_classes)
        self.recall = nn.Linear(config.bits, n_features) if n_features else None

    def features(self, x: Tensor) -> Tensor:
        """Return what the trunk computes: (n, 3, input_size, input_size) -> (n, channels, side, side)."""
        block_input = x
        for layer, conv, norm in self._trunk:
            block_input = x if layer.opens_block else block_input
            x = conv(x)
            if layer.max_pool:
                x = functional.max_pool2d(x, 2)
            activate = _ACTIVATIONS[layer.activation]
            x = activate(norm(x)) if layer.norm_first else norm(activate(x))
            if layer.closes_block:
                x = _shortcut(block_input, layer) + x
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Return the hash layer's activations: (n, 3, input_size, input_size) -> (n, bits) float32 in 0..1."""
        x = self.features(x)  # (n, widths[-1], s / 8, s / 8) when three groups halve
        x = x.float().mean(dim=(2, 3))  # (n, widths[-1]): the average pooling layer
        with torch.autocast(x.device.type, enabled=False):  # the codes are decided here: full precision
            return torch.sigmoid(self.hash_norm(self.hash(x)))

    def scores(self, activations: Tensor, n_bits: int | None = None, *, first: int = 0) -> Tensor:
        """Return the fully connected layer's class scores, before the softmax.

        The bits vote: of fewer bits, each has so many votes more, and scores have the same range at every code length.
        Otherwise the first bits alone would reach the scores that the loss asks for, and leave those of longer codes
        nothing to learn.

        Args:
            activations: (n, bits) from ``forward``.
            n_bits: use only so many of them. Default: all.
            first: and none before this one.

        Returns:
            (n, n_classes) float32.
        """
        n_bits = n_bits or self.config.bits
        return self._vote(self.classify, activations, slice(first, first + n_bits))

    def recalled(self, activations: Tensor, n_bits: int) -> Tensor:
        """Return what the first bits tell of the teacher's features, voting as for ``scores``.

        Args:
            activations: (n, bits) from ``forward``.
            n_bits: use only so many of them.

        Returns:
            (n, n_features) float32.
        """
        return self._vote(cast(nn.Linear, self.recall), activations, slice(n_bits))

    def _vote(self, layer: nn.Linear, activations: Tensor, used: slice) -> Tensor:
        bits = activations[:, used]
        return functional.linear(bits, layer.weight[:, used] * (self.config.bits / bits.shape[1]), layer.bias)


def _add_module(parent: nn.Module, name: str, module: nn.Module) -> None:
    """Add a module by a name with dots, and plain modules on the way there."""
    *path, last = name.split(".")
    for part in path:
        if not hasattr(parent, part):
            parent.add_module(part, nn.Module())
        parent = cast(nn.Module, getattr(parent, part))
    parent.add_module(last, module)


def _shortcut(x: Tensor, layer: Layer) -> Tensor:
    """(n, in_channels, s, s) -> (n, out_channels, s / shortcut_pool, s / shortcut_pool)."""
    if layer.shortcut_pool > 1:
        x = functional.avg_pool2d(x, layer.shortcut_pool)
    if x.shape[1] < layer.out_channels:
        x = functional.pad(x, (0, 0, 0, 0, 0, layer.out_channels - x.shape[1]))
    return x
