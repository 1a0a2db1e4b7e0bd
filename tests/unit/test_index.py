import dataclasses

import numpy as np
import pytest

from drhn_cli.codes import index as module
from drhn_cli.codes import layout, probe
from drhn_cli.codes.index import build_index, index_shapes, substring
from drhn_cli.codes.pack import pack_bits
from drhn_cli.codes.probe import search_indexed
from drhn_cli.codes.reader import CodeFile, write_code_file
from drhn_cli.errors import CodeFileError, ConfigError, DrhnError
from drhn_cli.search.hamming import search
from tests.codes.test_reader import manifest, numbered


def random_codes(n, n_bits=48, seed=0):
    return pack_bits(np.random.default_rng(seed).random((n, n_bits)) < 0.5)


def clustered_codes(n, n_bits=48, seed=0):
    """Codes of which nine in ten are one of five."""
    codes, rng = random_codes(n, n_bits, seed), np.random.default_rng(seed)
    return np.where(rng.random((n, 1)) < 0.9, codes[rng.integers(0, min(n, 5) or 1, n)], codes)


def write_indexed(path, codes, n_bits=48):
    write_code_file(path, codes, numbered(len(codes)), manifest(n_bits))
    with CodeFile.open(path) as file:
        file.add_index(build_index(file.codes, n_bits))


