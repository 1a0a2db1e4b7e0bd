import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from drhn_cli import native
from drhn_cli.codes.pack import code_size
from drhn_cli.native.build import compile_library
from drhn_cli.search import scan
from drhn_cli.search.hamming import search

CHECKOUT = Path(__file__).parents[2]
LENGTHS = [1, 7, 8, 9, 12, 31, 33, 47, 48, 63, 64, 65, 96, 127, 128, 129, 192, 200, 256, 257, 512, 513, 1000, 4096]

# Rows that end where a page ends that nobody may read.
AT_THE_EDGE = """
import ctypes, mmap, sys
from functools import partial
from pathlib import Path
import numpy as np
from drhn_cli import native
from drhn_cli.search import scan
from drhn_cli.search.hamming import search

native.LIBRARY = Path(sys.argv[1])
NativeScanner = scan.NativeScanner
best = native.load_library().drhn_best_kernel()
pages = mmap.mmap(-1, (1 << 20) + mmap.PAGESIZE)
start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
end = start + (1 << 20)
mprotect = ctypes.CDLL(None, use_errno=True).mprotect
mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
assert mprotect(end, mmap.PAGESIZE, 0) == 0
rng = np.random.default_rng(0)
for size in (*range(1, 70), 128, 129, 511, 512):
    for n in (1, 2, 5, 8, 9, 31, 1030):
        memory = (ctypes.c_uint8 * (n * size)).from_address(end - n * size)
        codes = np.frombuffer(memory, np.uint8).reshape(n, size)
        codes[:] = rng.integers(0, 256, codes.shape)
        expected = np.bitwise_count(codes ^ codes[:1]).sum(axis=1).tolist()
        for kernel in range(best + 1):
            scan.NativeScanner = partial(NativeScanner, kernel=kernel)
            (found,) = search(codes, codes[:1].copy(), n_bits=8 * size)
            assert found.distances[np.argsort(found.indices)].tolist() == expected, (size, n, kernel)
print("read to the end")
if len(sys.argv) > 2:
    ctypes.string_at(end, 1)
"""


@pytest.fixture(params=[0, 1, 2], ids=["portable", "popcnt", "avx512"])
def kernel(request, native_library, monkeypatch):
    """Each kernel in turn that this processor has the instructions for."""
    if request.param > native.open_library(native_library).drhn_best_kernel():
        pytest.skip("this processor does not have the instructions")
    monkeypatch.setattr(native, "LIBRARY", native_library)
    monkeypatch.setattr(scan, "NativeScanner", partial(scan.NativeScanner, kernel=request.param))
    monkeypatch.delenv("DRHN_NATIVE", raising=False)
    return request.param


def lists(results):
    return [(result.indices.tolist(), result.distances.tolist()) for result in results]


def by_numpy(*arguments, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRHN_NATIVE", "0")
        return lists(search(*arguments, **options))


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("n_bits", LENGTHS)
def test_every_length_gives_what_numpy_gives(n_bits):
    rng = np.random.default_rng(n_bits)
    noise = rng.integers(0, 256, (2100, code_size(n_bits)), dtype=np.uint8)  # padding bits are set
    for codes in (noise, noise & noise[::-1] & np.roll(noise, 1, axis=0), noise[:1], noise[:7], noise[:0]):
        for asked in (
            {"top_k": 5},
            {"top_k": 3000, "max_distance": n_bits // 2},
            {"max_distance": n_bits // 3},
            {},
            {"top_k": 4, "rows": np.arange(0, len(codes), 3)},
            {"top_k": 1 << 70},
        ):
            for queries in (noise[:1], noise[:5], noise[:0]):
                assert lists(search(codes, queries, n_bits=n_bits, **asked)) == by_numpy(
                    codes, queries, n_bits=n_bits, **asked
                )


@pytest.mark.usefixtures("kernel")
def test_more_hits_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(scan, "_MIN_CAPACITY", 1024)
    monkeypatch.setattr(scan, "_CAPACITY", 1)
    codes = np.random.default_rng(0).integers(0, 256, (20_000, 6), dtype=np.uint8)
    for asked in ({}, {"top_k": 9000}, {"max_distance": 24}):
        assert lists(search(codes, codes[:3], n_bits=48, **asked)) == by_numpy(codes, codes[:3], n_bits=48, **asked)


@pytest.mark.usefixtures("kernel")
def test_the_first_of_equal_codes_are_found_and_the_others_not_looked_for():
    codes = np.zeros((50_000, 6), np.uint8)
    codes[0] = 1
    queries = np.array([[0] * 6, [1] * 6, [255] * 6], np.uint8)
    found = lists(search(codes, queries, n_bits=48, top_k=3))
    assert found == [([1, 2, 3], [0, 0, 0]), ([0, 1, 2], [0, 6, 6]), ([0, 1, 2], [42, 48, 48])]


@pytest.mark.parametrize("beyond", [False, True])
def test_nothing_is_read_beyond_the_rows(native_library, beyond):
    done = subprocess.run(
        [sys.executable, "-c", AT_THE_EDGE, native_library, *["beyond"] * beyond],
        cwd=CHECKOUT,
        capture_output=True,
        check=False,
    )
    assert done.stdout == b"read to the end\n", done.stderr
    assert (done.returncode != 0) is beyond  # to be sure that reading on would have been seen


# Without the library


def test_it_can_be_turned_off(native_library, monkeypatch):
    monkeypatch.setattr(native, "LIBRARY", native_library)
    for setting, there in (("0", False), ("1", True), ("", True)):
        monkeypatch.setenv("DRHN_NATIVE", setting)
        assert (native.load_library() is not None) is there


@pytest.mark.usefixtures("native_library")  # there is a compiler
@pytest.mark.parametrize("content", [None, b"", b"\x7fELF and no more", "version", "something else"])
def test_no_usable_library_is_as_good_as_none(tmp_path, monkeypatch, content):
    path = tmp_path / "libdrhn.so"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        source = tmp_path / "scan.c"
        source.write_text("int drhn_version(void) { return 0; }" if content == "version" else "int other;")
        assert compile_library([source], path) is None
    monkeypatch.setattr(native, "LIBRARY", path)
    assert native.load_library() is None
    codes = np.arange(40, dtype=np.uint8).reshape(-1, 2)
    assert lists(search(codes, codes[:2], n_bits=16, top_k=3)) == by_numpy(codes, codes[:2], n_bits=16, top_k=3)
