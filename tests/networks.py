"""Small networks and labelled pictures in memory, for tests."""

from __future__ import annotations

import os

import numpy as np

from drhn_cli.evaluation.data import LabelledImages
from drhn_cli.images.preprocess import Preprocessing
from drhn_cli.network.config import NetworkConfig
from drhn_cli.network.model import Model
from drhn_cli.network.weights_file import halve_filters
from drhn_cli.training.recipe import Recipe
from drhn_cli.training.stage import Stage
from tests.drawing import KINDS, draw_picture

# Read when torch is loaded, here and in processes that tests start: threads only get in the way of tiny networks.
os.environ.setdefault("OMP_NUM_THREADS", "1")


TINY = {"blocks": 1, "widths": (8, 8, 16, 16, 32, 32)}


def tiny_config(**settings: object) -> NetworkConfig:
    """Return a tiny network for four classes and 16 x 16 pixels, changed as told."""
    return NetworkConfig(**{**TINY, "n_classes": 4, "input_size": 16, "bits": 16, **settings})


def lite_config(kind: int = 0, **settings: object) -> NetworkConfig:
    """Return an EfficientNet-Lite for four classes and the smallest pictures, changed as told."""
    trunk = f"efficientnet-lite{kind}"
    return NetworkConfig(**{"trunk": trunk, "n_classes": 4, "input_size": 32, "bits": 16, **settings})


def recipe_of(network: NetworkConfig, *stages: Stage, n_images: int = 48, **fields: object) -> Recipe:
    """Return a recipe for this network, with everything that pictures decide."""
    recipe = Recipe(
        name="test", network=network, preprocessing=Preprocessing(size=network.input_size), stages=stages, **fields
    )
    return recipe.for_pictures(n_images, network.n_classes, recipe.preprocessing, "float32")


def random_model(
    config: NetworkConfig | None = None, seed: int = 0, *, gain: float | None = None, **fields: object
) -> Model:
    """Return an untrained network whose norms have seen nothing but noise.

    With a gain, filters have that gain: through the many layers of EfficientNet-Lite, 2.5 keeps pictures apart.
    """
    config = config or tiny_config()
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith("running_var"):
            return rng.uniform(0.5, 1.5, shape)
        if gain and len(shape) == 4:
            return rng.normal(0, gain / np.prod(shape[1:]) ** 0.5, shape)
        return rng.normal(0.3 if gain else 0, 0.5 if gain else 0.3, shape)

    arrays = {name: draw(name, shape) for name, shape in config.array_shapes().items()}
    names = tuple(f"class {i}" for i in range(config.n_classes))
    fields = {"name": "random", "class_names": names, **fields}
    fields.setdefault("preprocessing", Preprocessing(size=max(config.input_size, 8)))
    return Model(config=config, arrays=halve_filters(arrays), **fields)


def drawn(n: int, size: int = 16, seed: int = 0) -> LabelledImages:
    """Return n pictures of each kind; another seed draws others."""
    pixels = [np.asarray(draw_picture(kind, seed * 1_000_000 + i, size)) for kind in KINDS for i in range(n)]
    return LabelledImages(
        pixels=np.stack(pixels), labels=np.repeat(np.arange(len(KINDS)), n), class_names=KINDS, failures=()
    )
