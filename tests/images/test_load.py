from __future__ import annotations

import gc
import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from drhn_cli.errors import ConfigError, ImageError
from drhn_cli.images import load
from drhn_cli.images.load import LoadedPicture, load_batches, load_files, load_image
from drhn_cli.images.preprocess import Fit, Preprocessing
from drhn_cli.images.source import ImageFile, digest_of, locate
from tests.drawing import KINDS, draw_gradient, draw_picture

PREPROCESSING = Preprocessing(size=16)


def load_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("drhn-load")]


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{i:02d}.png" for i in range(50)]
    for i, path in enumerate(paths):
        draw_picture(KINDS[i % 4], i, 20).save(path)
    return paths


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (7, 2), (16, 3), (17, 2), (50, 2), (1000, 2)])
def test_batches_keep_the_order(pictures: list[Path], batch_size: int, workers: int) -> None:
    batches = list(load_batches(iter(pictures), PREPROCESSING, batch_size=batch_size, workers=workers))
    assert [len(batch.indices) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    np.testing.assert_array_equal(np.concatenate([batch.indices for batch in batches]), np.arange(50))
    expected = np.stack([load_image(path, PREPROCESSING) for path in pictures])
    np.testing.assert_array_equal(np.concatenate([batch.pixels for batch in batches]), expected)
    assert {(batch.indices.dtype, batch.pixels.dtype) for batch in batches} == {(np.dtype("i8"), np.dtype("u1"))}
    assert load_threads() == []


def test_failures_keep_their_place_and_stop_nothing(pictures: list[Path]) -> None:
    pictures[3].write_bytes(b"")
    pictures[4].unlink()
    pictures[5].write_bytes(pictures[6].read_bytes()[:100])
    first, second, *_ = load_batches(pictures[:10], PREPROCESSING, batch_size=6, workers=2)
    assert first.indices.tolist() == [0, 1, 2]
    assert [i for i, _ in first.failures] == [3, 4, 5]
    assert [error.problem for _, error in first.failures] == ["empty", "no such file", "damaged or cut short"]
    assert second.indices.tolist() == [6, 7, 8, 9]
    assert second.failures == []


def test_failures_hold_no_frames_alive(pictures: list[Path]) -> None:
    pictures[0].write_bytes(pictures[1].read_bytes()[:100])
    (batch,) = load_batches(pictures[:1], PREPROCESSING, batch_size=1, workers=1)
    ((_, error),) = batch.failures
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)


def test_a_batch_may_be_nothing_but_failures(tmp_path: Path) -> None:
    (batch,) = load_batches([tmp_path / "a", tmp_path / "b"], PREPROCESSING, batch_size=4, workers=1)
    assert batch.pixels.shape == (0, 16, 16, 3)
    assert batch.indices.shape == (0,)
    assert len(batch.failures) == 2


def test_nothing_in_nothing_out() -> None:
    assert list(load_batches([], PREPROCESSING, batch_size=4, workers=1)) == []


@pytest.mark.parametrize(("batch_size", "workers"), [(0, 1), (1, 0), (-1, 1)])
def test_settings_are_checked_at_once(batch_size: int, workers: int) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        load_batches([], PREPROCESSING, batch_size=batch_size, workers=workers)


def test_reading_ahead_is_bounded(pictures: list[Path]) -> None:
    n_taken = 0

    def endless() -> Iterator[Path]:
        nonlocal n_taken
        while True:
            n_taken += 1
            yield pictures[n_taken % 50]

    batches = load_batches(endless(), PREPROCESSING, batch_size=40, workers=2)
    for _ in range(3):
        next(batches)
    assert n_taken <= 40 * 6
    batches.close()  # type: ignore[attr-defined]
    assert load_threads() == []


def test_closing_early_drops_the_pending_work(monkeypatch: pytest.MonkeyPatch) -> None:
    n_loaded = 0

    def slowly(*_: object, **__: object) -> np.ndarray:
        nonlocal n_loaded
        n_loaded += 1
        time.sleep(0.01)
        return np.zeros((16, 16, 3), np.uint8)

    monkeypatch.setattr(load, "load_image", slowly)
    batches = load_batches(["x"] * 10_000, PREPROCESSING, batch_size=500, workers=2)
    next(batches)
    del batches
    gc.collect()
    assert n_loaded < 600
    assert load_threads() == []


