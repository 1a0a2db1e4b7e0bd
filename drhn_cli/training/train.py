"""Train weights from labelled pictures."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from drhn_cli.errors import CheckpointError, ConfigError, SourceError, WeightsError
from drhn_cli.evaluation.data import LabelledPixels, check_validation, split_validation
from drhn_cli.evaluation.evaluate import Evaluation, evaluate_weights
from drhn_cli.evaluation.splits import load_split
from drhn_cli.files import atomic_write, lock_file, os_errors, refuse_overwrite, remove_leftovers
from drhn_cli.images.preprocess import Preprocessing
from drhn_cli.network.config import DEFAULT_PRESET, PRESETS, NetworkConfig
from drhn_cli.network.devices import Precision
from drhn_cli.network.model import Model, load_model, save_model
from drhn_cli.network.weights_file import WEIGHTS_MARK
from drhn_cli.progress import SILENT, Progress
from drhn_cli.threads import n_processors
from drhn_cli.training.config import TrainConfig
from drhn_cli.training.distillation import load_features, require_features
from drhn_cli.training.start import network_settings_from, training_settings_from
from drhn_cli.training.trainer import EpochReport, check_augmentation, measure_colours, train_network

if TYPE_CHECKING:
    from drhn_cli.training.distributed import Team

_LEAST_STEPS = 10
"""In an epoch, unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What is trained, on what.

    Attributes:
        data: a folder of class folders, a folder with ``train`` and ``test`` of them, or ``cifar10``.
        weights_path: the file to make, an ``.npz``.
        preset: a name in ``PRESETS``. None: the default one, or the network of the weights to start from.
        start: a bundled model's name or a weights file, whose network, arrays, preprocessing, loss and augmentation
            the training starts from. None: from scratch.
        teacher: an ``.npz`` of what another network sees in the training pictures: see ``load_features``.
        network: settings of ``NetworkConfig`` that differ from those.
        training: settings of ``TrainConfig`` that differ from those, or from the defaults.
        preprocessing: settings of ``Preprocessing`` that differ likewise: ``fit`` and ``views``. Training takes one
            view, whatever the weights take.
        validation: share of each class that is kept out of training and measured after every epoch.
        resume: go on with an unfinished run of the same settings, if there is one.
        device: auto, cuda, mps or cpu.
        precision: None: bfloat16 where the device multiplies it in hardware, else float32.
        data_dir: where torchvision keeps CIFAR-10.
        download: fetch CIFAR-10 if it is not there.
        workers: threads that decode. None: one for each processor.
        command: the command line, for the record.
    """

    data: str
    weights_path: Path
    preset: str | None = None
    start: str | None = None
    teacher: Path | None = None
    network: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    validation: float = 0.0
    resume: bool = False
    device: str = "auto"
    precision: Precision | None = None
    data_dir: Path | None = None
    download: bool = False
    workers: int | None = None
    command: Sequence[str] = ()


def checkpoint_path_of(weights_path: Path) -> Path:
    """Return where the state of an unfinished run is kept."""
    return weights_path.with_name(f"{weights_path.name}.checkpoint")


def history_path_of(weights_path: Path) -> Path:
    """Return where a run's history is written: a JSON object a line, one for each epoch."""
    return weights_path.with_suffix(".history.jsonl")


def train_weights(options: TrainOptions, progress: Progress = SILENT) -> tuple[Model, list[Evaluation]]:
    """Train a network, measure it and write its weights.

    It is measured on the test pictures if there are any, else on the validation part. Under ``torchrun`` all processes
    train, and the first alone tells, measures and writes.

    Args:
        options: what is trained, on what.
        progress: is told of pictures that are left out, of the data, and of steps and epochs ("training").

    Returns:
        The weights as written, and what was measured, one evaluation for each code length; empty where there was
        nothing to measure on.

    Raises:
        ConfigError: a setting is out of its range.
        SourceError: the pictures cannot be read.
        CheckpointError: there is an unfinished run and ``resume`` was not asked for, or it cannot be resumed.
        WeightsError: the weights cannot be written.
    """
    from drhn_cli.training.distributed import find_team

    team = find_team()
    if not team.leads:
        return _train(options, progress, team)
    _check_paths(options)
    with lock_file(options.weights_path, "weights file", WeightsError):
        _check_checkpoint(options)
        for path in (checkpoint_path_of(options.weights_path), history_path_of(options.weights_path)):
            remove_leftovers(path)  # what a killed run was writing
        return _train(options, progress, team)


