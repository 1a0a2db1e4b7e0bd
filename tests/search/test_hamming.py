import numpy as np
import pytest

from drhn_cli.codes.pack import code_size
from drhn_cli.errors import ConfigError, DrhnError
from drhn_cli.search import hamming as module
from drhn_cli.search.hamming import hamming_distances, search

CODES = np.array([[0b0000], [0b0001], [0b0011], [0b0001], [0b1111]], dtype=np.uint8)
QUERY = np.array([[0b0000]], dtype=np.uint8)


@pytest.fixture(autouse=True, params=["native", "numpy"])
def compared_by(request, monkeypatch):
    """Whatever holds for one holds for the other."""
    if request.param == "native":
        monkeypatch.setattr("drhn_cli.native.LIBRARY", request.getfixturevalue("native_library"))
        monkeypatch.delenv("DRHN_NATIVE", raising=False)
    else:
        monkeypatch.setenv("DRHN_NATIVE", "0")


def found(**options):
    (result,) = search(CODES, QUERY, n_bits=8, **options)
    assert result.indices.dtype == np.int64
    assert result.distances.dtype == np.int32
    assert len(result) == len(result.indices) == len(result.distances)
    return result.indices.tolist(), result.distances.tolist()


def test_everything_is_ranked_by_default_and_ties_follow_the_rows():
    assert found() == ([0, 1, 3, 2, 4], [0, 1, 1, 2, 4])


def test_top_k_may_exceed_what_is_there():
    assert found(top_k=2) == ([0, 1], [0, 1])
    assert found(top_k=99) == found()


def test_max_distance_is_a_range_search():
    assert found(max_distance=1) == ([0, 1, 3], [0, 1, 1])
    assert found(max_distance=0) == ([0], [0])
    assert found(max_distance=10**9) == found()


def test_top_k_within_max_distance():
    assert found(max_distance=2, top_k=3) == ([0, 1, 3], [0, 1, 1])


@pytest.mark.parametrize(
    "rows", [np.array([4, 1, 2, 1]), np.array([1, 2, 4], dtype=np.uint8), np.array([0, 1, 1, 0, 1], dtype=bool)]
)
def test_rows_restrict_the_search_and_keep_their_numbers(rows):
    assert found(rows=rows) == ([1, 2, 4], [1, 2, 4])


def test_no_rows_no_codes_no_queries():
    assert found(rows=np.array([], dtype=np.int64)) == ([], [])
    assert found(rows=np.zeros(5, dtype=bool)) == ([], [])
    assert len(search(CODES[:0], QUERY, n_bits=8, top_k=3)[0]) == 0
    assert search(CODES, QUERY[:0], n_bits=8) == []


def test_nothing_within_max_distance():
    (result,) = search(CODES[1:], QUERY, n_bits=8, max_distance=0, top_k=5)
    assert len(result) == 0


def test_padding_bits_do_not_count():
    dirty = CODES | 0b1110_0000
    (result,) = search(dirty, QUERY, n_bits=5)
    assert result.distances.tolist() == [0, 1, 1, 2, 4]


