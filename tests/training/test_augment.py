import numpy as np
import pytest
import torch

from drhn_cli.images.preprocess import Preprocessing
from drhn_cli.network.drhn import normalize
from drhn_cli.training.augment import (
    alternating_flip,
    augment,
    color_jitter,
    cutout,
    random_resized_crop,
    translate,
)
from drhn_cli.training.stage import Stage


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_normalized_pixels_have_mean_and_deviation_taken_out():
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    preprocessing = Preprocessing(mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.4))
    images = normalize(pixels, preprocessing)
    expected = (pixels.numpy() / 255 - np.reshape([0.1, 0.5, 0.9], (3, 1, 1))) / np.reshape([0.2, 0.3, 0.4], (3, 1, 1))
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert np.allclose(images.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("largest", [1, 3, 7])
def test_translation_is_a_window_of_the_mirrored_image(largest):
    images = torch.randn(20, 3, 8, 8)
    shifted = translate(images, largest, seeded())
    rows, columns = torch.randint(0, 2 * largest + 1, (2, 20, 1), generator=seeded()).squeeze(2).tolist()
    for image, result, row, column in zip(images.numpy(), shifted.numpy(), rows, columns, strict=True):
        padded = np.pad(image, ((0, 0), (largest, largest), (largest, largest)), mode="reflect")
        assert np.array_equal(result, padded[:, row : row + 8, column : column + 8])
    assert len(set(rows)) > 1
    assert rows != columns


def test_cutout_blanks_one_square_and_nothing_else():
    images = torch.rand(50, 3, 10, 10) + 1
    blanked = cutout(images, 4, seeded())
    holes = (blanked == 0).numpy()
    assert (holes.sum(axis=(2, 3)) == 16).all()
    for hole in holes:
        assert (hole == hole[0]).all()  # all channels
        rows, columns = np.nonzero(hole[0])
        assert np.ptp(rows) == np.ptp(columns) == 3
    assert torch.equal(torch.where(blanked == 0, images, blanked), images)
    assert len({tuple(np.argwhere(hole[0])[0]) for hole in holes}) > 10


def test_a_cutout_as_large_as_the_image_leaves_nothing():
    assert not cutout(torch.ones(2, 3, 8, 8), 9, seeded()).any()


def test_a_crop_shows_a_rectangle_of_the_picture_at_full_size():
    side = 32
    ramp = torch.linspace(0, 1, side)
    images = torch.stack([ramp.expand(side, side), ramp.expand(side, side).T]).expand(300, 2, side, side)
    cropped = random_resized_crop(images, 0.25, seeded())
    # A ramp stays a ramp: its ends tell which columns, or rows, are shown.
    assert torch.allclose(cropped[:, 0], cropped[:, 0, :1].expand(-1, side, -1), atol=1e-5)
    assert torch.allclose(cropped[:, 1], cropped[:, 1, :, :1].expand(-1, -1, side), atol=1e-5)
    width = (cropped[:, 0, 0, -1] - cropped[:, 0, 0, 0]) / (ramp[-1] - ramp[0])
    height = (cropped[:, 1, -1, 0] - cropped[:, 1, 0, 0]) / (ramp[-1] - ramp[0])
    area = width * height
    assert area.min() > 0.2
    assert area.max() > 0.9
    aspect = width / height
    assert 0.7 < aspect.min() < 0.85
    assert 1.2 < aspect.max() < 1.4
    assert cropped[:, 0, 0, 0].std() > 0.05  # crops begin at different places


@pytest.mark.parametrize("min_area", [0.8, 0.9, 0.97])
def test_no_crop_is_smaller_than_asked_for(min_area):
    side = 64
    ramp = torch.linspace(0, 1, side)
    images = torch.stack([ramp.expand(side, side), ramp.expand(side, side).T]).expand(1000, 2, side, side)
    cropped = random_resized_crop(images, min_area, seeded())
    width, height = cropped[:, 0, 0, -1] - cropped[:, 0, 0, 0], cropped[:, 1, -1, 0] - cropped[:, 1, 0, 0]
    area = width * height
    assert area.min() > min_area - 0.002
    assert abs(area.mean() - (1 + min_area) / 2) < 0.01
    assert (width < height - 0.01).any()
    assert (height < width - 0.01).any()


def test_colours_change_and_shapes_stay():
    images = torch.randn(100, 3, 8, 8)
    changed = color_jitter(images, 0.4, seeded())
    brightness, contrast, saturation = (0.4 * (2 * torch.rand(3, 100, generator=seeded()) - 1)).unsqueeze(2).unbind()
    grey, changed_grey = images.mean(dim=1).flatten(1), changed.mean(dim=1).flatten(1)  # saturation leaves it alone
    assert torch.allclose(changed_grey.mean(dim=1), grey.mean(dim=1) + brightness.squeeze(1), atol=1e-5)
    assert torch.allclose(
        changed_grey - changed_grey.mean(dim=1, keepdim=True),
        (1 + contrast) * (grey - grey.mean(dim=1, keepdim=True)),
        atol=1e-5,
    )
    tint = (images[:, 0] - images[:, 2]).flatten(1)
    assert torch.allclose(
        (changed[:, 0] - changed[:, 2]).flatten(1), (1 + contrast) * (1 + saturation) * tint, atol=1e-5
    )


def test_nothing_asked_for_is_nothing_done():
    images = torch.randn(2, 3, 8, 8)
    assert translate(images, 0, seeded()) is images
    assert cutout(images, 0, seeded()) is images
    assert random_resized_crop(images, 1.0, seeded()) is images
    assert color_jitter(images, 0.0, seeded()) is images
    config = Stage(translate=0, cutout=0, flip=False)
    assert torch.equal(augment(images, torch.arange(2), 0, config, seeded()), images)


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_two_epochs_show_every_image_both_ways(seed):
    images, indices = torch.randn(400, 1, 4, 4), torch.arange(400)
    first, second, third = (alternating_flip(images, indices, epoch, seed) for epoch in range(3))
    mirrored = (first != images).flatten(1).any(dim=1)
    assert torch.equal(first[mirrored], images[mirrored].flip(-1))
    assert torch.equal(second, first.flip(-1))
    assert torch.equal(third, first)
    assert 0.4 < mirrored.float().mean() < 0.6


def test_a_flip_depends_on_the_image_and_not_on_its_place_in_the_batch():
    images, indices = torch.randn(50, 1, 4, 4), torch.arange(50)
    order = torch.randperm(50, generator=seeded())
    whole = alternating_flip(images, indices, 0, 0)
    assert torch.equal(alternating_flip(images[order], indices[order], 0, 0), whole[order])


def test_augmentation_repeats_for_a_seed():
    images, indices, config = (
        torch.randn(8, 3, 16, 16),
        torch.arange(8),
        Stage(random_resized_crop=0.3, color_jitter=0.4),
    )
    once, again, other = (augment(images, indices, 0, config, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert once.is_contiguous(memory_format=torch.channels_last)
