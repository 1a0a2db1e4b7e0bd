"""Augmentation of whole batches. All random numbers are drawn on the CPU, so a seed gives the same on every device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from drhn_cli.training.stage import Stage


def augment(images: Tensor, indices: Tensor, epoch: int, stage: Stage, generator: torch.Generator) -> Tensor:
    """Augment a batch of normalized images, (n, 3, s, s) float32; ``indices`` are their (n,) places in the data."""
    images = random_resized_crop(images, stage.random_resized_crop, generator)
    images = translate(images, stage.translate, generator)
    if stage.flip:
        images = alternating_flip(images, indices, epoch, stage.seed or 0)
    images = color_jitter(images, stage.color_jitter, generator)
    return cutout(images, stage.cutout, generator).contiguous(memory_format=torch.channels_last)


def random_resized_crop(images: Tensor, min_area: float, generator: torch.Generator) -> Tensor:
    """Resize a random rectangle of each image, (n, c, s, s), to full size, bilinearly (Szegedy et al. 2014, section 6).

    Its area is uniform from ``min_area``, a share of the image's, to 1; its aspect ratio log-uniform in 3/4..4/3 as far
    as it fits; its place uniform.
    """
    if min_area == 1:
        return images
    area, aspect, row, column = torch.rand(4, len(images), generator=generator)
    area = min_area + (1 - min_area) * area
    aspect = ((4 / 3) ** (2 * aspect - 1)).clamp(area, 1 / area)  # else a side would be longer than the image's
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)  # shares of the side
    transform = torch.zeros(len(images), 2, 3)  # output to input coordinates, both -1..1
    transform[:, 0, 0], transform[:, 0, 2] = width, (2 * column - 1) * (1 - width)
    transform[:, 1, 1], transform[:, 1, 2] = height, (2 * row - 1) * (1 - height)
    grid = functional.affine_grid(transform.to(images.device), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def translate(images: Tensor, max_shift: int, generator: torch.Generator) -> Tensor:
    """Shift each image, (c, s, s), by its own random offset of up to ``max_shift`` pixels each way; edges reflect."""
    if not max_shift:
        return images
    n, _, side, _ = images.shape
    padded = functional.pad(images, (max_shift,) * 4, mode="reflect")
    shifts = torch.randint(0, 2 * max_shift + 1, (2, n, 1), generator=generator)
    positions = (shifts + torch.arange(side)).to(images.device)  # (2, n, s): rows and columns to take
    index = torch.arange(n, device=images.device).view(n, 1, 1)
    return padded.permute(0, 2, 3, 1)[index, positions[0].unsqueeze(2), positions[1].unsqueeze(1)].permute(0, 3, 1, 2)


def alternating_flip(images: Tensor, indices: Tensor, epoch: int, seed: int) -> Tensor:
    """Flip a half of the images in even epochs and the other half in odd ones (Jordan 2024).

    So two epochs show every image, (n, c, s, s), both ways. The seed and an image's place in the data decide which half
    it is in. Source: https://arxiv.org/abs/2404.00498.
    """
    # A multiplicative hash: a reproducible coin for each image without a table.
    coin = ((indices + seed + 1) * 2654435761 >> 16) & 1
    flipped = (coin.to(images.device) ^ (epoch & 1)).bool().view(-1, 1, 1, 1)
    return torch.where(flipped, images.flip(-1), images)


def color_jitter(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast and saturation of each normalized image, (n, 3, s, s), at random.

    Factors of contrast and saturation are uniform in ``1 - strength .. 1 + strength``; brightness is shifted by up to
    that share of a standard deviation of the training pixels.
    """
    if not strength:
        return images
    draws = torch.rand(3, len(images), 1, 1, 1, generator=generator).to(images.device)
    brightness, contrast, saturation = (strength * (2 * draws - 1)).unbind()
    mean: Tensor = images.mean(dim=(1, 2, 3), keepdim=True)
    gray = images.mean(dim=1, keepdim=True)
    images = gray + (1 + saturation) * (images - gray)
    return mean + (1 + contrast) * (images - mean) + brightness


def cutout(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Set a random square of each normalized image, (n, c, s, s), to the mean color, zero; ``side`` is in pixels.

    Source: DeVries and Taylor 2017, https://arxiv.org/abs/1708.04552.
    """
    if not side:
        return images
    n, _, size, _ = images.shape
    corner = torch.randint(0, max(size - side, 0) + 1, (2, n, 1), generator=generator)
    position = torch.arange(size)
    inside = ((position >= corner) & (position < corner + side)).to(images.device)  # (2, n, s)
    return images.masked_fill((inside[0].unsqueeze(2) & inside[1].unsqueeze(1)).unsqueeze(1), 0.0)
