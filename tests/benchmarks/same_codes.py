"""Whether numpy and torch give pictures the same codes.

    python -m tests.benchmarks.same_codes FOLDER... [--pictures 10_000] [--seed 0] [--weights NAME|FILE]

Draws pictures of these folders by lot and hashes them with both, 500 at a time. Prints one JSON object: the bits that
differ, those of them whose activation is further than 1e-4 from the threshold (there must be none: the exit status is 1
otherwise), the share of activations that are not, and the largest difference of two activations.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys

import numpy as np
import torch

from drhn_cli.images.find import find_images
from drhn_cli.images.load import load_batches
from drhn_cli.network.drhn import load_torch
from drhn_cli.network.encoder import encode_views
from drhn_cli.network.model import Model, load_model
from drhn_cli.network.numpy_backend import load_numpy

TOLERANCE = 1e-4
BATCH_SIZE = 500


class Comparison:
    """What numpy and torch have said of all pictures so far."""

    def __init__(self, weights: Model) -> None:
        self._threshold = np.float32(weights.config.threshold)
        self._backends = load_numpy(weights), load_torch(weights, torch.device("cpu"))
        self.n_pictures = self.n_bits = self.n_different = self.n_wrong = self.n_near = 0
        self.largest_difference = 0.0

    def add(self, pixels: np.ndarray) -> None:
        """Compare the codes of pictures, (n, s, s, 3) uint8."""
        first, second = (encode_views(backend, pixels, BATCH_SIZE) for backend in self._backends)  # (n, bits)
        different = (first > self._threshold) != (second > self._threshold)
        near = np.abs(second - self._threshold) < TOLERANCE
        self.n_pictures += len(pixels)
        self.n_bits += different.size
        self.n_different += int(different.sum())
        self.n_wrong += int((different & ~near).sum())
        self.n_near += int(near.sum())
        self.largest_difference = max(self.largest_difference, float(np.abs(first - second).max(initial=0)))

    def to_dict(self) -> dict[str, float]:
        """Return the figures."""
        return {
            "pictures": self.n_pictures,
            "bits": self.n_bits,
            "different": self.n_different,
            "different_beyond_tolerance": self.n_wrong,
            "share_within_tolerance": self.n_near / max(1, self.n_bits),
            "largest_difference": self.largest_difference,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", help="a bundled model or a weights file (the bundled default)")
    arguments = parser.parse_args()
    weights = load_model(arguments.weights)
    paths = [file.path for file in find_images(arguments.folders).files]
    chosen = random.Random(arguments.seed).sample(paths, min(arguments.pictures, len(paths)))
    comparison = Comparison(weights)
    workers = os.cpu_count() or 1
    for batch in load_batches(chosen, weights.preprocessing, batch_size=BATCH_SIZE, workers=workers):
        comparison.add(batch.pixels)
    print(json.dumps(comparison.to_dict()))
    sys.exit(comparison.n_wrong > 0)


if __name__ == "__main__":
    main()
