"""Train a model from labeled pictures: data, training, measuring, the weights file."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from drhn_cli.errors import CheckpointError, ConfigError, WeightsError
from drhn_cli.evaluation.data import LabelledImages, hold_out, load_split, with_views
from drhn_cli.evaluation.evaluate import Evaluation, Measures, evaluate_model
from drhn_cli.files import atomic_write, lock_file, os_errors, refuse_overwrite, remove_leftovers
from drhn_cli.images.preprocess import Preprocessing
from drhn_cli.network.devices import choose_device, choose_dtype
from drhn_cli.network.model import Model, save_model
from drhn_cli.network.weights_file import WEIGHTS_MARK
from drhn_cli.progress import SILENT, Progress
from drhn_cli.threads import n_processors
from drhn_cli.training.distillation import require_teacher
from drhn_cli.training.distributed import World
from drhn_cli.training.fit import fit_model
from drhn_cli.training.recipe import Recipe
from drhn_cli.training.trainer import EpochReport, Trainer


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What a run of ``train_model`` is about."""

    data: str  # a folder of class folders, a folder with train/ and test/ of them, or ``cifar10``
    weights_path: Path  # the .npz to write; checkpoint and history are beside it
    recipe: Recipe
    resume: bool = False  # continue an unfinished run of the same settings, if there is one
    device: str = "auto"
    data_dir: Path | None = None  # where torchvision keeps CIFAR-10
    download: bool = False  # fetch CIFAR-10 if it is not there
    workers: int | None = None  # threads that decode; None: one for each processor
    command: Sequence[str] = ()  # the command line, for the record

    @property
    def checkpoint_path(self) -> Path:
        """Where the state of an unfinished run is kept."""
        return self.weights_path.with_name(f"{self.weights_path.name}.checkpoint")

    @property
    def history_path(self) -> Path:
        """Where the history is written: a JSON object a line, one for each epoch."""
        return self.weights_path.with_suffix(".history.jsonl")


def train_model(options: TrainOptions, progress: Progress = SILENT) -> tuple[Model, list[Evaluation]]:
    """Train a network, measure it and write its weights file.

    It is measured on the test pictures if there are any, else on the validation pictures. Under ``torchrun`` all
    processes train; the main process alone reports, measures and writes.

    Returns:
        The model as written, and an evaluation for each code length; empty where there is nothing to measure on.

    Raises:
        ConfigError: a setting is out of range.
        SourceError: the pictures cannot be read.
        CheckpointError: there is an unfinished run and ``resume`` was not asked for, or it cannot be resumed.
        WeightsError: the weights cannot be written.
    """
    world = World.from_environment()
    in_closed_form = options.recipe.in_closed_form
    if in_closed_form and world.size > 1:
        raise ConfigError("codes in closed form are fitted by one process", hint="run it without torchrun")
    if not world.is_main:
        return _train(options, SILENT, world)
    _check_paths(options)
    with lock_file(options.weights_path, "weights file", WeightsError):
        if in_closed_form:  # in minutes, so there are no checkpoints
            return _fit(options, progress), []
        _check_checkpoint(options)
        for path in (options.checkpoint_path, options.history_path):
            remove_leftovers(path)  # what a killed run was writing
        return _train(options, progress, world)


def _fit(options: TrainOptions, progress: Progress) -> Model:
    """Fit a model in closed form and write its weights file."""
    recipe, start, device = options.recipe, time.monotonic(), choose_device(options.device)
    model, n_images = fit_model(recipe, options.data, progress, device=options.device, workers=options.workers)
    progress.note(f"fitted to {n_images:,} pictures")
    cost = {"hardware": _hardware(1, device), "hours": _hours(time.monotonic() - start)}
    model = _with_record(replace(model, measured={}), options, recipe, n_images, cost)
    save_model(options.weights_path, model)
    return model


