"""Augmentation of whole batches in memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from drhn_cli.training.config import TrainConfig


def crop_and_stretch(images: Tensor, smallest: float, generator: torch.Generator) -> Tensor:
    """Stretch a random rectangle of each image to its full size, bilinearly.

    The rectangle's area is uniform from ``smallest`` to all of the image, its aspect ratio log-uniform from 3:4 to 4:3
    as far as it fits, its place uniform.

    Args:
        images: (n, c, s, s).
        smallest: smallest share of the area, above 0; 1 for no crops.
        generator: on the CPU.

    Source: Szegedy et al. 2014, https://arxiv.org/abs/1409.4842 (section 6).
    """
    if smallest == 1:
        return images
    area, aspect, row, column = torch.rand(4, len(images), generator=generator)
    area = smallest + (1 - smallest) * area
    aspect = (4 / 3) ** (2 * aspect - 1)
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)  # shares of the side
    transform = torch.zeros(len(images), 2, 3)  # output to input coordinates, both -1..1
    transform[:, 0, 0], transform[:, 0, 2] = width, (2 * column - 1) * (1 - width)
    transform[:, 1, 1], transform[:, 1, 2] = height, (2 * row - 1) * (1 - height)
    grid = functional.affine_grid(transform.to(images.device), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def change_colours(images: Tensor, largest: float, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast and saturation of each image, each by its own random factor around 1.

    Args:
        images: (n, 3, s, s), normalised.
        largest: the factors are uniform in ``1 - largest .. 1 + largest``; brightness moves by that share of a standard
            deviation of the training pixels.
        generator: on the CPU.
    """
    if not largest:
        return images
    draws = torch.rand(3, len(images), 1, 1, 1, generator=generator).to(images.device)
    brightness, contrast, saturation = (largest * (2 * draws - 1)).unbind()
    centre: Tensor = images.mean(dim=(1, 2, 3), keepdim=True)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (1 + saturation) * (images - grey)
    return centre + (1 + contrast) * (images - centre) + brightness


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
    """Return a training batch: cropped, shifted, mirrored, in other colours, blanked in part.

    Args:
        images: (n, 3, s, s) float32, normalised.
        indices: (n,) positions of the images in the training set.
        epoch: number of the epoch.
        config: says how much of each.
        generator: on the CPU.
    """
    images = crop_and_stretch(images, config.crop, generator)
    images = translate(images, config.translate, generator)
    if config.flip:
        images = flip_alternately(images, indices, epoch, config.seed)
    images = change_colours(images, config.colour, generator)
    return cut_out(images, config.cutout, generator).contiguous(memory_format=torch.channels_last)
