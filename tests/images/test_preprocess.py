from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from drhn_cli.images.preprocess import PAD_GREY, Fit, Preprocessing, fit_image
from tests.drawing import draw_gradient, draw_picture

FITS: tuple[Fit, ...] = ("crop", "squash", "pad")


@pytest.mark.parametrize("fit", FITS)
def test_a_picture_of_the_right_size_is_left_as_it_is(fit: Fit) -> None:
    image = draw_picture("checker", 1, 32)
    fitted = fit_image(image, Preprocessing(fit=fit))
    assert fitted.dtype == np.uint8
    np.testing.assert_array_equal(fitted, np.asarray(image))


@pytest.mark.parametrize("size", [(1, 1), (60_000, 1), (1, 60_000), (3, 200), (33, 32), (500, 400)])
@pytest.mark.parametrize("fit", FITS)
def test_any_shape_fits(size: tuple[int, int], fit: Fit) -> None:
    fitted = fit_image(Image.new("RGB", size, (200, 100, 50)), Preprocessing(size=16, fit=fit))
    assert fitted.shape == (16, 16, 3)
    assert (fitted == (200, 100, 50)).all(axis=-1).any()
    if fit != "pad":
        assert (fitted == (200, 100, 50)).all()


@pytest.mark.parametrize("shape", [(32, 48), (48, 32), (32, 33), (33, 32)])
def test_crop_takes_the_square_at_the_centre_whole_pixels_only(shape: tuple[int, int]) -> None:
    height, width = shape
    image = draw_gradient(width, height)
    top, left = (height - 32) // 2, (width - 32) // 2
    expected = np.asarray(image)[top : top + 32, left : left + 32]
    np.testing.assert_array_equal(fit_image(image, Preprocessing(fit="crop")), expected)


def test_squash_keeps_all_four_edges() -> None:
    fitted = fit_image(draw_gradient(256, 64), Preprocessing(fit="squash"))
    assert fitted[0, 0, 0] < 16
    assert fitted[0, -1, 0] > 240
    assert fitted[0, 0, 1] < 16
    assert fitted[-1, 0, 1] > 240


def test_pad_centres_the_picture_on_grey() -> None:
    image = draw_gradient(32, 16)
    fitted = fit_image(image, Preprocessing(fit="pad"))
    np.testing.assert_array_equal(fitted[8:24], np.asarray(image))
    assert (fitted[:8] == PAD_GREY).all()
    assert (fitted[24:] == PAD_GREY).all()


def test_shrinking_averages_rather_than_picks() -> None:
    checker = np.indices((256, 256)).sum(axis=0) % 2 * 255
    image = Image.fromarray(np.repeat(checker[..., None], 3, axis=-1).astype(np.uint8))
    fitted = fit_image(image, Preprocessing())
    assert np.abs(fitted.astype(int) - 127).max() <= 8


@pytest.mark.parametrize(("shape", "starts"), [((32, 48), (0, 16)), ((53, 32), (0, 20)), ((32, 128), (32, 64))])
def test_two_views_are_the_squares_on_both_sides_of_the_centre_the_second_mirrored(
    shape: tuple[int, int], starts: tuple[int, int]
) -> None:
    height, width = shape
    pixels = np.asarray(draw_gradient(width, height))
    first, second = (
        pixels[:, start : start + 32] if width > height else pixels[start : start + 32] for start in starts
    )
    fitted = fit_image(Image.fromarray(pixels), Preprocessing(views=2))
    assert fitted.shape == Preprocessing(views=2).shape
    np.testing.assert_array_equal(fitted[:32], first)
    np.testing.assert_array_equal(fitted[32:], second[:, ::-1])


@pytest.mark.parametrize("fit", FITS)
def test_two_views_of_what_fits_are_the_picture_and_its_mirror_image(fit: Fit) -> None:
    image = draw_picture("checker", 1, 32)
    fitted = fit_image(image, Preprocessing(fit=fit, views=2))
    np.testing.assert_array_equal(fitted, np.concatenate([np.asarray(image), np.asarray(image)[:, ::-1]]))
