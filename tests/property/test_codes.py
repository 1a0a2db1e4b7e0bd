import itertools
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drhn_cli import native
from drhn_cli.codes import layout
from drhn_cli.codes.entries import CONTENT_DTYPE, STAMP_DTYPE, Entries
from drhn_cli.codes.manifest import CodeManifest, CopyCodes
from drhn_cli.codes.pack import format_hex, pack_bits, parse_hex, unpack_bits
from drhn_cli.codes.reader import CodeFile
from drhn_cli.codes.writer import write_code_file
from drhn_cli.errors import CodeFileError, DrhnError
from drhn_cli.evaluation.metrics import tie_aware_average_precision
from drhn_cli.search import hamming as search_module
from drhn_cli.search import scan
from drhn_cli.search.hamming import hamming_distances, search
from drhn_cli.search.near_duplicates import connected_components
from tests.entries import entries_of

few = settings(max_examples=60, deadline=None)


@st.composite
def bit_arrays(draw, max_rows=40, max_bits=150):
    n_bits = st.integers(1, max_bits) | st.sampled_from([32, 64, 96, 128])  # whole words are compared in other ways
    shape = (draw(st.integers(0, max_rows)), draw(n_bits))
    # Few set bits make ties, many distinct ones make none: both happen.
    density = draw(st.sampled_from([0.0, 0.02, 0.5, 1.0]))
    return np.random.default_rng(draw(st.integers(0, 2**32))).random(shape) < density


@pytest.mark.parametrize("n_bits", range(1, 137))
def test_pack_and_unpack_at_every_width(n_bits):
    bits = np.random.default_rng(n_bits).random((9, n_bits)) < 0.5
    codes = pack_bits(bits)
    assert (unpack_bits(codes, n_bits) == bits).all()
    assert (pack_bits(unpack_bits(codes, n_bits)) == codes).all()
    assert (parse_hex(format_hex(codes[0]), n_bits) == codes[0]).all()


@pytest.mark.parametrize("kernel", [None, 0, 1, 2])  # None: numpy
@few
@given(bits=bit_arrays() | bit_arrays(max_rows=12, max_bits=1100), data=st.data())
def test_search_equals_a_naive_sort(native_library, kernel, bits, data):
    n, n_bits = bits.shape
    codes = pack_bits(bits)
    queries = pack_bits(np.random.default_rng(n).random((data.draw(st.sampled_from([1, 3])), n_bits)) < 0.3)
    top_k = data.draw(st.none() | st.integers(1, n + 2))
    max_distance = data.draw(st.none() | st.integers(0, n_bits + 1))
    rows = data.draw(
        st.none()
        | hnp.arrays(np.bool_, n)
        | (hnp.arrays(np.int64, st.integers(0, 2 * n), elements=st.integers(0, n - 1)) if n else st.none())
    )
    chunk_words = data.draw(st.sampled_from([1, 4, 1 << 14]))
    n_threads = data.draw(st.sampled_from([1, 3]))
    with pytest.MonkeyPatch.context() as patch:
        compare_by(patch, native_library, kernel)
        patch.setattr(search_module, "_CHUNK_WORDS", chunk_words)
        patch.setattr(search_module, "_NATIVE_WORDS", chunk_words)
        patch.setattr(search_module, "count_threads", lambda _: n_threads)
        results = search(codes, queries, n_bits=n_bits, top_k=top_k, max_distance=max_distance, rows=rows)
    candidates = np.arange(n) if rows is None else np.unique(np.arange(n)[rows])
    for query, result in zip(unpack_bits(queries, n_bits), results, strict=True):
        distances = (query != bits).sum(axis=1)
        near = [i for i in candidates if max_distance is None or distances[i] <= max_distance]
        expected = sorted(near, key=lambda i, distances=distances: (distances[i], i))[:top_k]
        assert result.indices.tolist() == expected
        assert result.distances.tolist() == distances[expected].tolist()


def compare_by(patch, library, kernel):
    """Search with one kernel of the library in C, or with numpy."""
    if kernel is None:
        patch.setenv("DRHN_NATIVE", "0")
        return
    if kernel > native.open_library(library).drhn_best_kernel():
        pytest.skip("this processor does not have the instructions")
    patch.delenv("DRHN_NATIVE", raising=False)
    patch.setattr(native, "LIBRARY", library)
    patch.setattr(scan, "NativeScanner", partial(scan.NativeScanner, kernel=kernel))


@few
@given(bit_arrays())
def test_dense_distances_equal_counted_bits(bits):
    codes = pack_bits(bits)
    assert hamming_distances(codes, codes).tolist() == (bits[:, None] != bits[None]).sum(axis=2).tolist()


def is_below_a_root(path):
    return b"\0" not in path and not {b"", b".."} & set(path.split(b"/"))


sides = st.integers(0, 2**32 - 1)
any_names = st.lists(st.binary(min_size=1, max_size=12), unique=True, max_size=12)
names = st.lists(st.binary(min_size=1, max_size=12).filter(is_below_a_root), unique=True, max_size=12)


