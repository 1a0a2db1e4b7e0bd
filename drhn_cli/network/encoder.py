"""From pixels to activations and codes: views, batches, threads, and the backend that computes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.pack import pack_bits
from drhn_cli.errors import WeightsError, printable
from drhn_cli.network.config import NetworkConfig
from drhn_cli.network.devices import choose_gpu
from drhn_cli.network.integer import Pooled, is_exact, load_head
from drhn_cli.network.model import Model
from drhn_cli.network.native_backend import load_native
from drhn_cli.network.numpy_backend import load_integer_trunk, load_numpy, use_one_thread
from drhn_cli.threads import ThreadPool

_CPU_BATCH = 32
"""Pictures that a thread of a CPU is given at a time."""

_CACHED_PIXELS = 64**2
"""So many pixels at a time numpy computes in its cache: a large view, or a few small ones."""

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


def predict_classes(model: Model, activations: NDArray[np.float32], n_bits: int) -> NDArray[np.int64]:
    """Return the likeliest class of each picture from its first ``n_bits`` activations: (n, bits) -> (n,)."""
    config, bits = model.config, activations[:, :n_bits]
    if config.classify_bits:
        bits = np.where(bits > config.threshold, np.float32(1), np.float32(-1))
    weight = model.arrays["classify.weight"][:, :n_bits].astype(np.float32) * np.float32(config.bits / n_bits)
    scores = bits @ weight.T + model.arrays["classify.bias"]  # (n, n_classes)
    return cast("NDArray[np.int64]", scores.argmax(axis=1))


def encode_views(backend: Backend, pixels: NDArray[np.uint8], batch_size: int = 500) -> NDArray[np.float32]:
    """Return the mean activations, or pooled features, of each picture's views: (n, views * s, s, 3) -> (n, bits).

    ``batch_size`` is the number of views that the backend gets at a time.
    """
    side = pixels.shape[2]
    views = pixels.reshape(-1, side, side, 3)  # (n * views, s, s, 3)
    parts = [backend(views[start : start + batch_size]) for start in range(0, len(views), batch_size)]
    activations = np.concatenate(parts).reshape(len(pixels), pixels.shape[1] // side, -1)  # (n, views, bits)
    means: NDArray[np.float32] = activations.mean(axis=1)
    return means


class Encoder:
    """A model that is ready to encode pictures.

    The code of a picture depends on the picture alone. That of a network in integers is the same to the bit on every
    machine and device. A network in floats, of older weights files, may give other bits on another kind of processor
    or on a GPU, where an activation is so near the threshold that rounding decides.

    Args:
        model: the trained network.
        device: auto, cuda, mps or cpu; auto is a GPU if there is one, and if it computes integers exactly.
        batch_size: pictures at a time on a GPU.
        n_threads: threads on a CPU, each with pictures of its own; OpenBLAS is single-threaded in this process then.
            None: numpy shares the work of each layer among threads of its own.

    Attributes:
        step: pictures that are encoded at a time.

    Raises:
        ConfigError: the device is unknown or not there.
        WeightsError: the device computes another network than the weights were made for.
    """

    def __init__(
        self, model: Model, *, device: str = "auto", batch_size: int = 500, n_threads: int | None = None
    ) -> None:
        self.model = model
        self._device = choose_gpu(device)
        self._pooled = self._load_exact_trunk(device) if model.is_integer else None
        self._backend: Backend = self._load(features=False)
        self._pool = None
        if self._device is not None:
            self.step = self._views_at_a_time = batch_size
            return
        self.step = _CPU_BATCH * (n_threads or 1)
        self._views_at_a_time = max(1, _CACHED_PIXELS // model.config.input_size**2) if model.is_integer else 1
        if n_threads is not None:
            self._pool = ThreadPool(n_threads, "drhn-encode", use_one_thread)

    def activations(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the hash layer's activations: (n, views * s, s, 3) uint8 -> (n, bits) float32 in 0..1."""
        return self._encode(pixels, self._backend, self.model.config.bits)

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the pooled features, the input of the hash layer: (n, views * s, s, 3) uint8 -> (n, n_features).

        They are float32. With two views they are the mean of both; with ``unit_features`` each view's have length 1.
        """
        return self._encode(pixels, self._feature_backend, self.model.config.n_features)

    def codes(self, pixels: NDArray[np.uint8], n_bits: int) -> NDArray[np.uint8]:
        """Return packed codes: (n, views * s, s, 3) uint8 -> (n, ceil(n_bits / 8)) uint8."""
        return codes_of(self.activations(pixels), self.model.config, n_bits)

    def bit_probabilities(self, pixels: NDArray[np.uint8], n_bits: int) -> NDArray[np.float64]:
        """Return how likely each bit is 1: (n, views * s, s, 3) uint8 -> (n, n_bits) in 0..1."""
        return bit_probabilities(self.activations(pixels), self.model.config, n_bits)

    @cached_property
    def _feature_backend(self) -> Backend:
        return self._load(features=True)

    def _load_exact_trunk(self, device: str) -> Pooled:
        """Return the trunk of a network in integers by the first backend that computes the known answer."""
        for is_gpu, pooled in self._load_trunks(device):
            if is_exact(pooled, self.model):
                self._device = self._device if is_gpu else None
                return pooled
        problem = f"{printable(self.model.name)} is computed with other results here than where it was made"
        raise WeightsError(problem, found=f"--device {device}", hint="use --device cpu")

    def _load_trunks(self, device: str) -> Iterator[tuple[bool, Pooled]]:
        """Yield the backends that may be used, the fastest first, each loaded when it is asked for: GPU or not."""
        if self._device is not None:
            from drhn_cli.network.drhn import load_integer_trunk as load_for_torch

            yield True, load_for_torch(self.model, self._device)
            if device != "auto":
                return
        if native := load_native(self.model):
            yield False, native
        yield False, load_integer_trunk(self.model)

    def _load(self, *, features: bool) -> Backend:
        pooled = self._pooled
        if pooled is not None:
            head = load_head(self.model, features=features)
            return lambda views: head(pooled(views))
        if self._device is None:
            return load_numpy(self.model, features=features)
        from drhn_cli.network.drhn import load_torch

        return load_torch(self.model, self._device, features=features)

    def _encode(self, pixels: NDArray[np.uint8], backend: Backend, width: int) -> NDArray[np.float32]:
        """(n, views * s, s, 3) -> (n, width), in chunks for each thread where there are threads."""

        def encode(chunk: NDArray[np.uint8]) -> NDArray[np.float32]:
            return encode_views(backend, chunk, self._views_at_a_time)

        if not len(pixels):
            return np.empty((0, width), np.float32)
        if self._pool is None:
            return encode(pixels)
        chunks = [pixels[start : start + _CPU_BATCH] for start in range(0, len(pixels), _CPU_BATCH)]
        return np.concatenate(list(self._pool.map(encode, chunks)))
