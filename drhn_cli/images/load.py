"""Load many pictures with threads, in batches, in order, with flat memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drhn_cli.errors import ImageError, about
from drhn_cli.images.decode import DEFAULTS, Decoded, DecodeOptions, decode_reduced
from drhn_cli.images.preprocess import Preprocessing, fit_image
from drhn_cli.images.source import ImageFile, ImageSource, digest_of, or_error, without_frames
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


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedPicture:
    """A picture file that was read and decoded.

    Attributes:
        digest: of its bytes, see ``digest_of``.
        pixels: (views * size, size, 3) uint8, the network's input.
        thumbnail: (64, 64, 3) uint8, the whole picture, whatever its shape.
        size: width and height, upright, in pixels of the file.
        taken_ns: when it was taken, see ``find_taken_ns``.
        passed_over: what else the file holds, see ``passed_over``.
    """

    digest: bytes
    pixels: NDArray[np.uint8]
    thumbnail: NDArray[np.uint8]
    size: tuple[int, int]
    taken_ns: int | None
    passed_over: str | None = None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that could not be read, or not be decoded.

    Attributes:
        error: why.
        digest: of its bytes; None: not even they could be read.
    """

    error: ImageError
    digest: bytes | None


THUMBNAIL_SIDE = 64

_T = TypeVar("_T")


def load_image(
    source: ImageSource, preprocessing: Preprocessing, *, options: DecodeOptions = DEFAULTS
) -> NDArray[np.uint8]:
    """Load one picture, exactly as ``load_batches`` does: (views * size, size, 3) pixels in 0..255.

    Raises:
        ImageError: it cannot be read; see ``decode_reduced``.
    """
    return _decode_and_fit(source, preprocessing, options)[1]


def _decode_and_fit(
    source: ImageSource, preprocessing: Preprocessing, options: DecodeOptions, data: bytes | None = None
) -> tuple[Decoded, NDArray[np.uint8]]:
    """Decode a picture, of which ``data`` was read perhaps, and return the network's input, too."""
    decoded = decode_reduced(
        source,
        options=options,
        min_side=preprocessing.min_decoded_side,
        rendering=preprocessing.rendering,
        data=data,
    )
    return decoded, fit_image(decoded.image, preprocessing, scale=decoded.scale, margins=decoded.margins)


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
    load = partial(load_image, preprocessing=preprocessing, options=options)
    loaded = _load_ahead(sources, partial(or_error, load), batch_size, workers)
    return _numbered_batches(loaded, preprocessing.shape)


def load_files(
    files: Iterable[ImageFile],
    preprocessing: Preprocessing,
    *,
    known: Mapping[bytes, bytes],
    batch_size: int,
    workers: int,
    options: DecodeOptions = DEFAULTS,
) -> Iterator[list[LoadedPicture | bytes | Unreadable]]:
    """Load picture files as ``load_batches`` does, with what a code file notes of them.

    Args:
        files: taken lazily.
        preprocessing: how pictures are fitted.
        known: for some paths the digest that the file had. One that has it still is not decoded.
        batch_size: files in a batch.
        workers: threads.
        options: which pictures are refused.

    Returns:
        Batches; for each file what it holds, or its digest alone if that is the known one, or why there is neither.
        Whatever goes wrong with one file stops no other.
    """

    def load(file: ImageFile) -> LoadedPicture | bytes | Unreadable:
        digest = None
        try:
            with about(file.path):
                data = file.read()
            digest = digest_of(data)
            if digest == known.get(file.path):
                return digest
            return _load_picture(file, data, digest, preprocessing, options)
        except ImageError as error:
            return Unreadable(without_frames(error), digest)
        except Exception as error:
            found = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return Unreadable(ImageError("cannot be hashed", path=file.path, found=found), digest)

    return _load_ahead(files, load, batch_size, workers)


def _load_picture(
    file: ImageFile, data: bytes, digest: bytes, preprocessing: Preprocessing, options: DecodeOptions
) -> LoadedPicture:
    decoded, pixels = _decode_and_fit(file, preprocessing, options, data)
    # A box filter, as it averages areas; two steps, as they take half the time.
    side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    small = decoded.image.resize(side, Image.Resampling.BOX, box=decoded.box, reducing_gap=2.0)
    return LoadedPicture(
        digest=digest,
        pixels=pixels,
        thumbnail=np.array(small),
        size=decoded.size,
        taken_ns=decoded.taken_ns,
        passed_over=decoded.passed_over,
    )


def _load_ahead(
    sources: Iterable[ImageSource], load: Callable[..., _T], batch_size: int, workers: int
) -> Iterator[list[_T]]:
    require(batch_size >= 1, "batch size", "1 or more", batch_size)
    require(workers >= 1, "workers", "1 or more", workers)
    return _generate_batches(iter(sources), load, batch_size, workers)


def _generate_batches(
    sources: Iterator[ImageSource], load: Callable[[ImageSource], _T], batch_size: int, workers: int
) -> Iterator[list[_T]]:
    stopped = False

    def load_chunk(chunk: Sequence[ImageSource]) -> list[_T]:
        loaded: list[_T] = []
        for source in chunk:
            if stopped:
                break
            loaded.append(load(source))
        return loaded

    with ThreadPool(workers, "drhn-load") as pool:
        batches: deque[list[Task[list[_T]]]] = deque()
        # Enough tasks for every worker while one batch is being used, for small batches too.
        n_ahead = max(2, 1 + -(-2 * workers * CHUNK_SIZE // batch_size))
        try:
            while True:
                while len(batches) < n_ahead and (batch := list(islice(sources, batch_size))):
                    chunks = [batch[i : i + CHUNK_SIZE] for i in range(0, len(batch), CHUNK_SIZE)]
                    batches.append([pool.submit(load_chunk, chunk) for chunk in chunks])
                if not batches:
                    return
                yield [one for task in batches.popleft() for one in task.result()]
        finally:
            stopped = True  # load_chunk checks it before each picture


def _numbered_batches(
    batches: Iterator[list[NDArray[np.uint8] | ImageError]], shape: tuple[int, int, int]
) -> Iterator[Batch]:
    start = 0
    for loaded in batches:
        yield _collect(loaded, start, shape)
        start += len(loaded)


def _collect(loaded: list[NDArray[np.uint8] | ImageError], start: int, shape: tuple[int, int, int]) -> Batch:
    failures = [(i, one) for i, one in enumerate(loaded, start) if isinstance(one, ImageError)]
    rows = [(i, one) for i, one in enumerate(loaded, start) if not isinstance(one, ImageError)]
    pixels = np.array([one for _, one in rows], np.uint8).reshape(len(rows), *shape)
    return Batch(indices=np.array([i for i, _ in rows], np.int64), pixels=pixels, failures=failures)
