"""Pictures with labels: folders of class folders, for training and evaluation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drhn_cli.errors import AnyPath, ConfigError, ImageError, SourceError, printable
from drhn_cli.images.find import find_images
from drhn_cli.images.load import load_batches
from drhn_cli.images.preprocess import Preprocessing

TRAIN_FOLDER = "train"
TEST_FOLDERS = ("test", "val", "valid", "validation")  # in order of preference

_BATCH_SIZE = 512
_LAYOUT = "a folder for each class, with its pictures inside"


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledPaths:
    """Pictures and their classes.

    Attributes:
        paths: absolute, sorted within each class.
        labels: (n,) int64, an index into ``class_names`` for each path.
        class_names: sorted.
        folder: absolute, that of the class folders.
    """

    paths: tuple[bytes, ...]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    folder: bytes

    @property
    def names(self) -> tuple[bytes, ...]:
        """Of each picture, its path relative to the folder of the class folders."""
        prefix = os.path.join(self.folder, b"")
        return tuple(path.removeprefix(prefix) for path in self.paths)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledPixels:
    """Loaded pictures and their classes.

    Attributes:
        pixels: (n, views * size, size, 3) uint8.
        labels: (n,) int64, an index into ``class_names`` for each row.
        class_names: sorted.
        failures: the errors of the pictures that were left out.
        names: of each row, its path relative to the folder of the class folders; empty where pictures are no files.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    failures: tuple[ImageError, ...]
    names: tuple[bytes, ...] = ()


def find_classes(folder: AnyPath, *, class_names: Sequence[str] | None = None, min_classes: int = 2) -> LabelledPaths:
    """Find the pictures of a folder of class folders.

    A class is a folder directly inside, named after it; its pictures may lie at any depth below. Dot folders are
    skipped, symbolic links are followed, files beside the class folders are ignored.

    Args:
        folder: the folder of class folders.
        class_names: the classes of another folder, whose labels these pictures get (a test split gets those of the
            training split). Classes that are missing here simply have no pictures.
        min_classes: fewer class folders than this are an error.

    Raises:
        SourceError: the folder is not there or cannot be read, has too few class folders, one without pictures, or one
            that ``class_names`` lacks.
    """
    path = os.fsencode(folder)
    folders = _class_folders(path)
    if len(folders) < min_classes:
        found = f"{len(folders)} class folders"
        raise SourceError("too few classes", path=path, expected=f"{min_classes} or more: {_LAYOUT}", found=found)
    names = tuple(sorted(folders) if class_names is None else class_names)
    label_of = {name: label for label, name in enumerate(names)}
    paths: list[bytes] = []
    labels: list[int] = []
    for name in sorted(folders):
        if name not in label_of:
            known = ", ".join(printable(known) for known in names)
            hint = "rename or remove the folder, or train with it"
            raise SourceError(
                "unknown class", path=folders[name], expected=f"one of {known}", found=printable(name), hint=hint
            )
        pictures = _class_pictures(folders[name])
        paths += pictures
        labels += [label_of[name]] * len(pictures)
    return LabelledPaths(
        paths=tuple(paths), labels=np.array(labels, np.int64), class_names=names, folder=os.path.abspath(path)
    )


def find_split(folder: AnyPath) -> tuple[LabelledPaths, LabelledPaths | None]:
    """Find training pictures, and test pictures where there are any.

    A folder that holds ``train`` and one of ``TEST_FOLDERS``, in letters of either case, or ``train`` alone, is a
    split, with class folders inside each; any other is itself a folder of class folders.

    Returns:
        The training pictures, and the test pictures labelled with the training classes, or None.

    Raises:
        SourceError: as ``find_classes``, or there are class folders in ``train`` and other folders beside it.
    """
    path = os.fsencode(folder)
    inside = {name.lower(): folder for name, folder in sorted(_class_folders(path).items())}
    test_folder = next((name for name in TEST_FOLDERS if name in inside), None)
    if TRAIN_FOLDER not in inside:
        return find_classes(path), None
    if test_folder is None and len(inside) > 1:
        if _has_only_folders(inside[TRAIN_FOLDER]):  # to learn to tell train from dev is of no use
            others = ", ".join(printable(os.path.basename(inside[name])) for name in inside if name != TRAIN_FOLDER)
            raise SourceError(
                "there are class folders in train/, and no test pictures beside it",
                path=path,
                expected=" or ".join(f"{name}/" for name in TEST_FOLDERS),
                found=others,
                hint="rename the folder of test pictures, or name train/ itself",
            )
        return find_classes(path), None
    train = find_classes(inside[TRAIN_FOLDER])
    if test_folder is None:
        return train, None
    return train, find_classes(inside[test_folder], class_names=train.class_names, min_classes=1)


