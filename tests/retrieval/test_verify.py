import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from drhn_cli.retrieval.pairs import judge_sources
from tests.scenes import draw_scene


def stored(image, **options):
    stream = io.BytesIO()
    image.save(stream, **{"format": "PNG", **options})
    stream.seek(0)
    return stream


def judge(a, b, **options):
    return judge_sources(stored(a), stored(b, **options))


SCENE = draw_scene(1)


def crop(image, left=40, top=30, right=280, bottom=220):
    return image.crop((left, top, right, bottom))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("same file", lambda image: image),
        ("resized", lambda image: image.resize((160, 120), Image.Resampling.LANCZOS)),
        ("recolored", ImageOps.grayscale),
        ("recolored", lambda image: ImageEnhance.Brightness(image).enhance(0.7)),
        ("cropped", crop),
        ("framed", lambda image: ImageOps.expand(image, 40, (255, 255, 255))),
        ("turned", lambda image: image.transpose(Image.Transpose.ROTATE_90)),
        ("turned", lambda image: image.rotate(7, Image.Resampling.BICUBIC)),
        ("mirrored", ImageOps.mirror),
        ("mirrored", lambda image: image.transpose(Image.Transpose.TRANSPOSE)),
    ],
)
def test_what_was_done_is_named(kind, change):
    verdict = judge(SCENE, change(SCENE).convert("RGB"))
    assert (verdict.kind, verdict.is_copy, verdict.is_intact) == (kind, True, kind != "recolored")
    back = judge(change(SCENE).convert("RGB"), SCENE)
    assert (back.kind, back.lost) == (kind, verdict.lost[::-1])
    assert back.reversed().inner == verdict.inner


def test_saved_again_as_jpeg_is_recompressed_and_a_png_of_it_has_the_same_pixels():
    again = stored(SCENE, format="JPEG", quality=40)
    assert judge(SCENE, SCENE, format="JPEG", quality=40).kind == "recompressed"
    assert judge_sources(again, stored(Image.open(io.BytesIO(again.getvalue())))).kind == "same pixels"


def test_a_crop_is_found_in_its_original_and_where():
    verdict = judge(SCENE, crop(SCENE))
    assert (verdict.inner, verdict.lost) == (1, (True, False))
    assert verdict.box == pytest.approx((40 / 320, 30 / 240, 280 / 320, 220 / 240), abs=0.01)
    assert verdict.detail == pytest.approx(1, abs=0.02)
    halved = judge(SCENE, crop(SCENE).resize((120, 95)))
    assert (halved.inner, halved.detail) == (1, pytest.approx(0.5, abs=0.02))


def test_what_is_in_a_frame_loses_nothing():
    verdict = judge(SCENE, ImageOps.expand(SCENE, 40, (255, 255, 255)))
    assert (verdict.inner, verdict.lost) == (0, (False, False))


def test_something_painted_over_is_no_matter_of_quality():
    changed = SCENE.copy()
    ImageDraw.Draw(changed).rectangle((100, 80, 150, 130), fill=(255, 255, 255), outline=(0, 0, 0), width=8)
    verdict = judge(SCENE, changed)
    assert (verdict.kind, verdict.is_copy, verdict.is_intact) == ("edited", True, False)


def test_a_part_in_another_color_is_recolored():
    changed = np.array(SCENE)
    changed[60:120, 100:180] = changed[60:120, 100:180, ::-1]
    assert judge(SCENE, Image.fromarray(changed)).kind in ("recolored", "edited")


def test_a_crop_in_other_colors_is_not_intact():
    verdict = judge(SCENE, ImageOps.grayscale(crop(SCENE)).convert("RGB"))
    assert (verdict.kind, verdict.is_intact) == ("cropped", False)


def test_two_crops_that_share_a_part_are_no_copies_of_one_another():
    left, right = crop(SCENE, 0, 0, 200, 240), crop(SCENE, 120, 0, 320, 240)
    verdict = judge(left, right)
    assert (verdict.kind, verdict.is_copy, verdict.lost) == ("same scene", False, (True, True))


def test_other_pictures_are_different_whatever_their_colors():
    assert judge(SCENE, draw_scene(2)).kind == "different"
    assert judge(SCENE, ImageOps.invert(draw_scene(3))).kind == "different"


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 3), (20, 20)])
def test_tiny_and_flat_pictures_are_no_error(size):
    flat = Image.new("RGB", size, (200, 10, 10))
    assert judge(flat, flat.copy()).kind == "same file"
    assert judge(SCENE, flat).kind == "different"
    assert judge(flat, Image.new("RGB", size, (0, 0, 90))).kind == "different"


def test_a_verdict_is_the_same_each_time():
    pair = SCENE, crop(SCENE).rotate(3)
    assert len({judge(*pair) for _ in range(3)}) == 1
