import numpy as np
import pytest
import torch

from drhn_cli.codes.pack import pack_bits
from drhn_cli.errors import ConfigError, DrhnError
from drhn_cli.search import cuda as module
from drhn_cli.search import hamming as scan
from drhn_cli.search.cuda import DeviceSearch, load_on_gpu
from drhn_cli.search.hamming import hamming_distances

CPU = torch.device("cpu")


def random_codes(n, n_bits, seed=0):
    return pack_bits(np.random.default_rng(seed).random((n, n_bits)) < 0.2)  # many ties


@pytest.mark.parametrize("n_bits", [5, 48, 64, 100, 128])
@pytest.mark.parametrize(
    "asked", [{"top_k": 7}, {"top_k": 999}, {"max_distance": 9}, {"top_k": 9, "max_distance": 6}, {"max_distance": 0}]
)
@pytest.mark.parametrize("rows", [None, np.arange(0, 300, 3)[::-1], np.arange(300) % 7 > 2])
def test_the_device_finds_what_the_scan_finds(n_bits, asked, rows, monkeypatch):
    codes, queries = random_codes(300, n_bits), random_codes(5, n_bits, seed=1)
    monkeypatch.setattr(module, "_CHUNK_VALUES", 4000)
    monkeypatch.setattr(module, "_MAX_QUERIES", 3)
    found = DeviceSearch(codes, n_bits, CPU, rows).search(queries, **asked)
    expected = scan.search(codes, queries, n_bits=n_bits, rows=rows, **asked)
    assert len(found) == 5
    for a, b in zip(found, expected, strict=True):
        assert a.indices.tolist() == b.indices.tolist()
        assert a.distances.tolist() == b.distances.tolist()
        assert (a.indices.dtype, a.distances.dtype, a.scores) == (np.int64, np.int32, None)


def test_the_longest_codes_are_counted_exactly():
    codes, query = random_codes(50, 4096), random_codes(1, 4096, seed=1)
    (result,) = DeviceSearch(codes, 4096, CPU).search(query)
    assert result.distances.tolist() == hamming_distances(query, codes)[0][result.indices].tolist()


def test_no_codes_no_queries():
    assert len(DeviceSearch(random_codes(0, 8), 8, CPU).search(random_codes(1, 8))[0]) == 0
    assert DeviceSearch(random_codes(3, 8), 8, CPU).search(random_codes(0, 8)) == []


def test_what_cannot_be_asked():
    with pytest.raises(ConfigError, match="top_k is out of range"):
        DeviceSearch(random_codes(3, 8), 8, CPU).search(random_codes(1, 8), top_k=0)
    with pytest.raises(DrhnError, match="no such row"):
        DeviceSearch(random_codes(3, 8), 8, CPU, rows=np.array([3]))


@pytest.mark.parametrize(("free", "fits"), [(1 << 29, False), ((1 << 29) + 300 * 6, True)])
def test_codes_that_do_not_fit_are_left_where_they_are(free, fits, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free if device == CPU else 0, 1 << 40))
    assert (load_on_gpu(random_codes(300, 48), 48, CPU) is not None) == fits


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_what_the_scan_finds():
    codes, queries = random_codes(100_000, 48), random_codes(200, 48, seed=1)
    found = load_on_gpu(codes, 48, torch.device("cuda")).search(queries, top_k=10)
    for a, b in zip(found, scan.search(codes, queries, n_bits=48, top_k=10), strict=True):
        assert a.indices.tolist() == b.indices.tolist()
