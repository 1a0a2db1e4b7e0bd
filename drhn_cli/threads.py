"""Threads that Ctrl-C cannot deadlock.

Python raises ``KeyboardInterrupt`` between any two instructions of the main thread, inside ``threading`` and
``concurrent.futures`` too. Right after a lock was taken, that leaves it locked, and the program never ends:
https://github.com/python/cpython/issues/74174.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from threading import current_thread, main_thread
from types import FrameType
from typing import Generic, ParamSpec, Self, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Handler = Callable[[int, FrameType | None], object]


def n_processors() -> int:
    """Return how many processors this process may use, 1 or more: ``taskset`` and containers limit them."""
    if hasattr(os, "sched_getaffinity"):  # macOS and Windows do not have it
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the block ends; only for short blocks, as nothing else stops them."""
    handlers: dict[int, _Handler] = {}
    delayed: list[tuple[int, FrameType | None]] = []
    is_over = False

    def delay(number: int, frame: FrameType | None) -> None:
        if is_over:  # the signal came before its handler was restored
            handlers[number](number, frame)
        else:
            delayed.append((number, frame))

    try:
        for number in (signal.SIGINT, signal.SIGTERM) if current_thread() is main_thread() else ():
            handler = signal.getsignal(number)
            if callable(handler):
                handlers[number] = handler
                signal.signal(number, delay)
        yield
    finally:
        is_over = True
        for signal_number, handler in handlers.items():
            signal.signal(signal_number, handler)
        for signal_number, frame in delayed:
            handlers[signal_number](signal_number, frame)


class Task(Generic[_T]):
    """A ``Future`` whose ``result`` may be interrupted at any moment."""

    def __init__(self, future: Future[_T]) -> None:
        self._future = future
        self._done: SimpleQueue[Future[_T]] = SimpleQueue()  # in C: an interrupted get() leaves no lock
        future.add_done_callback(self._done.put)

    def result(self) -> _T:
        """Wait for the work, and return its result or raise its error."""
        with uninterrupted():
            is_done = self._future.done()
        if not is_done:
            self._done.get()
        with uninterrupted():
            return self._future.result()


class ThreadPool:
    """A ``ThreadPoolExecutor`` that may be interrupted at any moment.

    At the end of its ``with`` block, work that has not begun is dropped, and running work is waited for.

    Args:
        n_threads: at most, 1 or more.
        name: the prefix of the threads' names.
        prepare: called first in each thread.
    """

    def __init__(self, n_threads: int, name: str, prepare: Callable[[], object] | None = None) -> None:
        self._executor = ThreadPoolExecutor(n_threads, name, prepare)

    def submit(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Task[_T]:
        """Call ``work`` in a thread."""
        with uninterrupted():
            return Task(self._executor.submit(work, *args, **kwargs))

    def map(self, work: Callable[..., _T], *arguments: Iterable[object]) -> Iterator[_T]:
        """Call ``work`` in threads as ``map`` does, beginning at once; return the results in order."""
        return _results(deque([self.submit(work, *each) for each in zip(*arguments, strict=False)]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with uninterrupted():
            self._executor.shutdown(wait=False, cancel_futures=True)
        self._executor.shutdown()


def _results(tasks: deque[Task[_T]]) -> Iterator[_T]:
    while tasks:
        yield tasks.popleft().result()  # so that results are not kept
