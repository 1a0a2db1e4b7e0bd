"""The Deep Residual Hashing Network in torch.

Source: Jimenez-Lepe and Mendez-Vazquez, Deep Residual Hashing Network for Image Retrieval (the abstract is all that is
published; the README says how each of its words is read); residual learning and the parameter-free shortcut: He et al.
2015, https://arxiv.org/abs/1512.03385.
"""

from __future__ import annotations

import os
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from drhn_cli.config import NetworkConfig
from drhn_cli.network.fused import can_fuse, fused_block


class ResidualBlock(nn.Module):
    """``y = shortcut(x) + BN(ReLU(Conv3x3(x)))``: one convolution, no bias, nothing after the addition.

    Where the block halves the resolution the shortcut is a 2x2 average, where it widens the new channels of the
    shortcut are zero, so the shortcut has no parameters.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, at least as many.
        stride: stride of the convolution, 1 or 2.
        pool: max-pool the convolution's output 2x2 (the stride is 1 then).
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, pool: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        nn.init.constant_(self.norm.weight, float(os.environ.get("DRHN_SCALE", "1")))
        self.pool = pool
        self.halves = pool or stride == 2
        self.new_channels = out_channels - in_channels

    def shortcut(self, x: Tensor) -> Tensor:
        """(n, in_channels, s, s) -> (n, out_channels, s, s) or half of s."""
        if self.halves:
            x = functional.avg_pool2d(x, 2)
        if self.new_channels:
            x = functional.pad(x, (0, 0, 0, 0, 0, self.new_channels))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """(n, in_channels, s, s) -> (n, out_channels, s, s) or half of s."""
        plain = self.training and not self.halves and not self.new_channels
        if plain and can_fuse(x, self.conv.out_channels):
            return fused_block(x, self.conv, self.norm)
        y = self.conv(x)
        if self.pool:
            y = functional.max_pool2d(y, 2)
        return self.shortcut(x) + cast(Tensor, self.norm(functional.relu(y, inplace=True)))


class DRHN(nn.Module):
    """Input -> (Conv -> ReLU -> BN) -> six residual groups -> average pooling -> hash layer -> class scores.

    Args:
        config: the shape of the network.
        n_features: of a teacher; a layer that recalls them from the codes is trained along and not kept. 0: none.
    """

    def __init__(self, config: NetworkConfig, *, n_features: int = 0) -> None:
        super().__init__()
        self.config = config
        channels = config.widths[0]
        self.stem_conv = nn.Conv2d(3, channels, 3, stride=config.stem_stride, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(channels)
        groups = []
        for number, width in enumerate(config.widths, start=1):
            blocks = []
            for index in range(config.blocks):
                halves = index == 0 and number in config.downsample_at
                max_pools = halves and config.downsample == "max"
                blocks.append(
                    ResidualBlock(channels, width, stride=2 if halves and not max_pools else 1, pool=max_pools)
                )
                channels = width
            groups.append(nn.Sequential(*blocks))
        self.groups = nn.Sequential(*groups)
        self.hash = nn.Linear(channels, config.bits, bias=not config.hash_norm)
        self.hash_norm = nn.BatchNorm1d(config.bits) if config.hash_norm else nn.Identity()
        self.classify = nn.Linear(config.bits, config.n_classes)
        hint = os.environ.get("DRHN_HINT") == "pooled"
        self.recall = nn.Linear(channels if hint else config.bits, n_features) if n_features else None
        self.pooled: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the hash layer's activations: (n, 3, input_size, input_size) -> (n, bits) float32 in 0..1."""
        x = self.stem_norm(functional.relu(self.stem_conv(x), inplace=True))  # (n, widths[0], s, s)
        x = self.groups(x)  # (n, widths[-1], s / 8, s / 8) when three groups halve
        x = x.float().mean(dim=(2, 3))  # (n, widths[-1]): the average pooling layer
        self.pooled = x
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

        Source: ours.
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
        if os.environ.get("DRHN_HINT") == "pooled":
            return cast(nn.Linear, self.recall)(self.pooled)
        return self._vote(cast(nn.Linear, self.recall), activations, slice(n_bits))

    def _vote(self, layer: nn.Linear, activations: Tensor, used: slice) -> Tensor:
        bits = activations[:, used]
        return functional.linear(bits, layer.weight[:, used] * (self.config.bits / bits.shape[1]), layer.bias)


def count_multiply_adds(config: NetworkConfig) -> int:
    """Return the multiply-adds of one image's way through convolutions and linear layers.

    Source: the layer sizes of section 3.1 of He et al. 2015, counted as there (no batch normalisation, no additions).
    """
    side = config.input_size // config.stem_stride
    channels = config.widths[0]
    total = side**2 * 3 * channels * 9
    for number, width in enumerate(config.widths, start=1):
        for index in range(config.blocks):
            halves = index == 0 and number in config.downsample_at
            side_after = side // 2 if halves else side
            conv_side = side if config.downsample == "max" else side_after
            total += conv_side**2 * channels * width * 9
            side, channels = side_after, width
    return total + channels * config.bits + config.bits * config.n_classes