@pytest.mark.parametrize("n_bits", [8, 48, 100])
def test_threads_and_chunks_do_not_change_the_result(n_bits, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_WORDS", 64)
    monkeypatch.setattr(module, "_NATIVE_WORDS", 300)
    rng = np.random.default_rng(n_bits)
    codes = rng.integers(0, 4, (1001, code_size(n_bits)))
    codes = codes.astype(np.uint8)
    for options in ({"top_k": 7}, {"max_distance": 3}, {"top_k": 400, "rows": np.arange(0, 1001, 2)}):
        one = search(codes, codes[:3], n_bits=n_bits, **options)
        with monkeypatch.context() as patch:
            patch.setattr(module, "count_threads", lambda _: 4)
            four = search(codes, codes[:3], n_bits=n_bits, **options)
        for a, b in zip(one, four, strict=True):
            assert a.indices.tolist() == b.indices.tolist()
            assert a.distances.tolist() == b.distances.tolist()


@pytest.mark.parametrize("n_bits", [32, 48, 64, 96, 128, 192, 256, 320])
def test_one_query_finds_what_it_finds_among_many(n_bits):
    rng = np.random.default_rng(n_bits)
    codes = rng.integers(0, 256, (5001, n_bits // 8), dtype=np.uint8)
    codes[[7, 4999]] = 0xFF  # as far from the first query as can be
    queries = np.concatenate([np.zeros((1, n_bits // 8), np.uint8), codes[:2]])
    many = search(codes, queries, n_bits=n_bits)
    assert many[0].indices[-2:].tolist() == [7, 4999]
    assert many[0].distances[-1] == n_bits
    for query, expected in zip(queries, many, strict=True):
        (alone,) = search(codes, query[np.newaxis], n_bits=n_bits)
        assert alone.indices.tolist() == expected.indices.tolist()
        assert alone.distances.tolist() == expected.distances.tolist()


def test_more_threads_than_rows(monkeypatch):
    expected = found()
    monkeypatch.setattr(module, "count_threads", lambda _: 16)
    assert found() == expected


def test_there_is_a_thread_for_each_million_rows_and_no_more_than_processors(monkeypatch):
    monkeypatch.setattr("drhn_cli.threads.n_processors", lambda: 4)
    assert [module.count_threads(n << 20) for n in (0, 1, 2, 3, 4, 5, 100)] == [1, 1, 2, 3, 4, 4, 4]
    monkeypatch.setattr("drhn_cli.threads.n_processors", lambda: 1)
    assert module.count_threads(5 << 20) == 1


def test_codes_may_be_strided_or_read_only():
    wide = np.zeros((5, 4), dtype=np.uint8)
    wide[:, 1:2] = CODES
    (result,) = search(wide[:, 1:2], QUERY, n_bits=8)
    assert result.distances.tolist() == [0, 1, 1, 2, 4]
    frozen = np.frombuffer(CODES.tobytes(), dtype=np.uint8).reshape(5, 1)
    (result,) = search(frozen, QUERY, n_bits=8)
    assert result.distances.tolist() == [0, 1, 1, 2, 4]


@pytest.mark.parametrize("option", [{"top_k": 0}, {"max_distance": -1}, {"n_bits": 0}])
def test_numbers_out_of_range(option):
    with pytest.raises(ConfigError, match="out of range"):
        search(CODES, QUERY, **{"n_bits": 8, **option})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([5]), r"no such row \(expected 0\.\.4, found 5\.\.5\)"),
        (np.array([-1, 2]), r"found -1\.\.2"),
        (np.array([True]), r"mask of rows of another shape \(expected \(5,\), found \(1,\)\)"),
        (np.array([1.5]), "not rows"),
        (np.array([[1]]), "not rows"),
    ],
)
def test_rows_that_do_not_exist(rows, message):
    with pytest.raises(DrhnError, match=message):
        search(CODES, QUERY, n_bits=8, rows=rows)


def test_codes_of_another_length():
    with pytest.raises(DrhnError, match="queries do not hold 8-bit codes"):
        search(CODES, np.zeros((1, 2), np.uint8), n_bits=8)
    with pytest.raises(DrhnError, match="codes do not hold 16-bit codes"):
        search(CODES, QUERY, n_bits=16)


def test_hamming_distances_is_dense():
    distances = hamming_distances(np.vstack([QUERY, QUERY + 1]), CODES)
    assert distances.dtype == np.uint16
    assert distances.tolist() == [[0, 1, 2, 1, 4], [1, 0, 1, 0, 3]]


def test_hamming_distances_of_long_codes_do_not_overflow():
    assert hamming_distances(np.zeros((1, 512), np.uint8), np.full((1, 512), 255, np.uint8)).tolist() == [[4096]]


def test_hamming_distances_refuses_other_arrays():
    with pytest.raises(DrhnError):
        hamming_distances(QUERY, np.zeros(3, np.uint8))
