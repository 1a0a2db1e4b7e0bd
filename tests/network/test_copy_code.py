import numpy as np
import pytest
from PIL import Image

from drhn_cli.codes.manifest import DCT_BYTES
from drhn_cli.network.copy_code import dct_signs


def draw_scene(seed):
    """Return soft blobs of colors, 320x240."""
    blobs = np.random.default_rng(seed).integers(0, 236, (18, 24, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(blobs).resize((320, 240), Image.Resampling.BICUBIC))


def bits(pixels):
    """Return the signs by frequency: (16, 16), from top to bottom and from left to right."""
    return np.unpackbits(dct_signs(np.asarray(pixels)), bitorder="little").reshape(16, 16)


@pytest.fixture(scope="module")
def scene():
    return draw_scene(7)


def test_signs_are_those_of_the_lowest_frequencies(scene):
    gray = np.asarray(Image.fromarray(scene).convert("L").resize((64, 64), Image.Resampling.BOX), np.float64)
    waves = np.cos(np.pi / 128 * np.outer(np.arange(16), 2 * np.arange(64) + 1))
    expected = waves @ gray @ waves.T
    is_clear = np.abs(expected) > 100  # the gray of Pillow is rounded
    is_clear[0, 0] = False
    assert is_clear.sum() > 100
    assert ((expected > 0) == bits(scene))[is_clear].all()


def test_layout():
    signs = dct_signs(np.zeros((5, 3, 3), np.uint8))
    assert signs.dtype == np.uint8
    assert signs.tolist() == [0] * DCT_BYTES  # the constant frequency has no bit, and there is no other
    shaded = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, np.newaxis, np.newaxis], (64, 64, 3))
    assert not bits(shaded)[:, 1:].any()  # from top to bottom alone
    assert not bits(255 - shaded)[2:, 1:].any()
    assert bits(255 - shaded)[1, 0] == 1


def test_a_mirrored_or_transposed_picture_has_the_signs_of_its_symmetry(scene):
    signs, is_odd = bits(scene), np.arange(16) % 2 == 1
    assert (bits(scene[:, ::-1]) == signs ^ is_odd)[1:, 1:].all()
    assert (bits(scene[::-1]) == signs ^ is_odd[:, np.newaxis])[1:, 1:].all()
    assert (bits(scene.transpose(1, 0, 2)) == signs.T).all()


@pytest.mark.parametrize("change", ["halved", "jpeg", "brighter"])
def test_a_copy_has_nearly_the_same_signs(scene, change, tmp_path):
    copy = Image.fromarray(scene)
    if change == "halved":
        copy = copy.resize((160, 120), Image.Resampling.LANCZOS)
    elif change == "jpeg":
        copy.save(tmp_path / "copy.jpg", quality=30)
        copy = Image.open(tmp_path / "copy.jpg")
    else:
        copy = copy.point(lambda level: min(255, level + 20))
    other = draw_scene(8)
    assert (bits(copy) != bits(scene)).sum() < 30 < 80 < (bits(other) != bits(scene)).sum()


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (63, 65), (31, 1200)])
def test_any_shape(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert dct_signs(pixels).shape == (DCT_BYTES,)
    enlarged = pixels.repeat(2, axis=0).repeat(3, axis=1)
    assert (dct_signs(enlarged) == dct_signs(pixels)).all()  # the same averages
