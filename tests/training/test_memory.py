import ctypes
import platform
import subprocess
import sys

import pytest

from drhn_cli.training.memory import keep_freed_memory

FAULTS = """
import resource, sys, threading
import numpy as np
from drhn_cli.training.memory import keep_freed_memory

def fill():
    return float(np.ones(8 << 20)[-1])  # 64 MiB

if sys.argv[1] == "kept":
    assert keep_freed_memory()
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
assert sum(fill() for _ in range(5)) == 5
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
others = [threading.Thread(target=fill) for _ in range(2)]  # threads have heaps of their own, of 64 MiB
[other.start() for other in others]
[other.join() for other in others]
"""
ON_GLIBC = platform.libc_ver()[0] == "glibc"


def test_it_is_done_where_the_library_is_glibc():
    assert keep_freed_memory() is ON_GLIBC


@pytest.mark.skipif(not ON_GLIBC, reason="glibc only")
def test_memory_that_was_freed_is_taken_again_without_page_faults():
    kept, returned = (
        int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True).stdout)
        for how in ("kept", "returned")
    )
    assert kept < returned / 5


@pytest.mark.parametrize("library", [object(), OSError(), TypeError()], ids=["musl", "none", "windows"])
def test_elsewhere_nothing_happens(monkeypatch, library):
    def load(_):
        if isinstance(library, Exception):
            raise library
        return library

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert keep_freed_memory() is False
