"""Pictures that tests draw for themselves: four classes that a tiny network tells apart, each picture different."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

KINDS = ("circle", "stripes", "square", "checker")


def draw_picture(kind: str, seed: int, size: int = 32) -> Image.Image:
    """Draw an RGB picture of one of ``KINDS``: the same kind, seed and size give the same picture.

    ``circle`` is red on dark, ``stripes`` are blue and slanted, ``square`` is green on light, ``checker`` is grey.
    Place, scale, shade and noise vary with the seed.
    """
    rng = np.random.default_rng((KINDS.index(kind), seed, size))
    pixels = _DRAW[kind](rng, size).astype(np.float64)
    noisy = pixels + rng.normal(0, 12, pixels.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def draw_gradient(width: int, height: int) -> Image.Image:
    """Draw an RGB picture in which no two corners, rows or columns are alike (up to 256 x 256)."""
    y, x = np.mgrid[:height, :width]
    red, green = x * 255 // max(1, width - 1), y * 255 // max(1, height - 1)
    return Image.fromarray(np.stack([red, green, (red + 2 * green) // 3], axis=-1).astype(np.uint8))


def write_class_folders(
    root: str | os.PathLike[str],
    classes: Sequence[str] = KINDS,
    n: int = 8,
    size: int = 32,
    *,
    seed: int = 0,
    suffix: str = ".png",
) -> Path:
    """Write ``root/CLASS/0000.png`` and so on: n pictures of each class, named after ``KINDS`` or any names you like.

    The i-th class is drawn as the i-th kind. Another seed gives other pictures of the same classes (a test split).
    """
    for kind, name in zip(KINDS, classes, strict=False):
        folder = Path(root) / name
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(n):
            draw_picture(kind, seed * 1_000_000 + i, size).save(folder / f"{i:04d}{suffix}")
    return Path(root)


def _circle(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    image = Image.new("RGB", (size, size), tuple(rng.integers(0, 60, 3).tolist()))
    radius = size * rng.uniform(0.22, 0.38)
    x, y = rng.uniform(radius, size - radius, 2)
    colour = (int(rng.integers(180, 256)), *rng.integers(0, 70, 2).tolist())
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return np.asarray(image)


def _stripes(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[:size, :size] / size
    angle = rng.uniform(0.2, 1.2)
    wave = np.sin(2 * np.pi * (rng.uniform(3, 5) * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform()))
    light = np.array([120, 150, 255]) - rng.integers(0, 40, 3)
    dark = np.array([10, 10, 110]) + rng.integers(0, 40, 3)
    return np.where(wave[..., None] > 0, light, dark).astype(np.uint8)


def _square(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    image = Image.new("RGB", (size, size), tuple(rng.integers(200, 256, 3).tolist()))
    side = size * rng.uniform(0.4, 0.7)
    x, y = rng.uniform(0, size - side, 2)
    red, blue = rng.integers(0, 80, 2).tolist()
    ImageDraw.Draw(image).rectangle((x, y, x + side, y + side), fill=(red, int(rng.integers(120, 200)), blue))
    return np.asarray(image)


def _checker(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    cell = max(2, round(size * rng.uniform(0.09, 0.16)))
    y, x = np.mgrid[:size, :size]
    x, y = x + rng.integers(0, cell), y + rng.integers(0, cell)
    light, dark = rng.integers(170, 240), rng.integers(30, 90)
    grey = np.where((x // cell + y // cell) % 2 == 0, light, dark)
    return np.repeat(grey[..., None], 3, axis=-1).astype(np.uint8)


_DRAW: dict[str, Callable[[np.random.Generator, int], NDArray[np.uint8]]] = {
    "circle": _circle,
    "stripes": _stripes,
    "square": _square,
    "checker": _checker,
}

if __name__ == "__main__":
    write_class_folders(sys.argv[1], n=int(sys.argv[2]) if len(sys.argv) > 2 else 50, size=96)
