import numpy as np
import pytest

from drhn_cli.codes.pack import pack_bits
from drhn_cli.errors import ConfigError, DrhnError
from drhn_cli.search import near_duplicates as module
from drhn_cli.search.near_duplicates import connected_components

CHAIN = np.array([[0b0000], [0b1111], [0b0001], [0b0011], [0b1111]], dtype=np.uint8)


def groups(codes, max_distance, n_bits=8):
    found = connected_components(codes, n_bits, max_distance)
    listed = [rows.tolist() for rows in found]
    assert len(found) == len(listed)
    assert found.rows.dtype == found.starts.dtype == np.int64
    return listed


def test_equal_codes_belong_together():
    assert groups(CHAIN, 0) == [[1, 4]]


def test_a_chain_is_one_group_in_the_order_of_first_rows():
    assert groups(CHAIN, 1) == [[0, 2, 3], [1, 4]]
    assert groups(CHAIN, 2) == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("max_distance", [8, 9, 1000])
def test_a_distance_of_all_bits_joins_everything(max_distance):
    assert groups(CHAIN, max_distance) == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("max_distance", [0, 1, 7, 8])
def test_one_code_and_none_make_no_group(max_distance):
    assert groups(CHAIN[:1], max_distance) == []
    assert groups(CHAIN[:0], max_distance) == []


def test_padding_bits_do_not_count():
    assert groups(np.array([[0x01], [0xF1]], dtype=np.uint8), 0, n_bits=4) == [[0, 1]]


def test_a_million_rows_of_few_codes_compare_the_codes_alone(monkeypatch):
    compared = []
    join = module._join_within_buckets

    def watch(words, *rest):
        compared.append(words.shape[1])
        join(words, *rest)

    monkeypatch.setattr(module, "_join_within_buckets", watch)
    rng = np.random.default_rng(0)
    some = rng.integers(0, 256, (100, 6), dtype=np.uint8)
    rows = np.concatenate([np.arange(100), rng.integers(0, 100, 999_900)])
    found = connected_components(some[rows], 48, 2)
    assert (len(found), len(found.rows), set(compared)) == (100, 1_000_000, {100})
    assert all((rows[group] == rows[group[0]]).all() for group in found)


def test_pairs_are_joined_a_few_at_a_time_to_the_same_groups(monkeypatch):
    codes = pack_bits(np.random.default_rng(0).random((300, 24)) < 0.2)
    expected = groups(codes, 2, n_bits=24)
    monkeypatch.setattr(module, "_MIN_BUFFERED", 1)
    assert groups(codes, 2, n_bits=24) == expected
    assert len(expected) > 1


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(ConfigError, match="0 or more"):
        connected_components(CHAIN, 8, -1)
    with pytest.raises(DrhnError, match="9-bit codes"):
        connected_components(CHAIN, 9, 1)
