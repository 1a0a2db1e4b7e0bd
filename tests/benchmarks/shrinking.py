"""How many bits of a code change when a JPEG is decoded smaller than it is.

    python -m tests.benchmarks.shrinking [--pictures 100] [--gaps 2 3 4 6 8] [--weights NAME|FILE]

libjpeg decodes a picture at 1/8 of its size, each way, in half the time. For each gap, photographs (see
``photographs``) are made of such a size that so many of their pixels, at 1/8, go into one of the network's input, each
way; they are hashed from 1/8 and from their full size. Beside that stands what a change that nobody sees does: the same
photographs, saved again at quality 85, in full. Prints a table and one line of JSON.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drhn_cli.images.load import load_image
from drhn_cli.images.preprocess import Preprocessing
from drhn_cli.network.encoder import Encoder
from drhn_cli.network.model import load_model
from tests.benchmarks.photographs import draw_photograph

SCALE = 8
Load = Callable[[bytes], NDArray[np.uint8]]


def jpeg_of(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def save_again(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        return jpeg_of(image, 85)


def loader(preprocessing: Preprocessing) -> Load:
    return lambda data: load_image(io.BytesIO(data), preprocessing)


def table(results: list[dict[str, float | str]]) -> Iterator[str]:
    yield "| from the full size to | bits that change | codes that change | mean change of a pixel, of 255 |"
    yield "|---|---|---|---|"
    for row in results:
        shares = (f"{row[key]:.3%}" for key in ("bits_changed", "codes_changed"))
        yield f"| {row['change']} | {' | '.join(shares)} | {row['pixel_change']:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100, help="for each gap")
    parser.add_argument("--gaps", type=int, nargs="+", default=[2, 3, 4, 6, 8])
    parser.add_argument("--weights", help="a bundled model or a weights file (the bundled default)")
    arguments = parser.parse_args()
    weights = load_model(arguments.weights)
    encoder = Encoder(weights, device="cpu")
    full = replace(weights.preprocessing, shrink_gap=0)
    results: list[dict[str, float | str]] = []
    for gap in arguments.gaps:
        height = SCALE * gap * full.size
        size = (height * 4 // 3, height)
        pictures = [jpeg_of(draw_photograph(seed, size), 85 + seed % 8) for seed in range(arguments.pictures)]
        pixels = np.stack([loader(full)(data) for data in pictures])  # (n, s, s, 3)
        again = [save_again(data) for data in pictures]
        changes = {
            f"1/8, {gap} times the input": [loader(replace(full, shrink_gap=gap))(data) for data in pictures],
            f"a copy at quality 85, {size[0]} x {size[1]}": [loader(full)(data) for data in again],
        }
        bits = encoder.activations(pixels) > weights.config.threshold  # (n, bits)
        for change, changed in changes.items():
            different = bits != (encoder.activations(np.stack(changed)) > weights.config.threshold)
            distance = np.abs(np.stack(changed).astype(int) - pixels)
            shares = {"bits_changed": float(different.mean()), "codes_changed": float(different.any(axis=1).mean())}
            results.append({"change": change, "gap": gap, **shares, "pixel_change": float(distance.mean())})
    print(*table(results), sep="\n")
    print(json.dumps({"pictures": arguments.pictures, "weights": weights.name, "results": results}))


if __name__ == "__main__":
    main()
