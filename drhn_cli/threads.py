"""Threads that Ctrl-C cannot leave waiting for each other.

Python raises ``KeyboardInterrupt`` between any two instructions of the main thread, those of its own ``threading`` and
``concurrent.futures`` among them. Where that is just after a lock was taken, nobody gives it back, and the program
never ends: https://github.com/python/cpython/issues/74174.
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
    """Return how many processors this process may use, at least 1: containers and ``taskset`` allow it fewer."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the block ends. For blocks that do not wait: nothing stops them."""
    hold = _Hold()
    try:
        hold.begin()
        yield
    finally:
        hold.end()


class _Hold:
    """Handles signals in the place of the functions that do, and hands them on when it is over."""

    def __init__(self) -> None:
        self._is_over = False
        self._handlers: dict[int, _Handler] = {}
        self._noted: list[tuple[int, FrameType | None]] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._is_over:  # and what was to be put back was not: another signal came first
            self._handlers[number](number, frame)
        else:
            self._noted.append((number, frame))

    def begin(self) -> None:
        """Take the place of the functions."""
        if current_thread() is not main_thread():  # which alone is interrupted
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                self._handlers[number] = handler
                signal.signal(number, self)

    def end(self) -> None:
        """Put them back, and let the first signal that came have its effect."""
        self._is_over = True
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for number, frame in self._noted:
            self._handlers[number](number, frame)


class Task(Generic[_T]):
    """Work that a thread does.

    Args:
        future: of that work, just submitted.
    """

    def __init__(self, future: Future[_T]) -> None:
        self._future = future
        self._done: SimpleQueue[Future[_T]] = SimpleQueue()  # written in C: an interrupted get() holds no lock
        future.add_done_callback(self._done.put)

    def result(self) -> _T:
        """Wait for the work, and return what it came to or raise what it raised."""
        with uninterrupted():
            is_done = self._future.done()
        if not is_done:
            self._done.get()
        with uninterrupted():
            return self._future.result()


class ThreadPool:
    """A ``ThreadPoolExecutor`` that may be interrupted at any moment.

    Leaving its ``with`` block, by an error too, drops the work that has not begun and waits for what has.

    Args:
        n_threads: at most, at least 1.
        name: what the threads' names begin with.
        prepare: called first in each thread.
    """

    def __init__(self, n_threads: int, name: str, prepare: Callable[[], object] | None = None) -> None:
        self._executor = ThreadPoolExecutor(n_threads, name, prepare)

    def submit(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Task[_T]:
        """Have a thread call ``work``."""
        with uninterrupted():
            return Task(self._executor.submit(work, *args, **kwargs))

    def map(self, work: Callable[..., _T], *arguments: Iterable[object]) -> Iterator[_T]:
        """Have threads call ``work`` with the first of each of ``arguments``, the second, and so on.

        Returns:
            The results in that order. The work begins at once.
        """
        return _results(deque([self.submit(work, *each) for each in zip(*arguments, strict=False)]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with uninterrupted():
            self._executor.shutdown(wait=False, cancel_futures=True)
        self._executor.shutdown()


def _results(tasks: deque[Task[_T]]) -> Iterator[_T]:
    while tasks:
        yield tasks.popleft().result()  # and it is held no longer