def same(found, expected):
    return len(found) == len(expected) and all(
        a.indices.tolist() == b.indices.tolist() and a.distances.tolist() == b.distances.tolist()
        for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize(("n_bits", "first", "width"), [(48, 16, 16), (100, 33, 28), (12, 11, 1), (130, 120, 10)])
def test_a_substring_is_those_bits_as_a_number(n_bits, first, width):
    bits = np.random.default_rng(n_bits).random((50, n_bits)) < 0.5
    expected = bits[:, first : first + width] @ (1 << np.arange(width))
    assert substring(pack_bits(bits), first, width).tolist() == expected.tolist()


def test_equal_codes_are_grouped_in_order_of_their_first_rows():
    codes = np.array([[7], [1], [7], [7], [1], [9], [7]], np.uint8)
    index = build_index(codes, 8)
    assert index.distinct.tolist() == [[7], [1], [9]]
    assert [part.tolist() for part in index.groups] == [[0, 4, 6, 7], [0, 2, 3, 6, 1, 4, 5]]
    ungrouped = build_index(codes[[0, 1, 5]], 8)
    assert ungrouped.groups is None
    assert ungrouped.distinct.tolist() == [[7], [1], [9]]


def test_tables_hold_every_item_once_in_order_of_its_substring():
    codes = random_codes(3000, 50)
    tables = build_index(codes, 50).tables
    assert [(table.first_bit, table.width) for table in tables] == [(0, 10), (10, 10), (20, 10), (30, 10), (40, 10)]
    for table in tables:
        keys = substring(codes, table.first_bit, table.width)
        assert table.items.tolist() == np.argsort(keys, kind="stable").tolist()
        assert table.starts.tolist() == np.searchsorted(np.sort(keys), np.arange(2**10 + 1)).tolist()


def test_substrings_grow_with_the_number_of_codes(monkeypatch):
    monkeypatch.setattr(module, "MAX_WIDTH", 13)
    assert [len(build_index(random_codes(n), 48).tables) for n in (0, 1, 2000, 5000, 20_000)] == [6, 6, 5, 4, 4]


def test_an_index_looks_at_few_codes(monkeypatch):
    codes = random_codes(1 << 16)
    index = build_index(codes, 48)
    for cost in ("_LOOK_UP_COST", "_STEP_COST", "_FIRST_ITEMS"):
        monkeypatch.setattr(probe, cost, 0)
    looked_at = []
    real = probe.differing_bits
    monkeypatch.setattr(
        probe, "differing_bits", lambda words, query: looked_at.append(words.shape[1]) or real(words, query)
    )
    monkeypatch.setattr(probe, "search", None)  # no scan
    near = codes[:1] ^ np.array([[1, 0, 0, 0, 0, 128]], np.uint8)
    (result,) = search_indexed(index, near, top_k=1, n_threads=1)
    assert (result.indices.tolist(), result.distances.tolist()) == ([0], [2])
    assert 0 < sum(looked_at) < 2000


@pytest.mark.parametrize("codes", [random_codes(60_000), clustered_codes(60_000)], ids=["uniform", "clustered"])
@pytest.mark.parametrize("asked", [{"top_k": 10}, {"max_distance": 9}, {"top_k": 3, "max_distance": 12}, {}])
def test_what_is_too_much_work_is_scanned(codes, asked):
    index = build_index(codes, 48)
    queries = np.concatenate([codes[:3], random_codes(3, seed=1)])
    expected = search(codes, queries, n_bits=48, **asked)
    assert same(search_indexed(index, queries, **asked), expected)
    assert same(search_indexed(index, queries[3:4], **asked), expected[3:4])
    assert same(search_indexed(index, queries, n_threads=3, **asked), expected)


def test_work_in_vain_is_at_most_a_tenth_of_the_scan():
    for codes in (random_codes(1 << 17, 128), random_codes(1 << 17), clustered_codes(1 << 17)):
        n_bits = 8 * codes.shape[1]
        tried = probe._Probe(build_index(codes, n_bits), random_codes(1, n_bits, seed=2), 10, n_bits, 2e6)
        assert tried.run() is not None or tried._spent <= 2e5


def test_many_queries_that_are_all_too_much_work_are_not_all_tried(monkeypatch):
    codes, queries = random_codes(20_000, 128), random_codes(64, 128, seed=2)
    tried, run = [], probe._Probe.run
    monkeypatch.setattr(probe._Probe, "run", lambda this: tried.append(this.query) or run(this))
    assert same(
        search_indexed(build_index(codes, 128), queries, top_k=10), search(codes, queries, n_bits=128, top_k=10)
    )
    assert len(tried) == 8


def test_what_cannot_be_asked():
    index = build_index(random_codes(5), 48)
    with pytest.raises(ConfigError, match="top_k is out of range"):
        search_indexed(index, random_codes(1), top_k=0)
    with pytest.raises(DrhnError, match="queries do not hold 48-bit codes"):
        search_indexed(index, random_codes(1, 40))


def test_too_many_codes(monkeypatch):
    monkeypatch.setattr(module, "MAX_ITEMS", 4)
    with pytest.raises(DrhnError, match=r"too many codes for an index \(expected at most 4, found 5\)"):
        build_index(random_codes(5), 48)


# In the file


@pytest.mark.parametrize("n_bits", [8, 12, 48, 64, 100, 128])
@pytest.mark.parametrize("n", [0, 1, 300])
@pytest.mark.parametrize("make", [random_codes, clustered_codes])
def test_an_index_comes_back_from_the_file(tmp_path, make, n, n_bits):
    path = tmp_path / "codes.bin"
    codes = make(n, n_bits)
    write_indexed(path, codes, n_bits)
    with CodeFile.open(path) as file:
        file.verify()
        built = build_index(codes, n_bits)
        assert [a.tolist() for a in file.index.arrays()] == [a.tolist() for a in built.arrays()]
        assert all(not array.flags.owndata and array.flags.aligned for array in file.index.arrays())
        assert file.codes.tolist() == codes.tolist()
        assert list(file.entries().paths()) == list(numbered(n).paths())
        queries = random_codes(3, n_bits, seed=1)
        assert same(file.search(queries, top_k=5), search(codes, queries, n_bits=n_bits, top_k=5))
        if n:
            rows = np.arange(0, n, 2)
            assert same(file.search(queries, rows=rows), search(codes, queries, n_bits=n_bits, rows=rows))
        del file, queries


def test_faiss_opens_a_file_with_an_index(tmp_path):
    faiss = pytest.importorskip("faiss")
    codes = clustered_codes(300)
    write_indexed(tmp_path / "codes.bin", codes)
    opened = faiss.read_index_binary(str(tmp_path / "codes.bin"))
    assert (type(opened), opened.ntotal) == (faiss.IndexBinaryFlat, 300)
    distances, _ = opened.search(codes[:5], 20)
    with CodeFile.open(tmp_path / "codes.bin") as file:
        assert [result.distances.tolist() for result in file.search(codes[:5], top_k=20)] == distances.tolist()


def test_a_second_index_takes_the_place_of_the_first_and_writing_codes_drops_it(tmp_path):
    path = tmp_path / "codes.bin"
    codes = clustered_codes(50)
    write_indexed(path, codes)
    before = path.read_bytes()
    with CodeFile.open(path) as file:
        file.add_index(build_index(file.codes, 48))
    assert path.read_bytes() == before
    write_code_file(path, codes, numbered(50), manifest(48))
    with CodeFile.open(path) as file:
        assert file.index is None
    assert before.startswith(path.read_bytes()[: -layout.TRAILER_SIZE])


def test_every_flipped_byte_of_a_file_with_an_index_is_found(tmp_path):
    path = tmp_path / "codes.bin"
    write_indexed(path, np.repeat(random_codes(2, 8), 4, axis=0), 8)
    raw = path.read_bytes()
    trailer = layout.Trailer.unpack(raw[-layout.TRAILER_SIZES[layout.INDEXED_VERSION] :])
    unchecked = {"codes": (layout.HEADER_SIZE, trailer.entries_offset), "index": (trailer.index.offset, len(raw) - 88)}
    rng = np.random.default_rng(0)
    for place in rng.permutation(len(raw))[:1000].tolist():
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 0x40]) + raw[place + 1 :])
        part = next((name for name, (start, stop) in unchecked.items() if start <= place < stop), None)
        if part is None:
            with pytest.raises(CodeFileError):
                CodeFile.open(path)
            continue
        with CodeFile.open(path) as damaged, pytest.raises(CodeFileError, match=f"damaged {part}"):
            damaged.verify()


