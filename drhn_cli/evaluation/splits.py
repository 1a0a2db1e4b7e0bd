"""Labelled pictures for training and evaluation: the user's folders, or CIFAR-10."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from drhn_cli.errors import ConfigError, SourceError
from drhn_cli.evaluation.data import LabelledPixels, find_classes, find_split, load_labelled
from drhn_cli.images.preprocess import Preprocessing
from drhn_cli.threads import n_processors

CIFAR10 = "cifar10"


def load_split(
    data: str,
    preprocessing: Preprocessing,
    *,
    workers: int | None = None,
    data_dir: Path | None = None,
    download: bool = False,
) -> tuple[LabelledPixels, LabelledPixels | None]:
    """Load training pictures, and test pictures where there are any.

    Args:
        data: a folder of class folders, a folder with ``train`` and ``test`` of them, or ``cifar10``.
        preprocessing: how a picture becomes square.
        workers: threads that decode. None: one for each processor.
        data_dir: where torchvision keeps CIFAR-10. None: ``data`` in the working directory.
        download: fetch CIFAR-10 if it is not there.

    Raises:
        SourceError: a folder cannot be read, holds no classes, or CIFAR-10 is not there.
    """
    if _is_cifar10(data):
        return _load_cifar10(preprocessing, data_dir, download)
    train, test = find_split(data)
    threads = workers or n_processors()
    return load_labelled(train, preprocessing, workers=threads), load_labelled(
        test, preprocessing, workers=threads
    ) if test else None


def load_queries_and_gallery(
    data: str | None,
    queries: str | None,
    gallery: str | None,
    preprocessing: Preprocessing,
    *,
    workers: int | None = None,
    data_dir: Path | None = None,
    download: bool = False,
) -> tuple[LabelledPixels, LabelledPixels]:
    """Load what is looked up, and what it is looked up in.

    Args:
        data: a folder with ``train`` (the gallery) and ``test`` (the queries), or ``cifar10``; None where the two
            that follow are given.
        queries: a folder of class folders, which may lack some of the gallery's classes.
        gallery: a folder of class folders.
        preprocessing: how a picture becomes square.
        workers: threads that decode. None: one for each processor.
        data_dir: where torchvision keeps CIFAR-10. None: ``data`` in the working directory.
        download: fetch CIFAR-10 if it is not there.

    Raises:
        ConfigError: neither or both ways of naming them are used, or there are no test pictures.
        SourceError: as for ``load_split``, or the queries have a class that the gallery lacks.
    """
    if (data is None) != (queries is not None and gallery is not None) or (data and (queries or gallery)):
        raise ConfigError("name either DATA, or both --queries and --gallery")
    if data is None:
        gallery_paths = find_classes(str(gallery))
        query_paths = find_classes(str(queries), class_names=gallery_paths.class_names, min_classes=1)
    elif _is_cifar10(data):
        return _load_cifar10(preprocessing, data_dir, download)[::-1]
    else:
        gallery_paths, test_paths = find_split(data)
        if test_paths is None:
            raise ConfigError("no test pictures", expected="train/ and test/", hint="use --queries and --gallery")
        query_paths = test_paths
    threads = workers or n_processors()
    return load_labelled(query_paths, preprocessing, workers=threads), load_labelled(
        gallery_paths, preprocessing, workers=threads
    )


def _is_cifar10(data: str) -> bool:
    return data == CIFAR10 and not Path(data).exists()


def _load_cifar10(
    preprocessing: Preprocessing, data_dir: Path | None, download: bool
) -> tuple[LabelledPixels, LabelledPixels]:
    # Here and not above: torchvision takes longer to import than most commands to run.
    from torchvision.datasets import CIFAR10 as Cifar10  # noqa: N811 - a class

    if preprocessing.size != 32:
        raise SourceError(
            "CIFAR-10 has pictures of 32x32 pixels",
            expected="a network for that size: the cifar10 weights, or one trained with --input-size 32",
            found=str(preprocessing.size),
        )
    data_dir = data_dir or Path("data")
    parts = []
    for train in (True, False):
        try:
            part = Cifar10(str(data_dir), train=train, download=download)
        except RuntimeError as error:
            raise SourceError(
                "CIFAR-10 is not here",
                path=data_dir,
                found=str(error),
                hint="add --download, or name its folder with --data-dir",
            ) from error
        except OSError as error:
            raise SourceError(
                "CIFAR-10 cannot be fetched",
                path=data_dir,
                found=str(error),
                hint="name the folder that has it with --data-dir",
            ) from error
        names = sorted(part.classes)
        labels = np.array([names.index(part.classes[target]) for target in part.targets], dtype=np.int64)
        views = [part.data, part.data[:, :, ::-1]][: preprocessing.views]  # (n, 32, 32, 3) each, the second mirrored
        pixels = np.concatenate(views, axis=1, out=np.empty((len(labels), *preprocessing.shape), np.uint8))
        parts.append(LabelledPixels(pixels=pixels, labels=labels, class_names=tuple(names), failures=()))
    return parts[0], parts[1]
