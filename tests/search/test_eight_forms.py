import numpy as np
import pytest

from drhn_cli.errors import DrhnError
from drhn_cli.search import eight_forms
from drhn_cli.search.eight_forms import form_distances, nearest_pairs

ODD = np.arange(16) % 2 == 1


def random_signs(n, seed=0):
    signs = np.random.default_rng(seed).integers(0, 256, (n, 32), dtype=np.uint8)
    signs[:, 0] &= 0xFE  # the constant frequency has no sign
    return signs


def forms(code):
    """Return the signs of a picture in its eight forms, (8, 32)."""
    bits = np.unpackbits(code, bitorder="little").reshape(16, 16).astype(bool)
    turned = [
        form ^ (flip_x * ODD)[np.newaxis] ^ (flip_y * ODD)[:, np.newaxis]
        for form in (bits, bits.T)
        for flip_x in (False, True)
        for flip_y in (False, True)
    ]
    return np.stack([np.packbits(form.ravel(), bitorder="little") for form in turned])


def distance(a, b):
    return min(int(np.bitwise_count(form ^ b).sum()) for form in forms(a))


def test_distances_are_those_of_the_nearest_form():
    a, b = random_signs(40), random_signs(40, seed=1)
    assert form_distances(a, b).tolist() == [distance(*pair) for pair in zip(a, b, strict=True)]
    for number in range(8):
        assert not form_distances(a, np.stack([forms(code)[number] for code in a])).any()


@pytest.mark.parametrize("tile", [(256, 1 << 14), (7, 16)])
@pytest.mark.parametrize(("top_k", "max_distance"), [(1, 255), (3, 100), (3, 105), (50, 104)])
def test_pairs_are_those_of_every_comparison(monkeypatch, tile, top_k, max_distance):
    monkeypatch.setattr(eight_forms, "_TILE_ROWS", tile[0])
    monkeypatch.setattr(eight_forms, "_TILE_COLUMNS", tile[1])
    signs = random_signs(60)
    signs[30:40] = signs[:10]  # ties
    expected = set()
    for i in range(60):
        near = sorted((distance(signs[i], signs[j]), j) for j in range(60) if j != i)[:top_k]
        expected |= {(min(i, j), max(i, j)) for d, j in near if d <= max_distance}
    pairs = nearest_pairs(signs, top_k=top_k, max_distance=max_distance)
    assert pairs.tolist() == sorted(map(list, expected))


@pytest.mark.parametrize("n", [0, 1])
def test_few_rows_have_no_pairs(n):
    assert nearest_pairs(random_signs(n), top_k=2, max_distance=255).shape == (0, 2)


def test_other_arrays_are_refused():
    with pytest.raises(DrhnError, match="not DCT signs"):
        nearest_pairs(np.zeros((3, 31), np.uint8), top_k=2, max_distance=255)