def test_a_damaged_index_is_an_error_and_no_crash(tmp_path, monkeypatch):
    for cost in ("_LOOK_UP_COST", "_STEP_COST", "_BUCKET_COST", "_CANDIDATE_COST"):
        monkeypatch.setattr(probe, cost, 0)
    path = tmp_path / "codes.bin"
    rng = np.random.default_rng(0)
    codes = clustered_codes(40, 16)
    write_indexed(path, codes, 16)
    raw = path.read_bytes()
    start = layout.Trailer.unpack(raw[-88:]).index.offset
    n_refused = 0
    for _ in range(300):
        damaged = bytearray(raw)
        for place in rng.integers(start, len(raw) - 88, 20).tolist():
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        with CodeFile.open(path) as file:
            try:
                (result,) = file.search(codes[:1], top_k=20)
            except CodeFileError as error:
                assert "damaged index" in str(error)  # noqa: PT017 - a wrong answer is possible too
                n_refused += 1
            else:
                assert all(0 <= row < 40 for row in result.indices)
    assert n_refused > 100


@pytest.mark.parametrize(
    "change",
    [
        {"n_tables": 0},
        {"n_tables": 49},
        {"n_tables": 1},
        {"n_tables": 4},
        {"n_distinct": 51},
        {"n_distinct": 49},
        {"offset": 0},
        {"offset": 2**60},
    ],
)
def test_a_trailer_that_contradicts_the_file(tmp_path, change):
    path = tmp_path / "codes.bin"
    write_indexed(path, random_codes(50))
    raw = path.read_bytes()
    trailer = layout.Trailer.unpack(raw[-88:])
    changed = dataclasses.replace(trailer, index=dataclasses.replace(trailer.index, **change))
    path.write_bytes(raw[:-88] + changed.pack())
    with pytest.raises(CodeFileError, match=r"damaged (index|trailer|manifest)"):
        CodeFile.open(path)


def test_shapes_of_no_index():
    for n_distinct, n_tables in ((6, 3), (5, 0), (5, 49), (5, 1)):
        with pytest.raises(ValueError, match="tables"):
            index_shapes(5, 6, 48, n_distinct, n_tables)