def _train(options: TrainOptions, progress: Progress, world: World) -> tuple[Model, list[Evaluation]]:
    recipe, device = options.recipe, choose_device(options.device, is_exclusive=True)
    for path in {stage.teacher for stage in recipe.stages if stage.teacher}:
        require_teacher(path)  # before pictures are read: a wrong file should not cost minutes
    if device.type == "cpu":
        keep_freed_memory()
    with world.connected(device), denormals_flushed():
        with world.main_first() if options.download else nullcontext():
            train, validation, test = _load(options, progress)
        preprocessing = recipe.preprocessing
        if not recipe.start:
            preprocessing = channel_statistics(train.pixels, preprocessing)
        trainer = Trainer(
            train,
            recipe.for_pictures(len(train.labels), len(train.class_names), preprocessing, choose_dtype(device)),
            device=device,
            world=world,
            validation=validation,
            checkpoint_path=options.checkpoint_path,
            progress=progress,
        )
        _run_epochs(trainer, options.history_path)
        cost = {
            "hardware": _hardware(world.size, device),
            "hours": _hours(trainer.seconds),
            "cpu_hours": _hours(trainer.cpu_seconds),
        }
        model = _with_record(trainer.model(), options, trainer.recipe, len(train.labels), cost)
    if not world.is_main:
        return model, []
    model, evaluations = _measure(model, options, progress, train, validation=validation, test=test)
    save_model(options.weights_path, model)
    options.checkpoint_path.unlink(missing_ok=True)
    return model, evaluations


def _check_paths(options: TrainOptions) -> None:
    path = options.weights_path
    if path.suffix != ".npz":
        hint = f"write to {path.with_suffix('.npz')}" if path.name else "name a file"
        raise WeightsError("weights are an .npz file", path=path, hint=hint)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        hint = "make it first, or choose another one"
        raise WeightsError("the folder cannot be written to", path=path.parent, hint=hint)
    history = options.history_path
    for place, what in ((path, "weights"), (history, "history")):
        if place.is_dir():
            raise WeightsError(f"a folder is in the place of the {what}", path=place, hint="choose another name")
    refuse_overwrite(path, "weights", lambda head: WEIGHTS_MARK in head)
    refuse_overwrite(history, "history", lambda head: b'"training_accuracy"' in head)


def _check_checkpoint(options: TrainOptions) -> None:
    checkpoint = options.checkpoint_path
    if checkpoint.exists() and not checkpoint.is_file():
        raise CheckpointError("no file is in the place of the checkpoint", path=checkpoint, hint="remove it")
    if checkpoint.exists() and not options.resume:
        hint = "go on with it by --resume, or remove the file to start anew"
        raise CheckpointError("a run with this name is unfinished", path=checkpoint, hint=hint)


def _load(
    options: TrainOptions, progress: Progress
) -> tuple[LabelledImages, LabelledImages | None, LabelledImages | None]:
    """Return the images to train on, to validate on and to test with."""
    recipe = options.recipe
    train, test = load_split(
        options.data,
        replace(recipe.preprocessing, views=1),
        workers=options.workers,
        data_dir=options.data_dir,
        download=options.download,
    )
    train, validation = hold_out(train, recipe.validation, recipe.seed)
    for failure in (*train.failures, *(test.failures if test else ())):
        progress.failure(failure)
    n_train, n_validation, n_test = (len(part.labels) if part else 0 for part in (train, validation, test))
    progress.note(
        f"{n_train:,} picture{'s' * (n_train != 1)} to train on, {n_validation:,} to validate on, "
        f"{n_test:,} to test with; {len(train.class_names):,} classes"
    )
    return train, validation, test


def _run_epochs(trainer: Trainer, history_path: Path) -> None:
    """Train the epochs that are left, and keep the history file up to date."""
    trainer.resume()
    is_main = trainer.world.is_main
    if trainer.history and is_main:  # its last line is missing if the run was killed between checkpoint and history
        _write_history(history_path, trainer.history)
        trainer.progress.note(f"going on after {_epoch_name(trainer)}")
    for report in trainer.epochs():
        if is_main:
            _write_history(history_path, trainer.history)
            trainer.progress.note(f"{_epoch_name(trainer)}: {_epoch_line(report)}")


def _epoch_name(trainer: Trainer) -> str:
    last = trainer.history[-1]
    return f"stage {last.stage}, " * (len(trainer.recipe.stages) > 1) + f"epoch {last.epoch}"


