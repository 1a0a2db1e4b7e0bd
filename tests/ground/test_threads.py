"""Threads that may be interrupted at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from drhn_cli.threads import ThreadPool, n_processors, uninterrupted

CHECKOUT = Path(__file__).parents[2]

# Sends the signal wherever Python looks for signals in the main thread, when a function begins and after a call, until
# there is no such place left. At the end Python waits for all threads, and so for one that waits for a lock forever.
INTERRUPT_EVERYWHERE = """
import dis, itertools, signal, sys

from drhn_cli.cli.app import saving_on_sigterm
from drhn_cli.threads import ThreadPool

def raise_at(wanted):
    seen = itertools.count()
    def trace(frame, event, _):
        frame.f_trace_opcodes = True
        if (event == "call" or (event == "opcode" and follows_call(frame))) and next(seen) == wanted:
            signal.raise_signal(NUMBER)
        return trace
    return trace

def follows_call(frame):
    code, place = frame.f_code.co_code, frame.f_lasti - 2
    while place >= 0 and dis.opname[code[place]] == "CACHE":
        place -= 2
    return place >= 0 and dis.opname[code[place]].startswith("CALL")

def use(pool):
    with pool:
        return pool.submit(abs, -3).result()

n_interrupted = 0
for wanted in itertools.count():
    pool = ThreadPool(1, "test")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with saving_on_sigterm():
            try:
                sys.settrace(raise_at(wanted))
                done = use(pool)
            finally:
                sys.settrace(None)
        break
    except BaseException as error:
        assert isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Exit", repr(error)
        n_interrupted += 1
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        continue
    raise AssertionError("Ctrl-C has no effect any more")
assert done == 3
print(n_interrupted)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_at_any_instruction_leaves_a_program_that_ends_and_can_be_interrupted(number):
    script = INTERRUPT_EVERYWHERE.replace("NUMBER", f"signal.{number.name}")
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, timeout=90)
    assert done.stderr == b""
    assert int(done.stdout) > 100


def test_a_hold_ends_with_the_interruption_that_came_meanwhile():
    reached: list[bool] = []

    def interrupt() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            reached.append(True)

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert reached
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_hold_leaves_signals_alone_that_are_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_may_hold_without_effect():
    def hold() -> bool:
        before = signal.getsignal(signal.SIGINT)
        with uninterrupted():
            return signal.getsignal(signal.SIGINT) is before

    with ThreadPool(1, "test") as pool:
        task = pool.submit(hold)
        time.sleep(0.1)
        assert task.result()


def test_an_error_is_that_of_the_work():
    with ThreadPool(2, "test") as pool:
        task = pool.submit(int, "none")
        for _ in range(2):
            with pytest.raises(ValueError, match="none"):
                task.result()


def test_results_come_in_the_order_of_the_arguments():
    first = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            first.wait(60)
        else:
            first.set()
        return -number

    with ThreadPool(2, "test") as pool:
        assert list(pool.map(work, range(4))) == [0, -1, -2, -3]


def test_leaving_drops_the_work_that_has_not_begun():
    begun: list[int] = []
    busy = threading.Event()
    release = threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        busy.set()
        release.wait(60)

    def leave() -> None:
        with ThreadPool(1, "test") as pool:
            for number in range(3):
                pool.submit(work, number)
            busy.wait(60)
            threading.Timer(0.2, release.set).start()
            raise KeyError

    with pytest.raises(KeyError):
        leave()
    assert begun == [0]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity")
def test_processors_are_those_that_the_process_may_use():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert n_processors() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert n_processors() == len(allowed)


def test_processors_are_all_where_the_system_does_not_say(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert n_processors() == 1
