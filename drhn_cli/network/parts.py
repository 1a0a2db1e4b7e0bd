"""Parts of other recipes, to be tried one by one.

Source: the identity start, the whitening stem and the look-ahead average are those of Keller Jordan 2024 (airbench),
    https://github.com/KellerJordan/cifar10-airbench; greedy codes are those of GreedyHash (Su et al. 2018).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drhn_cli.network.model import DRHN


def begin_with_identity(network: DRHN) -> None:
    """Have each convolution hand its input on in as many channels as it has."""
    for name, filters in network.named_parameters():
        if filters.ndim == 4 and name.startswith("groups"):
            nn.init.dirac_(filters.data[: filters.shape[1]])


def whiten_stem(network: DRHN, pixels: Tensor) -> None:
    """Make the stem's first 54 filters those that whiten 3x3 patches, and the same negated, and keep the stem so.

    Args:
        network: with at least 54 channels in the first group.
        pixels: (n, 3, s, s) as the network takes them.
    """
    patches = nn.functional.unfold(pixels, 3).transpose(1, 2).reshape(-1, 27)
    values, axes = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (axes / (values + 5e-4).sqrt()).T.reshape(27, 3, 3, 3)
    stem = network.stem_conv.weight
    stem.data[:54] = torch.cat((filters, -filters))
    stem.requires_grad_(False)


def made_greedy(activations: Tensor, threshold: float) -> Tensor:
    """Return the bits themselves, whose gradient is handed on as it is: (n, bits) in 0..1 -> (n, bits) of 0 and 1."""
    return activations + ((activations > threshold).float() - activations).detach()


class Average:
    """A running mean of the network's state, which the network is set to every five steps.

    Args:
        network: in its first state.
    """

    def __init__(self, network: nn.Module) -> None:
        self.state = {name: value.clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def take(self, network: nn.Module, share: float) -> None:
        """Go on a little towards the network's state, ever less as training nears its end, and set the network to it.

        Args:
            network: as it is now.
            share: of the steps that are done.
        """
        decay = 0.95**5 * share**3
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)
                value.copy_(self.state[name])