def _epoch_line(epoch: EpochReport) -> str:
    line = f"loss {epoch.loss:.4f}, training accuracy {epoch.training_accuracy:.4f}"
    if epoch.validation_accuracy is not None:
        line += f", validation accuracy {epoch.validation_accuracy:.4f}"
        line += f", mAP {epoch.validation_mean_average_precision:.4f}"
    return f"{line}, {epoch.seconds:.0f} s"


def _write_history(path: Path, history: Sequence[EpochReport]) -> None:
    with os_errors(WeightsError, "cannot write the history", path=path), atomic_write(path) as stream:
        for report in history:
            stream.write(f"{json.dumps(report.to_dict())}\n".encode())


def _with_record(
    model: Model, options: TrainOptions, recipe: Recipe, n_images: int, cost: Mapping[str, object]
) -> Model:
    """Return the model with its name, and this run after those of the weights that it started from."""
    run = {
        "recipe": recipe.to_dict(),
        "data": options.data,
        "n_images": n_images,
        "command": list(options.command),
        **cost,
    }
    earlier = recipe.start.training if recipe.start else ()
    return replace(model, name=options.weights_path.stem, training=[*earlier, run])


def _hours(seconds: float) -> float:
    return round(seconds / 3600, 3)


def _hardware(n_processes: int, device: torch.device) -> str:
    return f"{_processor()}, {n_processors()} cores, {n_processes} x {device.type}"


def _processor() -> str:
    """Return the processor's name, or its architecture where the system does not name it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _measure(
    model: Model,
    options: TrainOptions,
    progress: Progress,
    train: LabelledImages,
    *,
    validation: LabelledImages | None,
    test: LabelledImages | None,
) -> tuple[Model, list[Evaluation]]:
    """Return the model with its figures, and the evaluation of each code length; nothing where there are no images."""
    images = test or validation
    if not images:
        return model, []
    preprocessing = model.preprocessing
    queries, gallery = (with_views(part, preprocessing, workers=options.workers) for part in (images, train))
    if preprocessing.views > 1:  # the pictures were read again
        for failure in (*queries.failures, *gallery.failures):
            progress.failure(failure)
    evaluations = evaluate_model(
        model, queries, gallery, Measures(code_lengths=model.config.code_lengths), device=options.device
    )
    figures = {str(one.n_bits): {"accuracy": one.accuracy, **one.retrieval.to_dict()} for one in evaluations}
    measured = {"on": "test" if test else "validation", "views": preprocessing.views, "lengths": figures}
    return replace(model, measured=measured), evaluations


def channel_statistics(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> Preprocessing:
    """Return the preprocessing with mean and standard deviation of (n, s, s, 3) pixels, to four decimals."""
    counts = np.zeros((3, 256), np.int64)
    for start in range(0, len(pixels), 1000):  # counting takes eight times the memory of what is counted
        values = pixels[start : start + 1000].reshape(-1, 3)
        counts += [np.bincount(values[:, channel], minlength=256) for channel in range(3)]
    shares = counts / counts[0].sum()
    levels = np.arange(256) / 255
    means = shares @ levels
    stds = np.sqrt(shares @ levels**2 - means**2)
    red, green, blue = means.round(4).tolist()
    # A constant channel must not be divided by zero.
    red_std, green_std, blue_std = stds.clip(min=0.01).round(4).tolist()
    return replace(preprocessing, mean=(red, green, blue), std=(red_std, green_std, blue_std))


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Flush denormal numbers to zero for a ``with`` block on this thread, and for good on threads torch starts there.

    The momentum of filters whose channel has died decays to denormal numbers, which are a hundred times slower on CPUs:
    after 24 epochs a step took 2.3 times as long as at first.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory for the next tensor, for the rest of the process.

    By default it returns blocks above 32 MiB to the system, which has to clear each page again when the next step
    touches it: about 120,000 page faults and a tenth of the time of a step of 500 pictures. The process then never
    shrinks. Returns False where there is no ``mallopt``. It sets ``M_MMAP_MAX`` and not ``M_MMAP_THRESHOLD``, which
    some versions refuse above 32 MiB; see https://man7.org/linux/man-pages/man3/mallopt.3.html.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; Windows has none of this name
        return False
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    return bool(mallopt(m_mmap_max, 0) and mallopt(m_trim_threshold, 2**31 - 1))