def _train(options: TrainOptions, progress: Progress, team: Team) -> tuple[Model, list[Evaluation]]:
    from drhn_cli.network.devices import choose_device, choose_precision

    # Settings are checked before pictures are read: a typing error should not cost the minutes of a download.
    device = choose_device(options.device, is_exclusive=True)
    start, network_settings, training_settings, preprocessing = _settings(options)
    config = TrainConfig(**{"precision": options.precision or choose_precision(device), **training_settings})
    if config.similarity and not network_settings.get("nested"):
        raise ConfigError("similarity teaches shorter codes, and there are none", hint="name them: --nested 12,24")
    if bool(config.teaching) != bool(options.teacher):
        raise ConfigError("a teacher and the weight of its term go together", hint="give --teacher and --teaching")
    if options.teacher:
        require_features(options.teacher)
    check_validation(options.validation)
    check_augmentation(config, preprocessing.size)

    def tell_start(earlier: Sequence[EpochReport]) -> None:
        if earlier:  # its last line is missing where the run was killed between the checkpoint and the history
            _write_history(history_path_of(options.weights_path), earlier)
            progress.note(f"going on after epoch {len(earlier)}")

    def tell_epoch(history: Sequence[EpochReport]) -> None:
        _write_history(history_path_of(options.weights_path), history)
        progress.note(_epoch_line(history[-1]))

    with team.assembled(device):
        with team.first_here_first() if options.download else nullcontext():
            train, test = _load(options, replace(preprocessing, views=1))
        network_config = NetworkConfig(n_classes=len(train.class_names), **network_settings)
        images, validation = _split(train, options.validation, config.seed)
        if not start:
            preprocessing = measure_colours(images.pixels, preprocessing)
        if "batch_size" not in options.training:
            config = replace(config, batch_size=_batch_size(len(images.labels), config.batch_size))
        if team.leads:
            for failure in (*train.failures, *(test.failures if test else ())):
                progress.failure(failure)
            n_images, n_validation, n_test = (len(part.labels) if part else 0 for part in (images, validation, test))
            progress.note(
                f"{n_images:,} picture{'s' * (n_images != 1)} to train on, {n_validation:,} to validate on, "
                f"{n_test:,} to test with; {len(train.class_names):,} classes"
            )
        trained = train_network(
            images,
            network_config=network_config,
            config=config,
            preprocessing=replace(preprocessing, views=1),
            device=device,
            team=team,
            start=start,
            features=load_features(options.teacher, images.names) if options.teacher else None,
            validation=validation,
            checkpoint_path=checkpoint_path_of(options.weights_path),
            on_start=tell_start,
            on_epoch=tell_epoch,
            progress=progress,
        )
    weights = Model(
        name=options.weights_path.stem,
        config=network_config,
        preprocessing=preprocessing,
        class_names=train.class_names,
        arrays=trained.arrays,
        training={
            **config.to_dict(),
            **({"from": _origin(start)} if start else {}),
            **({"teacher": str(options.teacher)} if options.teacher else {}),
            "data": options.data,
            "n_images": len(images.labels),
            "validation": options.validation,
            "command": list(options.command),
            "hardware": f"{_processor()}, {n_processors()} cores, {team.size} x {device.type}",
            "hours": round(trained.seconds / 3600, 3),
            "cpu_hours": round(trained.cpu_seconds / 3600, 3),
        },
    )
    if not team.leads:
        return weights, []
    evaluations: list[Evaluation] = []
    if (test or validation) and preprocessing.views > 1:
        train, test = _load(options, preprocessing)
        images, validation = _split(train, options.validation, config.seed)
    measured_on = test or validation
    if measured_on:
        lengths = network_config.code_lengths
        evaluations += evaluate_weights(weights, measured_on, images, code_lengths=lengths, device=options.device)
    measured = _measured(evaluations, on="test" if test else "validation", n_views=preprocessing.views)
    weights = replace(weights, measured=measured)
    save_model(options.weights_path, weights)
    checkpoint_path_of(options.weights_path).unlink(missing_ok=True)
    return weights, evaluations


