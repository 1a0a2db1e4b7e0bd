"""Whether every path on this machine gives pictures the same codes, to the bit.

    python -m tests.benchmarks.same_codes FOLDER... [--pictures 2_000] [--seed 0] [--weights NAME|FILE]

Draws pictures of these folders by lot and computes them with numpy, with each kernel in C that the processor can run,
with torch on the CPU, and on a GPU where there is one, in batches of odd sizes. The weights are a network in integers.
Prints one JSON object: the paths, and for each the pictures whose pooled sums are others than numpy's (equal sums are
equal activations and codes). There must be none: the exit status is 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch

from drhn_cli.images.find import find_images
from drhn_cli.images.load import load_batches
from drhn_cli.native import load_library
from drhn_cli.network import drhn
from drhn_cli.network.integer import Pooled, integer_layers
from drhn_cli.network.model import Model, load_model
from drhn_cli.network.native_backend import KERNELS, NativeTrunk
from drhn_cli.network.numpy_backend import load_integer_trunk

BATCH_SIZE = 100
_PARTS = (1, 2, 3, 5, 7, 11, 13, 31, 27)  # of a batch, in turn


def paths_of(model: Model) -> dict[str, Pooled]:
    """Return the trunk of a network in integers by every path on this machine, numpy first."""
    paths = {"numpy": load_integer_trunk(model)}
    if library := load_library():
        for number, name in enumerate(KERNELS):
            if library.drhn_int8_can_run(number):
                paths[name] = NativeTrunk(library, integer_layers(model), kernel=number)
    paths["torch"] = drhn.load_integer_trunk(model, torch.device("cpu"))
    if torch.cuda.is_available():
        paths["cuda"] = drhn.load_integer_trunk(model, torch.device("cuda"))
    return paths


class Comparison:
    """What the paths have made of all pictures so far; the first one decides what is right."""

    def __init__(self, paths: Mapping[str, Pooled]) -> None:
        self._paths = paths
        self.n_pictures = 0
        self.different = dict.fromkeys(paths, 0)

    def add(self, views: np.ndarray) -> None:
        """Compare the sums of views, (n, s, s, 3) uint8."""
        bounds = np.minimum(np.cumsum((0, *_PARTS * (len(views) // sum(_PARTS) + 1))), len(views))
        expected = None
        for name, pooled in self._paths.items():
            parts = [pooled(views[start:end]) for start, end in pairwise(bounds) if end > start]
            sums = np.concatenate(parts)
            expected = sums if expected is None else expected
            self.different[name] += int((sums != expected).any(axis=1).sum())
        self.n_pictures += len(views)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--pictures", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", help="a bundled model or a weights file (the bundled default)")
    arguments = parser.parse_args()
    model = load_model(arguments.weights, views=1)
    paths = [file.path for file in find_images(arguments.folders).files]
    chosen = random.Random(arguments.seed).sample(paths, min(arguments.pictures, len(paths)))
    comparison = Comparison(paths_of(model))
    for batch in load_batches(chosen, model.preprocessing, batch_size=BATCH_SIZE, workers=1):
        comparison.add(batch.pixels)
    print(json.dumps({"pictures": comparison.n_pictures, "different": comparison.different}))
    sys.exit(any(comparison.different.values()))


if __name__ == "__main__":
    main()
