"""Tell how far apart two pictures are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from drhn_cli.errors import AnyPath
from drhn_cli.images.load import load_image
from drhn_cli.network.encoder import Encoder
from drhn_cli.network.model import choose_bits, load_model
from drhn_cli.search.hamming import hamming_distances


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two pictures compared.

    Attributes:
        distance: bits that differ, 0..n_bits.
        n_bits: length of the codes.
    """

    distance: int
    n_bits: int


def compare_pictures(
    first: AnyPath | BinaryIO,
    second: AnyPath | BinaryIO,
    *,
    weights: str | None = None,
    n_bits: int | None = None,
    views: int | None = None,
) -> Comparison:
    """Hash two pictures and compare their codes.

    Args:
        first: a path, or a stream with a picture.
        second: another.
        weights: a bundled model's name or a weights file. None: the default.
        n_bits: length of the codes. None: the network's longest.
        views: of each picture, 1 or 2, that activations are averaged of. None: as the weights say.

    Raises:
        ImageError: a picture cannot be read.
        WeightsError: the weights cannot be read.
        ConfigError: the network makes no codes of that length.
    """
    loaded = load_model(weights, views=views)
    length = choose_bits(n_bits, loaded)
    pixels = np.stack([load_image(image, loaded.preprocessing) for image in (first, second)])  # (2, views * s, s, 3)
    codes = Encoder(loaded, device="cpu", n_images=2).codes(pixels, length)
    return Comparison(distance=int(hamming_distances(codes[:1], codes[1:])[0, 0]), n_bits=length)