def _check_paths(options: TrainOptions) -> None:
    path = options.weights_path
    if path.suffix != ".npz":
        hint = f"write to {path.with_suffix('.npz')}" if path.name else "name a file"
        raise WeightsError("weights are an .npz file", path=path, hint=hint)
    history = history_path_of(path)
    for place, what in ((path, "weights"), (history, "history")):
        if place.is_dir():
            raise WeightsError(f"a folder is in the place of the {what}", path=place, hint="choose another name")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise WeightsError(
            "the folder cannot be written to", path=path.parent, hint="make it first, or choose another one"
        )
    refuse_overwrite(path, "weights", lambda head: WEIGHTS_MARK in head)
    refuse_overwrite(history, "history", lambda head: b'"training_accuracy"' in head)


def _check_checkpoint(options: TrainOptions) -> None:
    checkpoint = checkpoint_path_of(options.weights_path)
    if checkpoint.exists() and not checkpoint.is_file():
        raise CheckpointError("no file is in the place of the checkpoint", path=checkpoint, hint="remove it")
    if checkpoint.exists() and not options.resume:
        raise CheckpointError(
            "a run with this name is unfinished",
            path=checkpoint,
            hint="go on with it by --resume, or remove the file to start anew",
        )


def _settings(options: TrainOptions) -> tuple[Model | None, dict[str, Any], dict[str, Any], Preprocessing]:
    """Return what the training starts from, settings of the network and of the training, and the preprocessing."""
    start = None
    if options.start is not None:
        if options.preset is not None:
            raise ConfigError("the network is that of the weights to start from", hint="leave out --preset or --from")
        start = load_model(options.start)
        network_settings = network_settings_from(start, options.network)
        training_settings = {**training_settings_from(start, network_settings["nested"]), **options.training}
        preprocessing = start.preprocessing
    else:
        preset = DEFAULT_PRESET if options.preset is None else options.preset
        if preset not in PRESETS:
            raise ConfigError("unknown preset", expected=" or ".join(PRESETS), found=preset)
        network_settings = {**PRESETS[preset], **options.network}
        training_settings = dict(options.training)
        preprocessing = Preprocessing()
    size = NetworkConfig(n_classes=2, **network_settings).input_size
    return start, network_settings, training_settings, replace(preprocessing, size=size, **options.preprocessing)


def _batch_size(n_images: int, usual: int) -> int:
    """Return how many images of a few to take at a time: an epoch of one step would teach next to nothing."""
    return max(2, min(usual, n_images // _LEAST_STEPS))


def _origin(start: Model) -> dict[str, Any]:
    return {"name": start.name, "fingerprint": start.fingerprint, "training": dict(start.training)}


def _load(options: TrainOptions, preprocessing: Preprocessing) -> tuple[LabelledPixels, LabelledPixels | None]:
    return load_split(
        options.data,
        preprocessing,
        workers=options.workers,
        data_dir=options.data_dir,
        download=options.download,
    )


def _split(train: LabelledPixels, fraction: float, seed: int) -> tuple[LabelledPixels, LabelledPixels | None]:
    if not fraction:
        return train, None
    kept, held_out = split_validation(train.labels, fraction, seed)
    if not len(held_out):
        raise SourceError("nothing can be kept for validation", expected="a class of two pictures or more")
    parts = [
        replace(
            train,
            pixels=np.ascontiguousarray(train.pixels[rows]),
            labels=train.labels[rows],
            names=tuple(train.names[row] for row in rows) if train.names else (),
        )
        for rows in (kept, held_out)
    ]
    return parts[0], parts[1]


def _measured(evaluations: Sequence[Evaluation], *, on: str, n_views: int) -> dict[str, Any]:
    """Return figures for the manifest: code length -> figures, of which part of the data, and with how many views."""
    if not evaluations:
        return {}
    return {
        "on": on,
        "views": n_views,
        "lengths": {str(one.n_bits): {"accuracy": one.accuracy, **asdict(one.retrieval)} for one in evaluations},
    }


def _epoch_line(epoch: EpochReport) -> str:
    line = f"epoch {epoch.epoch}: loss {epoch.loss:.4f}, training accuracy {epoch.training_accuracy:.4f}"
    if epoch.validation_accuracy is not None and epoch.validation_mean_average_precision is not None:
        line += f", validation accuracy {epoch.validation_accuracy:.4f}"
        line += f", mAP {epoch.validation_mean_average_precision:.4f}"
    return f"{line}, {epoch.seconds:.0f} s"


def _write_history(path: Path, history: Sequence[EpochReport]) -> None:
    with os_errors(WeightsError, "cannot write the history", path=path), atomic_write(path) as stream:
        for report in history:
            stream.write(f"{json.dumps(asdict(report))}\n".encode())


def _processor() -> str:
    """Return the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
