"""Choose what runs the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from drhn_cli.network.binarise import codes_of
from drhn_cli.network.model import Model

NUMPY_LIMIT = 500
"""Up to so many pictures numpy is done before torch has been imported and has caught up."""

_CPU_CHUNK = 32
"""Images at a time in a thread and for torch on a CPU: as fast there as hundreds, and fewer are filled up with less."""


def split_views(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the views of pictures, those of one after the other: (n, views * s, s, 3) -> (n * views, s, s, 3)."""
    side = pixels.shape[2]
    return pixels.reshape(-1, side, side, 3)


def mean_of_views(activations: NDArray[np.float32], n_views: int) -> NDArray[np.float32]:
    """Return the activations of pictures from those of their views: (n * views, bits) -> (n, bits) float32."""
    means: NDArray[np.float32] = activations.reshape(-1, n_views, activations.shape[1]).mean(axis=1)
    return means


class Encoder(Protocol):
    """A trained network, ready to hash.

    Attributes:
        model: the trained network.
        step: pictures that it hashes at a time; of more it makes several steps.
    """

    model: Model
    step: int

    def activations(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the hash layer's activations: (n, views * s, s, 3) uint8 -> (n, bits) float32 in 0..1."""
        ...

    def codes(self, pixels: NDArray[np.uint8], n_bits: int) -> NDArray[np.uint8]:
        """Return the packed codes of pictures: (n, views * s, s, 3) uint8 -> (n, ceil(n_bits / 8)) uint8."""
        return codes_of(self.activations(pixels), self.model.config, n_bits)


class EvenEncoder(Encoder):
    """Hashes the same number of pictures at a time, filled up with black ones: a code depends on its picture alone.

    A matrix product of another height sums in another order: an activation then differs by about 1e-7, and a bit may.

    Args:
        inner: what hashes.
        size: pictures at a time.

    Attributes:
        inner: what hashes.
        model: the trained network.
        step: that size.
    """

    def __init__(self, inner: Encoder, size: int) -> None:
        self.inner = inner
        self.model = inner.model
        self.step = size

    def activations(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the hash layer's activations: (n, views * s, s, 3) uint8 -> (n, bits) float32 in 0..1."""
        n_missing = -len(pixels) % self.step
        filled = np.concatenate([pixels, np.zeros((n_missing, *pixels.shape[1:]), np.uint8)]) if n_missing else pixels
        return self.inner.activations(filled)[: len(pixels)]


def load_encoder(
    model: Model, *, device: str, n_images: int, batch_size: int = 500, n_threads: int | None = None
) -> Encoder:
    """Return the quickest encoder for a number of pictures; given that, the code of each depends on it alone.

    Args:
        model: the trained network.
        device: auto, cuda, mps or cpu. The first and the last are free to use numpy.
        n_images: how many pictures are to be hashed.
        batch_size: images at a time on a device of torch's.
        n_threads: threads on the CPU, each with images of its own; through the rest of the process, if numpy runs the
            network. None: the library's own, which share each layer.

    Raises:
        ConfigError: the device is unknown or not there.
    """
    # Imported here, so that each way loads only what it needs.
    prepare: Callable[[], object]
    if device in ("auto", "cpu") and n_images <= NUMPY_LIMIT:
        from drhn_cli.network.blas import use_one_thread as prepare
        from drhn_cli.network.numpy_backend import CHUNK, NumpyEncoder

        encoder = EvenEncoder(NumpyEncoder(model), min(CHUNK, n_images))
    else:
        from drhn_cli.network.devices import choose_device
        from drhn_cli.network.devices import use_one_thread as prepare
        from drhn_cli.network.encode import TorchEncoder

        place = choose_device(device)
        size = min(_CPU_CHUNK if place.type == "cpu" else batch_size, n_images)
        encoder = EvenEncoder(TorchEncoder(model, place, batch_size=size), size)
        if place.type != "cpu":
            return encoder
    if n_threads is None:
        return encoder
    from drhn_cli.network.in_threads import ThreadedEncoder

    return ThreadedEncoder(encoder, _CPU_CHUNK, n_threads=n_threads, prepare=prepare)
