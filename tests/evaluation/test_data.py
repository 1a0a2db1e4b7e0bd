from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from drhn_cli.errors import ConfigError, SourceError
from drhn_cli.evaluation.data import find_classes, find_split, load_labelled, split_validation
from drhn_cli.images.preprocess import Preprocessing
from tests.drawing import KINDS, draw_picture, write_class_folders


def test_classes_are_folders_in_sorted_order(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("zebra", "ant", "cat"), n=2)
    (tmp_path / "ant" / "deep" / "er").mkdir(parents=True)
    draw_picture("circle", 9).save(tmp_path / "ant" / "deep" / "er" / "x.png")
    (tmp_path / "README.txt").write_text("not a class")
    (tmp_path / ".cache").mkdir()
    labelled = find_classes(tmp_path)
    assert labelled.class_names == ("ant", "cat", "zebra")
    assert labelled.labels.dtype == np.int64
    assert labelled.labels.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert labelled.paths[2] == os.fsencode(tmp_path / "ant" / "deep" / "er" / "x.png")
    assert all(os.path.isabs(path) for path in labelled.paths)


def test_linked_class_folders_count(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "real", ("a", "b"), n=1)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "x").symlink_to("../real/a")
    (tmp_path / "linked" / "y").symlink_to("../real/b")
    assert find_classes(tmp_path / "linked").class_names == ("x", "y")


def test_a_test_folder_takes_the_training_labels(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("b", "c"), n=1)
    labelled = find_classes(tmp_path, class_names=("a", "b", "c", "d"))
    assert labelled.class_names == ("a", "b", "c", "d")
    assert labelled.labels.tolist() == [1, 2]


def test_an_unknown_class_is_an_error_that_names_both(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("cat", "dog"), n=1)
    with pytest.raises(SourceError, match=r"dog: unknown class \(expected one of ant, cat, found dog\)"):
        find_classes(tmp_path, class_names=("ant", "cat"))
    (tmp_path / "dog").rename(tmp_path / "e\033[2Jvil")
    with pytest.raises(SourceError, match=r"found e\\x1b\[2Jvil\)"):
        find_classes(tmp_path, class_names=("ant", "cat"))


def test_unusable_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no such folder"):
        find_classes(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match=r"not a folder"):
        find_classes(tmp_path / "file")
    with pytest.raises(SourceError, match=r"too few classes .*found 0"):
        find_classes(tmp_path)
    write_class_folders(tmp_path, ("only",), n=1)
    with pytest.raises(SourceError, match=r"too few classes .*found 1"):
        find_classes(tmp_path)
    assert find_classes(tmp_path, min_classes=1).class_names == ("only",)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"empty: no pictures in this class"):
        find_classes(tmp_path)


def test_a_folder_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: bytes) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match=r"cannot be read \(found Permission denied\); check its permissions"):
        find_classes(tmp_path)


def test_a_class_that_can_be_read_in_part_only_is_refused(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("a", "b"), n=1)
    (tmp_path / "b" / "gone.png").symlink_to("/no/such/file")
    with pytest.raises(SourceError, match=r"gone.png: no such file"):
        find_classes(tmp_path)


@pytest.mark.parametrize(
    ("train_folder", "test_folder"),
    [("train", "test"), ("train", "val"), ("train", "valid"), ("train", "validation"), ("Train", "Test")],
)
def test_train_and_test_folders_are_a_split(tmp_path: Path, train_folder: str, test_folder: str) -> None:
    write_class_folders(tmp_path / train_folder, ("a", "b", "c"), n=2)
    write_class_folders(tmp_path / test_folder, ("c",), n=1)
    (tmp_path / "notes").mkdir()
    train, test = find_split(tmp_path)
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert test is not None
    assert test.class_names == train.class_names
    assert test.labels.tolist() == [2]


def test_test_comes_before_val(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        write_class_folders(tmp_path / name, ("a", "b"), n=1)
    _, test = find_split(tmp_path)
    assert test is not None
    assert all(b"/test/" in path for path in test.paths)


def test_train_alone_is_a_split_without_a_test(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train", ("a", "b"), n=1)
    train, test = find_split(tmp_path)
    assert (train.class_names, test) == (("a", "b"), None)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("plane", "train"), n=1)
    train, test = find_split(tmp_path)
    assert (train.class_names, test) == (("plane", "train"), None)


def test_train_beside_folders_that_are_no_test_pictures_is_refused(tmp_path: Path) -> None:
    for name in ("train", "dev", "e\033[2Jvil"):
        write_class_folders(tmp_path / name, ("a", "b"), n=1)
    message = r"no test pictures beside it \(expected test/ or .*, found dev, e\\x1b\[2Jvil\); rename the folder"
    with pytest.raises(SourceError, match=message):
        find_split(tmp_path)
    (tmp_path / "train" / "one.png").touch()  # a class, with pictures of its own and in folders
    assert find_split(tmp_path)[0].class_names == ("dev", "e\033[2Jvil", "train")


def test_pixels_come_in_the_order_of_the_paths(tmp_path: Path) -> None:
    labelled = find_classes(write_class_folders(tmp_path, n=3, size=16))
    loaded = load_labelled(labelled, Preprocessing(size=16), workers=2)
    assert loaded.pixels.shape == (12, 16, 16, 3)
    assert loaded.class_names == tuple(sorted(KINDS))
    np.testing.assert_array_equal(loaded.labels, labelled.labels)
    np.testing.assert_array_equal(loaded.pixels[4], np.asarray(draw_picture("circle", 1, 16)))
    assert loaded.failures == ()


def test_unreadable_pictures_are_left_out_and_told(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("a", "b"), n=3)
    (tmp_path / "a" / "0001.png").write_bytes(b"broken")
    labelled = find_classes(tmp_path)
    loaded = load_labelled(labelled, Preprocessing(), workers=2)
    assert loaded.labels.tolist() == [0, 0, 1, 1, 1]
    assert [error.path for error in loaded.failures] == [labelled.paths[1]]
    np.testing.assert_array_equal(loaded.pixels[1], np.asarray(draw_picture("circle", 2)))


def test_a_class_that_loses_all_its_pictures_is_an_error(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("a", "b"), n=1)
    (tmp_path / "b" / "0000.png").write_bytes(b"broken")
    with pytest.raises(SourceError, match=r"no picture of class 'b' can be read .*0000.png: not a picture"):
        load_labelled(find_classes(tmp_path), Preprocessing(), workers=1)


def test_validation_is_stratified_and_seeded() -> None:
    labels = np.repeat(np.arange(4, dtype=np.int64), [100, 10, 2, 1])
    np.random.default_rng(0).shuffle(labels)
    train, validation = split_validation(labels, 0.1, 7)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(113))
    np.testing.assert_array_equal(np.bincount(labels[validation], minlength=4), [10, 1, 1, 0])
    assert (np.diff(validation) > 0).all()
    assert train.dtype == validation.dtype == np.int64
    again, other = split_validation(labels, 0.1, 7)[1], split_validation(labels, 0.1, 8)[1]
    np.testing.assert_array_equal(again, validation)
    assert not np.array_equal(other, validation)


def test_no_class_gives_all_or_nothing_away() -> None:
    labels = np.zeros(3, np.int64)
    assert len(split_validation(labels, 0.99, 0)[1]) == 2
    assert len(split_validation(labels, 0.01, 0)[1]) == 1
    assert len(split_validation(labels, 0, 0)[1]) == 0


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_fractions_out_of_range_are_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"validation is out of range"):
        split_validation(np.zeros(3, np.int64), fraction, 0)