def load_labelled(labelled: LabelledPaths, preprocessing: Preprocessing, *, workers: int) -> LabelledPixels:
    """Load labelled pictures into memory. Those that cannot be read are left out and told.

    Args:
        labelled: from ``find_classes``.
        preprocessing: ``size``, ``fit``, ``views`` and ``shrink_gap`` are used.
        workers: threads. At least 1.

    Returns:
        Pixels and labels in the order of ``labelled``.

    Raises:
        SourceError: none of a class's pictures can be read.
        ConfigError: ``workers`` is below 1.
    """
    pixels = np.empty((len(labelled.paths), *preprocessing.shape), np.uint8)
    indices = np.empty(len(labelled.paths), np.int64)
    failures: list[tuple[int, ImageError]] = []
    n_loaded = 0
    for batch in load_batches(labelled.paths, preprocessing, batch_size=_BATCH_SIZE, workers=workers):
        end = n_loaded + len(batch.indices)
        pixels[n_loaded:end] = batch.pixels
        indices[n_loaded:end] = batch.indices
        failures += batch.failures
        n_loaded = end
    labels, names = labelled.labels[indices[:n_loaded]], labelled.names
    lost = np.setdiff1d(labelled.labels, labels)
    if lost.size:
        name = labelled.class_names[lost[0]]
        first = next(error for i, error in failures if labelled.labels[i] == lost[0])
        raise SourceError(f"no picture of class {printable(name)!r} can be read", found=first.message)
    return LabelledPixels(
        pixels=pixels[:n_loaded],
        labels=labels,
        class_names=labelled.class_names,
        failures=tuple(error for _, error in failures),
        names=tuple(names[i] for i in indices[:n_loaded]),
    )


def check_validation(fraction: float) -> None:
    """Check the share of the pictures that is to be set aside.

    Raises:
        ConfigError: it is not in 0 up to, not including, 1.
    """
    if not 0 <= fraction < 1:
        raise ConfigError("validation is out of range", expected="0 up to, not including, 1", found=str(fraction))


def split_validation(
    labels: NDArray[np.int64], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Set a part of each class aside for validation.

    Args:
        labels: (n,) the class of each picture.
        fraction: of each class, rounded; 0 up to but not including 1. A class that has two pictures or more gives one
            at least (unless this is 0) and keeps one at least.
        seed: the same seed and labels give the same split.

    Returns:
        Indices for training and for validation, each int64 and rising; together every index once.

    Raises:
        ConfigError: ``fraction`` is out of its range.
    """
    check_validation(fraction)
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        n_chosen = min(max(round(fraction * len(members)), int(fraction > 0)), len(members) - 1)
        chosen[rng.permutation(members)[:n_chosen]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _class_folders(path: bytes) -> dict[str, bytes]:
    """Return the folders inside one, by name."""
    try:
        with os.scandir(path) as entries:
            return {
                os.fsdecode(entry.name): entry.path
                for entry in entries
                if entry.is_dir() and not entry.name.startswith(b".")
            }
    except FileNotFoundError as error:
        raise SourceError("no such folder", path=path, expected=_LAYOUT, hint="check the path") from error
    except NotADirectoryError as error:
        raise SourceError("not a folder", path=path, expected=_LAYOUT) from error
    except OSError as error:
        raise SourceError("cannot be read", path=path, found=error.strerror, hint="check its permissions") from error


def _has_only_folders(path: bytes) -> bool:
    """Tell whether a folder has others inside, and nothing else but dot files."""
    with os.scandir(path) as entries:
        are_folders = [entry.is_dir() for entry in entries if not entry.name.startswith(b".")]
    return bool(are_folders) and all(are_folders)


def _class_pictures(path: bytes) -> list[bytes]:
    found = find_images([path], follow=True)
    if found.failures:  # a part of a class without notice would skew what is learnt and measured
        raise found.failures[0]
    if not found.files:
        hint = "remove the folder or put pictures into it"
        raise SourceError("no pictures in this class", path=path, expected=_LAYOUT, hint=hint)
    return [file.path for file in found.files]