def test_an_error_in_the_loop_stops_the_threads(pictures: list[Path]) -> None:
    def interrupted() -> None:
        for _ in load_batches(pictures, PREPROCESSING, batch_size=2, workers=2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    gc.collect()
    assert load_threads() == []


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(load, "load_image", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(load_batches(["x"], PREPROCESSING, batch_size=2, workers=2))


def test_max_pixels_is_passed_on(pictures: list[Path]) -> None:
    (batch,) = load_batches(pictures[:1], PREPROCESSING, batch_size=1, workers=1, max_pixels=399)
    assert batch.failures[0][1].problem == "too many pixels"
    with pytest.raises(ImageError, match="too many pixels"):
        load_image(pictures[0], PREPROCESSING, max_pixels=399)


@pytest.mark.parametrize(
    ("gap", "decoded"), [(0, 512), (2, 64), (3, 64), (4, 64), (5, 128), (8, 128), (9, 256), (33, 512)]
)
def test_the_preprocessing_says_how_small_a_jpeg_is_decoded(tmp_path: Path, gap: int, decoded: int) -> None:
    draw_picture("stripes", 1, 512).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        image.draft("RGB", (decoded, decoded))
        expected = image.resize((16, 16), Image.Resampling.BICUBIC)
    found = load_image(tmp_path / "a.jpg", Preprocessing(size=16, shrink_gap=gap))
    np.testing.assert_array_equal(found, np.asarray(expected))


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_that_is_decoded_smaller_lies_where_the_full_one_does(
    tmp_path: Path, orientation: int, fit: Fit
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    # 333 and 257 leave 5/8 and 1/8 of a pixel at an eighth of the size; 76 and 7 pixels are cut off.
    draw_gradient(256, 256).resize((333, 257)).save(tmp_path / "a.jpg", quality=95, subsampling=0, exif=exif)
    small, full = (
        load_image(tmp_path / "a.jpg", Preprocessing(size=8, fit=fit, shrink_gap=gap)).astype(int) for gap in (4, 0)
    )
    assert np.abs(small - full).max() <= 3
    assert np.abs(small - full).mean() <= 0.6


def test_a_large_jpeg_looks_the_same_as_decoded_in_full(tmp_path: Path) -> None:
    image = draw_gradient(256, 256).resize((1024, 768), Image.Resampling.BICUBIC)
    image.save(tmp_path / "a.jpg", quality=95)
    image.save(tmp_path / "a.png")
    shrunk, full = (load_image(tmp_path / name, PREPROCESSING).astype(int) for name in ("a.jpg", "a.png"))
    assert np.abs(shrunk - full).max() <= 6


def located(paths: list[Path]) -> list[ImageFile]:
    return [locate(path) for path in paths]


def test_files_are_loaded_with_what_a_code_file_notes(pictures: list[Path]) -> None:
    (batch, _) = load_files(located(pictures[:3]), PREPROCESSING, known={}, batch_size=2, workers=2)
    for path, loaded in zip(pictures, batch, strict=False):
        assert isinstance(loaded, LoadedPicture)
        assert loaded.digest == hashlib.sha256(path.read_bytes()).digest()[:16]
        np.testing.assert_array_equal(loaded.pixels, load_image(path, PREPROCESSING))
        assert (loaded.size, loaded.taken_ns, loaded.thumbnail.shape) == ((20, 20), None, (64, 64, 3))


def test_a_file_that_has_the_known_digest_is_not_decoded(pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = located(pictures[:2])
    known = {first.path: digest_of(pictures[0].read_bytes()), second.path: bytes(16)}
    (batch,) = load_files([first, second], PREPROCESSING, known=known, batch_size=2, workers=1)
    assert batch[0] == known[first.path]
    assert isinstance(batch[1], LoadedPicture)
    monkeypatch.setattr(load, "decode_reduced", None)
    (batch,) = load_files([first], PREPROCESSING, known=known, batch_size=2, workers=1)
    assert batch == [known[first.path]]


def test_what_goes_wrong_with_a_file_says_how_far_it_was_read(
    pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, damaged, odd = located(pictures[:3])
    pictures[0].unlink()
    pictures[1].write_bytes(b"no picture")

    def decode(file: ImageFile, **settings: object) -> object:
        if file == odd:
            raise BufferError("an export")
        return decode_reduced(file, **settings)

    decode_reduced = load.decode_reduced
    monkeypatch.setattr(load, "decode_reduced", decode)
    (batch,) = load_files([gone, damaged, odd], PREPROCESSING, known={}, batch_size=3, workers=1)
    digests = [None, digest_of(b"no picture"), digest_of(pictures[2].read_bytes())]
    assert [(one.error.path, one.digest) for one in batch] == list(
        zip((gone.path, damaged.path, odd.path), digests, strict=True)
    )
    assert [one.error.problem for one in batch] == ["no such file", "not a picture", "cannot be hashed"]


@pytest.mark.parametrize(("orientation", "size"), [(1, (600, 401)), (3, (600, 401)), (6, (401, 600)), (8, (401, 600))])
def test_width_and_height_are_those_of_the_whole_picture_upright(
    tmp_path: Path, orientation: int, size: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    draw_gradient(600, 401).save(tmp_path / "a.jpg", exif=exif)
    loaded = []
    for gap in (1, 0):  # decoded at an eighth, and in full
        preprocessing = Preprocessing(size=16, shrink_gap=gap)
        ((picture,),) = load_files(located([tmp_path / "a.jpg"]), preprocessing, known={}, batch_size=1, workers=1)
        assert picture.size == size
        loaded.append(picture.thumbnail.astype(int))
    assert np.abs(loaded[0] - loaded[1]).max() <= 8  # what lies beyond the picture is left out