def write_file(path: Path, paths: list[bytes], n_bits: int) -> None:
    codes = pack_bits(np.random.default_rng(n_bits).random((len(paths), n_bits)) < 0.5)
    entries = entries_of(paths, range(len(paths)), range(len(paths)))
    manifest = CodeManifest(root="/", n_bits=n_bits, model="fast", fingerprint="0" * 64)
    write_code_file(path, codes, entries, manifest)


@few
@given(names, st.integers(1, 130))
def test_a_code_file_gives_back_what_went_in(tmp_path_factory, paths, n_bits):
    path = tmp_path_factory.mktemp("codes") / "codes.bin"
    write_file(path, paths, n_bits)
    codes = pack_bits(np.random.default_rng(n_bits).random((len(paths), n_bits)) < 0.5)
    with CodeFile.open(path) as file:
        file.verify()
        for place, name in enumerate(paths):
            row = file.find(name)
            assert file.entry(row).stamp.size == place
            assert (file.codes[row] == codes[place]).all()
        assert [entry.path for entry in file] == sorted(paths)


@few
@given(any_names | st.lists(st.text("a./", min_size=1, max_size=6).map(os.fsencode), unique=True, min_size=1))
def test_paths_that_lead_elsewhere_are_refused(tmp_path_factory, paths):
    path = tmp_path_factory.mktemp("codes") / "codes.bin"
    if all(map(is_below_a_root, paths)):
        write_file(path, paths, 8)
    else:
        with pytest.raises(DrhnError, match="a code file cannot hold"):
            write_file(path, paths, 8)


@few
@given(st.data(), st.integers(0, 5), st.sampled_from([None, 32, 64]))
def test_a_code_file_gives_back_what_was_read(tmp_path_factory, data, n, copy_code_size):
    path = tmp_path_factory.mktemp("codes") / "codes.bin"
    stamps = data.draw(hnp.arrays(STAMP_DTYPE, n).map(with_sizes))
    rows = st.tuples(st.binary(min_size=16, max_size=16), sides, sides, st.integers(-(2**63), 2**63 - 1))
    contents = np.array(data.draw(st.lists(rows, min_size=n, max_size=n)), CONTENT_DTYPE)
    copy_codes = data.draw(hnp.arrays(np.uint8, (n, copy_code_size or 0)))
    entries = Entries.from_stamps([b"%d" % i for i in range(n)], stamps, contents)
    kind = copy_code_size and CopyCodes(dct=1, head="0" * 64 if copy_code_size == 64 else None)
    manifest = CodeManifest(root="/", n_bits=8, model="fast", fingerprint="0" * 64, copy_codes=kind)
    write_code_file(path, np.zeros((n, 1), np.uint8), entries, manifest, copy_codes)
    with CodeFile.open(path) as file:
        file.verify()
        assert list(file) == list(entries) == [file.entry(row) for row in range(n)]
        assert file.copy_codes.tolist() == copy_codes.tolist()


def with_sizes(stamps):
    stamps["size"] &= 2**63 - 1
    return stamps


@few
@given(names, st.integers(1, 130), st.data())
def test_any_damaged_code_file_is_refused(tmp_path_factory, paths, n_bits, data):
    path = tmp_path_factory.mktemp("codes") / "codes.bin"
    write_file(path, paths, n_bits)
    raw = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    in_codes = 0 <= place - layout.HEADER_SIZE < len(paths) * -(-n_bits // 8)
    if in_codes:
        with CodeFile.open(path) as file, pytest.raises(CodeFileError, match="damaged codes"):
            file.verify()
    else:
        with pytest.raises(CodeFileError):
            CodeFile.open(path)


@few
@given(st.binary(max_size=300), st.sampled_from([b"", b"IBxF"]), st.sampled_from([b"", b"DRHNCODE"]))
def test_noise_is_refused(tmp_path_factory, noise, head, tail):
    path = tmp_path_factory.mktemp("codes") / os.fsdecode(b"noise")
    path.write_bytes(head + noise + tail)
    with pytest.raises(CodeFileError):
        CodeFile.open(path)


@few
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6))
def test_tie_aware_average_precision_is_the_mean_over_all_orders(items):
    scores = []
    for order in itertools.permutations(items):
        ranking = sorted(order, key=lambda item: item[0])  # stable: ties stay in the order of the permutation
        hits = [relevant for _, relevant in ranking]
        precisions = [sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit]
        scores.append(sum(precisions) / len(precisions) if precisions else np.nan)
    counts = [sum(distance == d for distance, _ in items) for d in range(3)]
    relevant = [sum(distance == d and hit for distance, hit in items) for d in range(3)]
    np.testing.assert_allclose(tie_aware_average_precision(relevant, counts), np.mean(scores), atol=1e-12)


@few
@given(bit_arrays(max_rows=25), st.integers(0, 8))
def test_components_are_those_of_all_pairs(bits, max_distance):
    codes = pack_bits(bits)
    near = hamming_distances(codes, codes) <= max_distance
    for _ in range(len(codes)):
        near = near @ near
    expected = {tuple(np.flatnonzero(row).tolist()) for row in near if row.sum() > 1}
    found = [tuple(rows.tolist()) for rows in connected_components(codes, bits.shape[1], max_distance)]
    assert found == sorted(expected)
