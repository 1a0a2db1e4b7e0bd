"""Run a network on the processor in threads that each have pictures of their own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from drhn_cli.network.encoder import Encoder
from drhn_cli.threads import ThreadPool


class ThreadedEncoder(Encoder):
    """An encoder that shares out pictures to threads.

    Libraries let their threads share each layer instead and wait for each other after each of them, spinning: beside
    threads that decode, that takes a good part of the time from them.

    Args:
        inner: what hashes, in each of the threads.
        size: pictures at a time in a thread.
        n_threads: threads, at least 1.
        prepare: called in each thread first; it keeps the library from starting threads of its own.

    Attributes:
        inner: what hashes.
        model: the trained network.
        step: pictures at a time in all threads.
    """

    def __init__(self, inner: Encoder, size: int, *, n_threads: int, prepare: Callable[[], object]) -> None:
        self.inner = inner
        self.model = inner.model
        self.step = size * n_threads
        self._size = size
        self._pool = ThreadPool(n_threads, "drhn-encode", prepare)

    def activations(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the hash layer's activations: (n, views * s, s, 3) uint8 -> (n, bits) float32 in 0..1."""
        chunks = [pixels[start : start + self._size] for start in range(0, max(1, len(pixels)), self._size)]
        return np.concatenate(list(self._pool.map(self.inner.activations, chunks)))
