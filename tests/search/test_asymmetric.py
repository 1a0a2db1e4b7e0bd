import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drhn_cli.codes.pack import pack_bits
from drhn_cli.errors import ConfigError, DrhnError
from drhn_cli.network.encoder import bit_probabilities, codes_of
from drhn_cli.search import asymmetric
from drhn_cli.search.asymmetric import search_asymmetric
from tests.networks import tiny_config


@pytest.mark.filterwarnings("error")
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(0, 60),
    n_bits=st.integers(1, 70),
    top_k=st.none() | st.integers(1, 70),
    max_distance=st.none() | st.integers(0, 70),
    chunk=st.sampled_from([1, 7, 1 << 15]),
    some=st.booleans(),
)
def test_it_is_a_stable_sort_by_score(seed, n, n_bits, top_k, max_distance, chunk, some):
    rng = np.random.default_rng(seed)
    bits = rng.random((n, n_bits)) < rng.choice([0.02, 0.5])
    probabilities = rng.integers(0, 5, n_bits) / 4  # exact sums, so that ties are ties
    rows = np.flatnonzero(rng.random(n) < 0.5) if some else np.arange(n)
    scores = np.abs(probabilities - bits).sum(axis=1)
    distances = ((probabilities > 0.5) != bits).sum(axis=1)
    expected = rows[np.argsort(scores[rows], kind="stable")]
    if max_distance is not None:
        expected = expected[distances[expected] <= max_distance]
    expected = expected[:top_k]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asymmetric, "_CHUNK_ROWS", chunk)
        found = search_asymmetric(
            pack_bits(bits), probabilities, top_k=top_k, max_distance=max_distance, rows=rows if some else None
        )
    assert found.indices.tolist() == expected.tolist()
    assert found.distances.tolist() == distances[expected].tolist()
    assert found.scores.tolist() == scores[expected].tolist()


def test_what_cannot_be_asked_is_refused():
    codes = np.zeros((3, 1), np.uint8)
    with pytest.raises(DrhnError, match="not one query"):
        search_asymmetric(codes, np.zeros((1, 8)))
    with pytest.raises(DrhnError, match="do not hold 9-bit codes"):
        search_asymmetric(codes, np.zeros(9))
    with pytest.raises(ConfigError, match="top_k"):
        search_asymmetric(codes, np.zeros(8), top_k=0)


@pytest.mark.parametrize("threshold", [0.1, 0.4, 0.5, 0.7])
def test_probabilities_are_above_a_half_where_bits_are_set(threshold):
    network = tiny_config(threshold=threshold)
    at = np.float32(threshold)
    near = [np.nextafter(at, np.float32(0)), at, np.nextafter(at, np.float32(1)), 0, 1]
    activations = np.concatenate([near, np.random.default_rng(0).random(11)]).astype(np.float32)[np.newaxis]
    probabilities = bit_probabilities(activations, network, 16)
    np.testing.assert_array_equal(pack_bits(probabilities > 0.5), codes_of(activations, network, 16))
    assert (probabilities[0, 3], probabilities[0, 4]) == (0, 1)
