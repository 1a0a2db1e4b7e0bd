"""Photographs that nobody took: sizes, spectrum, edges, grain and JPEG entropy of those that cameras make.

A picture is made of leaves that cover each other, whose radii follow a power law (after the "dead leaves" of Lee,
Mumford and Huang 2001): they give the edges and the 1/f spectrum of natural pictures at all scales. On them lie 1/f
textures of brightness and colour, and grain. JPEG at quality 85 to 92, 4:2:0: 0.2 to 0.45 bytes a pixel.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageChops, ImageDraw

SIZES = ((1152, 864), (1600, 1200), (2048, 1536), (2592, 1944), (3264, 2448), (4000, 3000))
"""Of 1, 2, 3, 5, 8 and 12 megapixels, in turn."""

ORIENTATIONS = (1, 1, 6, 1, 1, 8, 1)
"""Of EXIF, in turn; 6 and 8 are portraits, stored on their side as phones do."""

_TILE = 2048
_N_LEAVES = 900
_RADII = (0.004, 0.6)  # the smallest and the largest, in heights of the picture

# Standard deviations in values of 0..255: smooth pictures, and rich and grainy ones.
_TEXTURES, _GRAINS, _COLOUR = (6.0, 12.0, 20.0), (1.5, 1.0, 2.5), 8.0


def draw_photograph(seed: int, size: tuple[int, int]) -> Image.Image:
    """Draw an RGB photograph, (width, height): the same seed and size give the same picture."""
    rng = np.random.default_rng((7, seed))
    leaves = _draw_leaves(rng, size)
    kind = int(rng.integers(len(_TEXTURES)))
    brightness = _cut(_tile(kind, _TEXTURES[kind], _GRAINS[kind]), rng, size)
    warmth, tint = (_cut(_tile(3 + i, _COLOUR, 0.0), rng, size) for i in range(2))
    channels = [_shift(channel, brightness) for channel in leaves.split()]
    changes = (warmth, tint, ImageChops.invert(warmth))
    return Image.merge("RGB", [_shift(*pair) for pair in zip(channels, changes, strict=True)])


def write_photographs(root: str | os.PathLike[str], n: int, *, sizes: Sequence[tuple[int, int]] = SIZES) -> list[Path]:
    """Write ``root/0000.jpg`` and so on, of these sizes in turn."""
    Path(root).mkdir(parents=True, exist_ok=True)
    paths = [Path(root, f"{i:04d}.jpg") for i in range(n)]
    for i, path in enumerate(paths):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = ORIENTATIONS[i % len(ORIENTATIONS)]
        draw_photograph(i, sizes[i % len(sizes)]).save(path, quality=85 + i % 8, exif=exif)
    return paths


def _draw_leaves(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    width, height = size
    image = Image.new("RGB", size, "grey")
    pen = ImageDraw.Draw(image)
    draws = rng.random(_N_LEAVES)
    radii = height / (draws / _RADII[0] + (1 - draws) / _RADII[1])  # of density r**-2
    greys, colours = rng.normal(rng.uniform(80, 160), 45, _N_LEAVES), rng.normal(0, 16, (_N_LEAVES, 3))
    for radius, grey, colour in zip(radii.tolist(), greys, colours, strict=True):
        x, y, flat = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.3, 1)
        box = (x - radius, y - flat * radius, x + radius, y + flat * radius)
        fill = tuple(np.clip(grey + colour, 0, 255).astype(int).tolist())
        (pen.ellipse if rng.random() < 0.6 else pen.rectangle)(box, fill=fill)
    return image


def _shift(channel: Image.Image, change: Image.Image) -> Image.Image:
    """Add what is above mid-grey, subtract what is below. In bytes: twelve megapixels of floats take seconds."""
    return ImageChops.add(channel, change, offset=-128)


def _cut(tile: Image.Image, rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Cut a grey picture out of tiles side by side, at a random place."""
    x, y = rng.integers(-_TILE, 0, 2).tolist()
    image = Image.new("L", size)
    for left in range(x, size[0], _TILE):
        for top in range(y, size[1], _TILE):
            image.paste(tile, (left, top))
    return image


@cache
def _tile(seed: int, texture: float, grain: float) -> Image.Image:
    """Draw mid-grey with noise of amplitude 1/f, and white noise, of these standard deviations; it repeats."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(rng.standard_normal((_TILE, _TILE), np.float32))
    frequency = np.hypot(np.fft.fftfreq(_TILE)[:, np.newaxis], np.fft.rfftfreq(_TILE))
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(spectrum / frequency, (_TILE, _TILE))
    values = 128 + texture * noise / noise.std() + grain * rng.standard_normal((_TILE, _TILE), np.float32)
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
