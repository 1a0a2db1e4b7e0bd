import pickle
import urllib.error

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from drhn_cli.errors import SourceError
from drhn_cli.evaluation.splits import load_queries_and_gallery, load_split
from drhn_cli.images.preprocess import Preprocessing
from tests.drawing import write_class_folders

SMALL = Preprocessing(size=16)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


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
    queries, gallery = load_queries_and_gallery(None, str(tmp_path / "queries"), str(tmp_path / "gallery"), SMALL)
    assert queries.class_names == gallery.class_names == ("a", "b", "c")
    assert queries.labels.tolist() == [1]
    assert gallery.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_query_class_that_the_gallery_lacks_is_refused(tmp_path):
    write_class_folders(tmp_path / "gallery", ("a", "b"), n=1)
    write_class_folders(tmp_path / "queries", ("z",), n=1)
    with pytest.raises(SourceError, match="unknown class"):
        load_queries_and_gallery(None, str(tmp_path / "queries"), str(tmp_path / "gallery"), SMALL)
