"""Load many pictures with threads, in batches, in order, with flat memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from drhn_cli.errors import ImageError
from drhn_cli.images.decode import DEFAULTS, DecodeOptions, decode_reduced
from drhn_cli.images.preprocess import Preprocessing, fit_image
from drhn_cli.images.source import ImageSource
from drhn_cli.settings import require
from drhn_cli.threads import Task, ThreadPool

# Files in one task: a task costs about as much to schedule as a tiny picture to decode.
CHUNK_SIZE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Consecutive pictures of the input.

    Attributes:
        indices: (n,) int64, the place in the input of each row of ``pixels``, rising.
        pixels: (n, views * size, size, 3) uint8.
        failures: the places and errors of those that could not be read, rising; they may be all there is.
    """

    indices: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    failures: list[tuple[int, ImageError]]


_Loaded = NDArray[np.uint8] | ImageError


def load_image(
    source: ImageSource, preprocessing: Preprocessing, *, options: DecodeOptions = DEFAULTS
) -> NDArray[np.uint8]:
    """Load one picture, exactly as ``load_batches`` does: (views * size, size, 3) pixels in 0..255.

    Raises:
        ImageError: it cannot be read; see ``decode_reduced``.
    """
    image, scale, margins = decode_reduced(
        source, options, min_side=preprocessing.min_decoded_side, rendering=preprocessing.rendering
    )
    return fit_image(image, preprocessing, scale=scale, margins=margins)


def load_batches(
    sources: Iterable[ImageSource],
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    workers: int,
    options: DecodeOptions = DEFAULTS,
) -> Iterator[Batch]:
    """Load pictures in the order of ``sources``.

    Decoding runs ahead by about two batches, so memory stays flat however many there are. Closing the iterator
    (an error or Ctrl-C in the loop over it does) drops the pending work and waits for at most one picture a thread.

    Args:
        sources: taken lazily, in the caller's thread.
        preprocessing: how pictures are fitted.
        batch_size: pictures in a batch, failures included; the last one may have fewer. At least 1.
        workers: threads. At least 1.
        options: which pictures are refused.

    Returns:
        Batches. A picture that cannot be read is a failure in its batch and stops nothing.

    Raises:
        ConfigError: ``batch_size`` or ``workers`` is below 1.
    """
    require(batch_size >= 1, "batch size", "1 or more", batch_size)
    require(workers >= 1, "workers", "1 or more", workers)
    return _generate_batches(iter(sources), preprocessing, batch_size, workers, options)


def _generate_batches(
    sources: Iterator[ImageSource], preprocessing: Preprocessing, batch_size: int, workers: int, options: DecodeOptions
) -> Iterator[Batch]:
    stopped = False

    def load_chunk(chunk: Sequence[ImageSource]) -> list[_Loaded]:
        loaded: list[_Loaded] = []
        for source in chunk:
            if stopped:
                break
            try:
                loaded.append(load_image(source, preprocessing, options=options))
            except ImageError as error:
                # The tracebacks would keep half-decoded pictures alive for as long as the error is kept.
                error.__cause__ = error.__context__ = None
                loaded.append(error.with_traceback(None))
        return loaded

    with ThreadPool(workers, "drhn-load") as pool:
        batches: deque[list[Task[list[_Loaded]]]] = deque()
        # Enough tasks for every worker while one batch is being used, for small batches too.
        n_ahead = max(2, 1 + -(-2 * workers * CHUNK_SIZE // batch_size))
        start = 0
        try:
            while True:
                while len(batches) < n_ahead and (batch := list(islice(sources, batch_size))):
                    chunks = [batch[i : i + CHUNK_SIZE] for i in range(0, len(batch), CHUNK_SIZE)]
                    batches.append([pool.submit(load_chunk, chunk) for chunk in chunks])
                if not batches:
                    return
                loaded = [one for task in batches.popleft() for one in task.result()]
                yield _collect(loaded, start, preprocessing.shape)
                start += len(loaded)
        finally:
            stopped = True  # load_chunk checks it before each picture


def _collect(loaded: list[_Loaded], start: int, shape: tuple[int, int, int]) -> Batch:
    failures = [(i, one) for i, one in enumerate(loaded, start) if isinstance(one, ImageError)]
    rows = [(i, one) for i, one in enumerate(loaded, start) if not isinstance(one, ImageError)]
    pixels = np.array([one for _, one in rows], np.uint8).reshape(len(rows), *shape)
    return Batch(indices=np.array([i for i, _ in rows], np.int64), pixels=pixels, failures=failures)
