"""Augmentation of whole batches in memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from drhn_cli.config import Preprocessing, TrainConfig


def normalise(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return pixels as the network wants them.

    Args:
        pixels: (n, 3, s, s) uint8.
        preprocessing: gives the mean and standard deviation of each channel.

    Returns:
        (n, 3, s, s) float32 in channels-last order.
    """
    mean = torch.tensor(preprocessing.mean, device=pixels.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(preprocessing.std, device=pixels.device).view(1, 3, 1, 1) * 255
    return ((pixels.float() - mean) / std).contiguous(memory_format=torch.channels_last)


def translate(images: Tensor, largest: int, generator: torch.Generator) -> Tensor:
    """Shift each image by its own random offset of up to ``largest`` pixels each way; mirrored pixels fill the edge.

    Args:
        images: (n, c, s, s).
        largest: largest shift in pixels.
        generator: on the CPU, so that a seed gives the same shifts on every device.
    """
    if not largest:
        return images
    n, _, side, _ = images.shape
    padded = functional.pad(images, (largest,) * 4, mode="reflect")
    shifts = torch.randint(0, 2 * largest + 1, (2, n, 1), generator=generator)
    positions = (shifts + torch.arange(side)).to(images.device)  # (2, n, s): rows and columns to take
    index = torch.arange(n, device=images.device).view(n, 1, 1)
    return padded.permute(0, 2, 3, 1)[index, positions[0].unsqueeze(2), positions[1].unsqueeze(1)].permute(0, 3, 1, 2)


def cut_out(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Blank one square of each image at a random place, to the mean colour.

    Args:
        images: (n, c, s, s), normalised so that zero is the mean.
        side: side of the square in pixels.
        generator: on the CPU.

    Source: DeVries and Taylor 2017, https://arxiv.org/abs/1708.04552.
    """
    if not side:
        return images
    n, _, size, _ = images.shape
    corner = torch.randint(0, max(size - side, 0) + 1, (2, n, 1), generator=generator)
    position = torch.arange(size)
    inside = ((position >= corner) & (position < corner + side)).to(images.device)  # (2, n, s)
    return images.masked_fill((inside[0].unsqueeze(2) & inside[1].unsqueeze(1)).unsqueeze(1), 0.0)


def flip_alternately(images: Tensor, indices: Tensor, epoch: int, seed: int) -> Tensor:
    """Mirror half of the images in even epochs and the other half in odd ones.

    So two epochs show every image both ways.

    Args:
        images: (n, c, s, s).
        indices: (n,) positions of the images in the training set; decide which half an image is in.
        epoch: number of the epoch.
        seed: of the split into halves.

    Source: Keller Jordan 2024, https://arxiv.org/abs/2404.00498.
    """
    # A multiplicative hash: a reproducible coin for each image without a table.
    coin = ((indices + seed + 1) * 2654435761 >> 16) & 1
    mirrored = (coin.to(images.device) ^ (epoch & 1)).bool().view(-1, 1, 1, 1)
    return torch.where(mirrored, images.flip(-1), images)


def augment(images: Tensor, indices: Tensor, epoch: int, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """Return a training batch: shifted, mirrored, blanked in part.

    Args:
        images: (n, 3, s, s) float32, normalised.
        indices: (n,) positions of the images in the training set.
        epoch: number of the epoch.
        config: says how much of each.
        generator: on the CPU.
    """
    images = translate(images, config.translate, generator)
    if config.flip:
        images = flip_alternately(images, indices, epoch, config.seed)
    return cut_out(images, config.cutout, generator).contiguous(memory_format=torch.channels_last)
