from __future__ import annotations

import os
import pickle
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from drhn_cli.errors import ConfigError, SourceError
from drhn_cli.evaluation.data import (
    find_classes,
    find_split,
    load_labelled,
    load_queries_and_gallery,
    load_split,
    split_validation,
)
from drhn_cli.images.preprocess import Preprocessing
from tests.drawing import KINDS, draw_picture, write_class_folders

SMALL = Preprocessing(size=16)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


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


def test_a_train_folder_that_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train", "dev"):
        write_class_folders(tmp_path / name, ("a", "b"), n=1)
    scandir = os.scandir

    def refuse(path: str | bytes) -> Any:
        if os.path.basename(os.fsencode(path)) == b"train":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match=r"train: cannot be read .*Permission denied"):
        find_split(tmp_path)


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


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """CIFAR-10 as it lies on a disk, four pictures a file; returns the folder, pixels and labels of all six files."""
    folder = tmp_path / "kept" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (24, 32, 32, 3)).astype(np.uint8)
    labels = rng.integers(0, 10, 24)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for i, name in enumerate(names):
        rows = slice(4 * i, 4 * i + 4)
        planes = pixels[rows].transpose(0, 3, 1, 2).reshape(4, 3072)
        (folder / name).write_bytes(pickle.dumps({"data": planes, "labels": labels[rows].tolist()}, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(CLASSES)}))
    monkeypatch.setitem(CIFAR10.meta, "md5", None)
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: folder.exists() and self.root == str(folder.parent))
    return folder.parent, pixels, labels


def test_cifar10_is_read_from_the_files_that_it_comes_in(cifar10, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, pixels, labels = cifar10
    train, test = load_split("cifar10", Preprocessing(size=32), data_dir=folder)
    assert np.array_equal(np.concatenate([train.pixels, test.pixels]), pixels)
    assert np.array_equal(np.concatenate([train.labels, test.labels]), labels)
    assert (len(train.labels), len(test.labels)) == (20, 4)
    assert train.class_names == test.class_names == CLASSES
    assert train.labels.dtype == np.int64
    assert train.pixels.flags.c_contiguous
    assert train.failures == ()
    both, _ = load_split("cifar10", Preprocessing(size=32, views=2), data_dir=folder)
    assert np.array_equal(both.pixels, np.concatenate([train.pixels, train.pixels[:, :, ::-1]], axis=1))


def test_cifar10_lies_in_data_unless_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: seen.append(self.root))
    with pytest.raises(SourceError, match=r"data: CIFAR-10 is not here .*add --download, .*with --data-dir"):
        load_split("cifar10", Preprocessing(size=32))
    assert seen == ["data"]


def test_cifar10_of_another_size_is_refused(cifar10, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = r"32x32 pixels .expected .*the cifar10 weights, or one trained with --input-size 32, found 16"
    with pytest.raises(SourceError, match=message):
        load_split("cifar10", SMALL, data_dir=cifar10[0])


@pytest.mark.parametrize("error", [urllib.error.URLError("no route"), PermissionError(13, "Permission denied")])
def test_cifar10_that_cannot_be_fetched_is_an_error(tmp_path, monkeypatch, error):
    def fail(_):
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(CIFAR10, "download", fail)
    with pytest.raises(SourceError, match=r"away: CIFAR-10 cannot be fetched .*--data-dir"):
        load_split("cifar10", Preprocessing(size=32), data_dir="away", download=True)


def test_a_folder_called_cifar10_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_class_folders("cifar10", ("cat", "dog"), n=1)
    train, test = load_split("cifar10", SMALL)
    assert train.class_names == ("cat", "dog")
    assert test is None


def test_a_folder_with_train_and_test_is_a_split(tmp_path):
    write_class_folders(tmp_path / "train", ("a", "b", "c"), n=3)
    write_class_folders(tmp_path / "test", ("a", "b"), n=2, seed=1)
    train, test = load_split(str(tmp_path), SMALL, workers=2)
    assert train.pixels.shape == (9, 16, 16, 3)
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert test.labels.tolist() == [0, 0, 1, 1]
    assert test.class_names == train.class_names == ("a", "b", "c")


def test_queries_take_the_labels_of_the_gallery(tmp_path):
    write_class_folders(tmp_path / "gallery", ("a", "b", "c"), n=2)
    write_class_folders(tmp_path / "queries", ("b",), n=1, seed=1)
    queries, gallery = load_queries_and_gallery((str(tmp_path / "queries"), str(tmp_path / "gallery")), SMALL)
    assert queries.class_names == gallery.class_names == ("a", "b", "c")
    assert queries.labels.tolist() == [1]
    assert gallery.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_query_class_that_the_gallery_lacks_is_refused(tmp_path):
    write_class_folders(tmp_path / "gallery", ("a", "b"), n=1)
    write_class_folders(tmp_path / "queries", ("z",), n=1)
    with pytest.raises(SourceError, match="unknown class"):
        load_queries_and_gallery((str(tmp_path / "queries"), str(tmp_path / "gallery")), SMALL)
