"""From pixels to activations and codes: views, batches, and the choice of the backend."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.pack import pack_bits
from drhn_cli.network.config import NetworkConfig
from drhn_cli.network.model import Model
from drhn_cli.threads import ThreadPool

NUMPY_LIMIT = 500
"""Up to this many pictures numpy is faster than torch, which takes a while to import."""

_CPU_BATCH = 32
"""Pictures per thread, and per batch of torch on a CPU: as fast as hundreds, and a small batch needs less padding."""

Backend = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""A loaded network: (n, s, s, 3) uint8 views -> (n, bits) activations in 0..1."""


def codes_of(activations: NDArray[np.float32], config: NetworkConfig, n_bits: int) -> NDArray[np.uint8]:
    """Return packed codes, whose bit i is ``activation_i > t``: (n, bits) -> (n, ceil(n_bits / 8)) uint8.

    A shorter code is the beginning of a longer one.
    """
    return pack_bits(activations[:, :n_bits] > config.threshold)


def bit_probabilities(activations: NDArray[np.float32], config: NetworkConfig, n_bits: int) -> NDArray[np.float64]:
    """Return activations rescaled so that the threshold t is at 1/2: (n, bits) -> (n, n_bits) in 0..1.

    They are above 1/2 exactly where ``codes_of`` sets a bit.
    """
    threshold = float(np.float32(config.threshold))  # numpy compares float32 activations with the rounded threshold
    return np.interp(activations[:, :n_bits], [0.0, threshold, 1.0], [0.0, 0.5, 1.0])


def encode_views(backend: Backend, pixels: NDArray[np.uint8], batch_size: int = 500) -> NDArray[np.float32]:
    """Return the mean activations of each picture's views: (n, views * s, s, 3) -> (n, bits).

    ``batch_size`` is the number of views that the backend gets at a time.
    """
    side = pixels.shape[2]
    views = pixels.reshape(-1, side, side, 3)  # (n * views, s, s, 3)
    parts = [backend(views[start : start + batch_size]) for start in range(0, len(views), batch_size)]
    activations = np.concatenate(parts).reshape(len(pixels), pixels.shape[1] // side, -1)  # (n, views, bits)
    means: NDArray[np.float32] = activations.mean(axis=1)
    return means


class Encoder:
    """A model that is ready to encode pictures; their number decides the backend.

    The code of a picture depends on the picture alone: the last batch is padded with black pictures to the size of the
    others. A matrix product with another number of rows sums in another order: activations would differ by about
    1e-7, and rarely a bit.

    Args:
        model: the trained network.
        device: auto, cuda, mps or cpu. For few pictures, auto and cpu mean numpy.
        n_images: how many pictures are to be encoded.
        batch_size: pictures at a time on a GPU.
        n_threads: threads on a CPU, each with pictures of its own; OpenBLAS is single-threaded in this process then.
            None: numpy or torch share the work of each layer among threads of their own.

    Attributes:
        step: pictures that are encoded at a time.

    Raises:
        ConfigError: the device is unknown or not there.
    """

    def __init__(
        self, model: Model, *, device: str = "auto", n_images: int, batch_size: int = 500, n_threads: int | None = None
    ) -> None:
        self.model = model
        self._pool = None
        use_one_thread: Callable[[], object]
        is_on_cpu = True
        # Imported here, so that few pictures do not wait for torch.
        if device in ("auto", "cpu") and n_images <= NUMPY_LIMIT:
            from drhn_cli.network.numpy_backend import BATCH, load_numpy, use_one_thread

            self._backend: Backend = load_numpy(model)
            self.step, self._views_at_a_time = min(BATCH, n_images), BATCH
        else:
            from drhn_cli.network.devices import choose_device
            from drhn_cli.network.drhn import load_torch, use_one_thread

            chosen = choose_device(device)
            is_on_cpu = chosen.type == "cpu"
            self._backend = load_torch(model, chosen)
            self.step = self._views_at_a_time = min(_CPU_BATCH if is_on_cpu else batch_size, n_images)
        self._padded_to = self.step
        if is_on_cpu and n_threads is not None:
            self._pool = ThreadPool(n_threads, "drhn-encode", use_one_thread)
            self.step = _CPU_BATCH * n_threads

    def activations(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the hash layer's activations: (n, views * s, s, 3) uint8 -> (n, bits) float32 in 0..1."""
        if self._pool is None:
            return self._encode(pixels)
        chunks = [pixels[start : start + _CPU_BATCH] for start in range(0, max(1, len(pixels)), _CPU_BATCH)]
        return np.concatenate(list(self._pool.map(self._encode, chunks)))

    def codes(self, pixels: NDArray[np.uint8], n_bits: int) -> NDArray[np.uint8]:
        """Return packed codes: (n, views * s, s, 3) uint8 -> (n, ceil(n_bits / 8)) uint8."""
        return codes_of(self.activations(pixels), self.model.config, n_bits)

    def bit_probabilities(self, pixels: NDArray[np.uint8], n_bits: int) -> NDArray[np.float64]:
        """Return how likely each bit is 1: (n, views * s, s, 3) uint8 -> (n, n_bits) in 0..1."""
        return bit_probabilities(self.activations(pixels), self.model.config, n_bits)

    def _encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if not len(pixels):
            return np.empty((0, self.model.config.bits), np.float32)
        n_missing = -len(pixels) % self._padded_to
        padded = np.pad(pixels, ((0, n_missing), (0, 0), (0, 0), (0, 0)))
        return encode_views(self._backend, padded, self._views_at_a_time)[: len(pixels)]
