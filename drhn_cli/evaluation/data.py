"""Labeled images for training and evaluation: folders of class folders, or CIFAR-10."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drhn_cli.errors import AnyPath, ConfigError, ImageError, SourceError, about, printable
from drhn_cli.files import os_errors
from drhn_cli.images.find import find_images
from drhn_cli.images.load import load_batches
from drhn_cli.images.preprocess import Preprocessing
from drhn_cli.settings import require
from drhn_cli.threads import n_processors

CIFAR10 = "cifar10"
TEST_FOLDERS = ("test", "val", "valid", "validation")  # in order of preference

_BATCH_SIZE = 512
_LAYOUT = "a folder for each class, with its pictures inside"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFolder:
    """The pictures of a folder of class folders, not loaded."""

    labels: NDArray[np.int64]  # (n,), indices into class_names
    class_names: tuple[str, ...]  # sorted
    paths: tuple[bytes, ...] = ()  # absolute, sorted within each class; empty if images are not files
    folder: bytes = b""  # absolute

    @property
    def names(self) -> tuple[bytes, ...]:
        """The path of each picture relative to ``folder``."""
        prefix = os.path.join(self.folder, b"")
        return tuple(path.removeprefix(prefix) for path in self.paths)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledImages(ImageFolder):
    """The pictures of a folder of class folders, or others, in memory."""

    pixels: NDArray[np.uint8]  # (n, views * size, size, 3)
    failures: tuple[ImageError, ...]  # of pictures that could not be read and are left out

    def take(self, rows: NDArray[np.int64]) -> LabelledImages:
        """Return some of the images; ``rows`` are their (m,) indices."""
        paths = tuple(self.paths[row] for row in rows) if self.paths else ()
        return replace(self, pixels=np.ascontiguousarray(self.pixels[rows]), labels=self.labels[rows], paths=paths)


def find_classes(folder: AnyPath, *, class_names: Sequence[str] | None = None, min_classes: int = 2) -> ImageFolder:
    """Find the pictures of a folder of class folders.

    A class is a folder directly inside, named after it; its pictures may lie at any depth below. Dot folders and files
    beside the class folders are ignored, symbolic links are followed.

    Args:
        folder: the folder of class folders.
        class_names: the classes of another folder, whose labels these pictures get: a test split gets those of the
            training split. A class may have no pictures here.
        min_classes: fewer class folders than this are an error.

    Raises:
        SourceError: the folder is not there or cannot be read, has too few class folders, or has a class without
            pictures or one that ``class_names`` lacks.
    """
    path = os.fsencode(folder)
    with about(path):
        folders = class_folders(path)
        if len(folders) < min_classes:
            expected, found = f"{min_classes} or more: {_LAYOUT}", f"{len(folders)} class folders"
            raise SourceError("too few classes", expected=expected, found=found)
    names = tuple(sorted(folders) if class_names is None else class_names)
    label_of = {name: label for label, name in enumerate(names)}
    paths: list[bytes] = []
    labels: list[int] = []
    for name in sorted(folders):
        with about(folders[name]):
            if name not in label_of:
                expected, hint = ", ".join(map(printable, names)), "rename or remove the folder, or train with it"
                raise SourceError("unknown class", expected=f"one of {expected}", found=printable(name), hint=hint)
            pictures = _class_pictures(folders[name])
        paths += pictures
        labels += [label_of[name]] * len(pictures)
    folder = os.path.abspath(path)
    return ImageFolder(paths=tuple(paths), labels=np.array(labels, np.int64), class_names=names, folder=folder)


def find_split(folder: AnyPath) -> tuple[ImageFolder, ImageFolder | None]:
    """Find training pictures, and test pictures if there are any.

    A folder that contains ``train`` and one of ``TEST_FOLDERS``, in upper or lower case, or ``train`` alone, is a split
    with class folders inside each; any other folder is a folder of class folders. Test pictures get the labels of the
    training classes.

    Raises:
        SourceError: as ``find_classes``, or there are class folders in ``train`` and other folders beside it.
    """
    path = os.fsencode(folder)
    with about(path):
        inside = {name.lower(): folder for name, folder in sorted(class_folders(path).items())}
        train_folder = inside.pop("train", None)
        test_folder = next((inside[name] for name in TEST_FOLDERS if name in inside), None)
        # The folders inside train/ are classes then; "train" and, say, "dev" are none.
        if train_folder and inside and not test_folder and _has_only_folders(train_folder):
            raise SourceError(
                "there are class folders in train/, and no test pictures beside it",
                expected=" or ".join(f"{name}/" for name in TEST_FOLDERS),
                found=", ".join(printable(os.path.basename(folder)) for folder in inside.values()),
                hint="rename the folder of test pictures, or name train/ itself",
            )
    if train_folder is None or (inside and not test_folder):
        return find_classes(path), None
    train = find_classes(train_folder)
    return train, find_classes(test_folder, class_names=train.class_names, min_classes=1) if test_folder else None


def load_labelled(folder: ImageFolder, preprocessing: Preprocessing, *, workers: int | None = None) -> LabelledImages:
    """Load the pictures of a folder into memory, in its order, without those that cannot be read.

    ``workers`` are threads; None: one for each processor.

    Raises:
        SourceError: no picture of a class can be read.
    """
    workers = workers or n_processors()
    pixels = np.empty((len(folder.paths), *preprocessing.shape), np.uint8)
    rows: list[int] = []  # of the pictures that were loaded
    failures: list[tuple[int, ImageError]] = []
    for batch in load_batches(folder.paths, preprocessing, batch_size=_BATCH_SIZE, workers=workers):
        pixels[len(rows) : len(rows) + len(batch.indices)] = batch.pixels
        rows += batch.indices.tolist()
        failures += batch.failures
    labels = folder.labels[rows]
    lost = np.setdiff1d(folder.labels, labels)
    if lost.size:
        name = folder.class_names[lost[0]]
        first = next(error for i, error in failures if folder.labels[i] == lost[0])
        raise SourceError(f"no picture of class {printable(name)!r} can be read", found=first.message)
    return LabelledImages(
        pixels=pixels[: len(rows)],
        labels=labels,
        class_names=folder.class_names,
        failures=tuple(error for _, error in failures),
        paths=tuple(folder.paths[row] for row in rows),
        folder=folder.folder,
    )


def with_views(images: LabelledImages, preprocessing: Preprocessing, *, workers: int | None = None) -> LabelledImages:
    """Return images that were loaded with one view with all views of the preprocessing.

    Files are decoded again, as the squares of two views are not that of one. Pictures that can no longer be read are
    left out.

    Raises:
        SourceError: no picture of a class can be read any more.
    """
    if preprocessing.views == 1:
        return images
    if not images.paths:  # CIFAR-10, whose images are square
        return replace(images, pixels=np.concatenate([images.pixels, images.pixels[:, :, ::-1]], axis=1))
    return load_labelled(images, preprocessing, workers=workers)


def load_split(
    data: str | tuple[str, str],
    preprocessing: Preprocessing,
    *,
    workers: int | None = None,
    data_dir: Path | None = None,
    download: bool = False,
    needs_test: bool = False,
) -> tuple[LabelledImages, LabelledImages | None]:
    """Load training pictures, and test pictures if there are any.

    Args:
        data: a folder of class folders, a folder with ``train`` and ``test`` of them, or ``cifar10``; or two folders of
            class folders, for training and for testing.
        preprocessing: how a picture becomes square.
        workers: threads that decode; None: one for each processor.
        data_dir: where torchvision keeps CIFAR-10; None: ``data`` in the working directory.
        download: fetch CIFAR-10 if it is not there.
        needs_test: refuse data without test pictures before any picture is loaded.

    Raises:
        ConfigError: there are no test pictures, but they are needed.
        SourceError: a folder cannot be read or has no classes, or CIFAR-10 is not there.
    """
    if data == CIFAR10 and not Path(CIFAR10).exists():
        return _load_cifar10(preprocessing, data_dir, download)
    if isinstance(data, str):
        train, test = find_split(data)
    else:
        train = find_classes(data[0])
        test = find_classes(data[1], class_names=train.class_names, min_classes=1)
    if needs_test and test is None:
        raise ConfigError("no test pictures", expected="train/ and test/", hint="use --queries and --gallery")
    load = partial(load_labelled, preprocessing=preprocessing, workers=workers)
    return load(train), load(test) if test else None


def load_queries_and_gallery(
    data: str | tuple[str, str], preprocessing: Preprocessing, **options: Any
) -> tuple[LabelledImages, LabelledImages]:
    """Load the queries, and the gallery that they are looked up in.

    ``data`` is a folder with ``train`` (the gallery) and ``test`` (the queries), or ``cifar10``; or two folders of
    class folders, the queries' and the gallery's. Queries may lack some of the gallery's classes. The options and the
    errors are those of ``load_split``.
    """
    split = data if isinstance(data, str) else data[::-1]
    gallery, queries = load_split(split, preprocessing, needs_test=True, **options)
    assert queries is not None  # noqa: S101 - they are needed
    return queries, gallery


def _load_cifar10(
    preprocessing: Preprocessing, data_dir: Path | None, download: bool
) -> tuple[LabelledImages, LabelledImages]:
    # Imported here: importing torchvision takes longer than most commands.
    from torchvision.datasets import CIFAR10 as Cifar10  # noqa: N811 - a class

    if preprocessing.size != 32:
        expected = "a network for that size: the cifar10 weights, or one trained with --input-size 32"
        raise SourceError("CIFAR-10 has pictures of 32x32 pixels", expected=expected, found=str(preprocessing.size))
    data_dir = data_dir or Path("data")

    def load(*, train: bool) -> LabelledImages:
        try:
            part = Cifar10(str(data_dir), train=train, download=download)
        except RuntimeError as error:
            hint = "add --download, or name its folder with --data-dir"
            raise SourceError("CIFAR-10 is not here", path=data_dir, found=str(error), hint=hint) from error
        except OSError as error:
            hint = "name the folder that has it with --data-dir"
            raise SourceError("CIFAR-10 cannot be fetched", path=data_dir, found=str(error), hint=hint) from error
        labels, pixels = np.array(part.targets, np.int64), np.ascontiguousarray(part.data)
        images = LabelledImages(pixels=pixels, labels=labels, class_names=tuple(part.classes), failures=())
        return with_views(images, preprocessing)

    return load(train=True), load(train=False)


def check_validation(fraction: float) -> None:
    """Refuse a share of validation pictures that is not in 0 up to, not including, 1."""
    require(0 <= fraction < 1, "validation", "0 up to, not including, 1", fraction)


def hold_out(images: LabelledImages, fraction: float, seed: int) -> tuple[LabelledImages, LabelledImages | None]:
    """Split images into a training and a validation part, see ``split_validation``; None if ``fraction`` is 0.

    Raises:
        SourceError: no class has two pictures.
    """
    if not fraction:
        return images, None
    kept, held_out = split_validation(images.labels, fraction, seed)
    if not len(held_out):
        raise SourceError("nothing can be kept for validation", expected="a class of two pictures or more")
    return images.take(kept), images.take(held_out)


def split_validation(
    labels: NDArray[np.int64], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw a part of each class for validation.

    Args:
        labels: (n,) the class of each picture.
        fraction: share of each class, rounded; 0 up to but not including 1. Of a class of two pictures or more at
            least one is drawn, unless this is 0, and at least one is not.
        seed: the same seed and labels give the same split.

    Returns:
        Indices for training and for validation, int64, in rising order; each index is in one of them.

    Raises:
        ConfigError: ``fraction`` is out of range.
    """
    check_validation(fraction)
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        n_chosen = min(max(round(fraction * len(members)), int(fraction > 0)), len(members) - 1)
        chosen[rng.permutation(members)[:n_chosen]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def class_folders(path: bytes) -> dict[str, bytes]:
    """Return the folders inside a folder, by name."""
    if os.path.isfile(path):
        raise SourceError("not a folder", expected=_LAYOUT)
    absent = SourceError("no such folder", expected=_LAYOUT, hint="check the path")
    with os_errors(SourceError, "cannot be read", path=None, hint="check its permissions", absent=absent):
        folders = [entry for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith(b".")]
    return {os.fsdecode(folder.name): folder.path for folder in folders}


def _has_only_folders(path: bytes) -> bool:
    """Return whether a folder contains other folders, and nothing else but dot files."""
    with about(path):
        folders = class_folders(path)  # which refuses a folder that cannot be listed
    n_shown = sum(not name.startswith(b".") for name in os.listdir(path))
    return n_shown > 0 and n_shown == len(folders)


def _class_pictures(path: bytes) -> list[bytes]:
    found = find_images([path], follow=True)
    if found.failures:  # a class of which pictures are missing would bias training and measuring
        raise found.failures[0]
    if not found.files:
        hint = "remove the folder or put pictures into it"
        raise SourceError("no pictures in this class", expected=_LAYOUT, hint=hint)
    return [file.path for file in found.files]
