"""Training, from pixels in memory to a network."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, update_bn

from drhn_cli.errors import CheckpointError, ConfigError, DrhnError
from drhn_cli.evaluation.data import LabelledPixels
from drhn_cli.evaluation.metrics import evaluate_retrieval
from drhn_cli.images.preprocess import Preprocessing
from drhn_cli.network.config import NetworkConfig
from drhn_cli.network.drhn import DRHN, normalize, predict_classes, torch_backend
from drhn_cli.network.encoder import codes_of, encode_views
from drhn_cli.network.model import Model
from drhn_cli.network.weights_file import halve_filters
from drhn_cli.progress import SILENT, Progress
from drhn_cli.training.augment import augment
from drhn_cli.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from drhn_cli.training.config import TrainConfig
from drhn_cli.training.distributed import ALONE, Team
from drhn_cli.training.losses import training_loss
from drhn_cli.training.memory import keep_freed_memory
from drhn_cli.training.optimizers import is_averaged, make_optimisers, rate_at, set_rates
from drhn_cli.training.sharpness import descend_from_uphill
from drhn_cli.training.start import begin_with

_N_STATISTICS = 10_000
"""Training images, in whole batches, that batch normalisation takes its statistics from where weights are averaged."""

GALLERY_LIMIT = 5000
"""Training images that the validation images are looked up in after an epoch; all of them would double the epoch."""


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """What an epoch came to.

    Attributes:
        epoch: its number, from 1.
        loss: mean training loss.
        training_accuracy: share of the augmented training images that were classified right on the way.
        validation_accuracy: the same for the validation images, not augmented; None without any.
        validation_mean_average_precision: of the validation images among training images, at the full code length; None
            without any.
        seconds: wall-clock time of the run so far.
    """

    epoch: int
    loss: float
    training_accuracy: float
    validation_accuracy: float | None
    validation_mean_average_precision: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TrainedNetwork:
    """The outcome of a run.

    Attributes:
        arrays: the network's state, as ``array_shapes`` names it, ready for the weights file.
        history: a report for each epoch.
        seconds: wall-clock time.
        cpu_seconds: processor time of all processes and threads.
    """

    arrays: dict[str, NDArray[Any]] = field(repr=False)
    history: list[EpochReport]
    seconds: float
    cpu_seconds: float


def measure_colours(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> Preprocessing:
    """Return the preprocessing with the mean and standard deviation of these pixels, (n, s, s, 3), to four decimals."""
    counts = np.zeros((3, 256), np.int64)
    for start in range(0, len(pixels), 1000):  # as counting takes eight times the memory of what is counted
        values = pixels[start : start + 1000].reshape(-1, 3)
        counts += [np.bincount(values[:, channel], minlength=256) for channel in range(3)]
    shares = counts / counts[0].sum()
    levels = np.arange(256) / 255
    means = shares @ levels
    stds = np.sqrt(shares @ levels**2 - means**2)
    red, green, blue = means.round(4).tolist()
    # A channel that never changes has nothing to scale.
    red_std, green_std, blue_std = stds.clip(min=0.01).round(4).tolist()
    return replace(preprocessing, mean=(red, green, blue), std=(red_std, green_std, blue_std))


def check_augmentation(config: TrainConfig, side: int) -> None:
    """Refuse what leaves nothing of images of so many pixels.

    Raises:
        ConfigError: they would be shifted or blanked by their whole size or more.
    """
    if config.translate >= side:  # mirrored pixels cannot fill more than the image has
        raise ConfigError("translate is out of range", expected=f"below {side} pixels", found=str(config.translate))
    if config.cutout >= side:
        raise ConfigError("cutout leaves nothing", expected=f"below {side} pixels", found=str(config.cutout))


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Count denormal numbers as zero: on this thread, and for good on those that torch starts meanwhile.

    The momentum of filters whose channel has died decays to denormal numbers, and processors take a hundred times as
    long for those: after 24 epochs a step took 2.3 times as long as at first.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@denormals_flushed()
def train_network(
    images: LabelledPixels,
    *,
    network_config: NetworkConfig,
    config: TrainConfig,
    preprocessing: Preprocessing,
    device: torch.device,
    team: Team = ALONE,
    start: Model | None = None,
    features: NDArray[np.float16] | None = None,
    validation: LabelledPixels | None = None,
    checkpoint_path: Path | None = None,
    on_start: Callable[[Sequence[EpochReport]], None] = lambda _: None,
    on_epoch: Callable[[Sequence[EpochReport]], None] = lambda _: None,
    progress: Progress = SILENT,
) -> TrainedNetwork:
    """Train a network, from scratch or from other weights, or go on with the run whose checkpoint is there.

    Every epoch draws its order and its augmentation from the seed and its own number, so a run that was stopped and
    resumed ends with the same weights as one that was not.

    Args:
        images: the training images.
        network_config: shape of the network.
        config: how it is trained.
        preprocessing: gives the mean and standard deviation of the channels.
        device: where it is trained.
        team: the processes that train it together, assembled. Each step's images are divided among them; the order of
            the images is that of one process, the augmentation is not. The first process alone measures, reads,
            writes and calls.
        start: weights whose arrays the network begins with as far as they fit: see ``begin_with``. None: drawn.
        features: (n, d) of unit length, what another network sees in the training images: the codes are taught to
            tell it. None: there is no such teacher.
        validation: images that are measured after every epoch and never trained on.
        checkpoint_path: where the run's state is kept; it is read when the run begins and written after every epoch.
        on_start: called once with the reports of the epochs that an earlier run has done.
        on_epoch: called after each epoch with the reports of all so far.
        progress: is told of the steps of each epoch ("training").

    Raises:
        ConfigError: images would be shifted or blanked by their whole size or more, or the first process trains
            something else.
        DrhnError: fewer than two images in all or for a process, or the loss is no longer a number.
        CheckpointError: the checkpoint is damaged, of another run or another process's, or cannot be written.
    """
    if not team.leads:
        on_start, on_epoch, progress = (lambda _: None), (lambda _: None), SILENT
    if len(images.labels) < 2:
        raise DrhnError("too few training images", expected="2 or more", found=str(len(images.labels)))
    check_augmentation(config, network_config.input_size)
    run = {
        "network": network_config.to_dict(),
        "training": config.to_dict(),
        "preprocessing": preprocessing.to_dict(),
        "images": _digest(images),
    }
    if start:
        run["start"] = start.fingerprint
    if features is not None:
        run["teacher"] = sha256(features.data).hexdigest()
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(config.seed)
    network = DRHN(network_config, n_features=0 if features is None else features.shape[1])
    if start:
        begin_with(network, start, images.class_names)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimisers = make_optimisers(network, config)
    average = AveragedModel(network) if config.average else None
    history: list[EpochReport] = []
    earlier_seconds = cpu_seconds = 0.0
    saved = load_checkpoint(checkpoint_path, run) if checkpoint_path and team.leads else None
    first_run, saved = team.from_first((run, saved))
    if first_run != run:
        differing = ", ".join(key for key in run if run[key] != first_run[key])
        hint = "give every process the same pictures and options, --precision among them"
        raise ConfigError(f"process {team.rank} trains something else than the first: {differing}", hint=hint)
    n_there = team.total(bool(checkpoint_path and checkpoint_path.exists()), device)
    if n_there and not saved:
        hint = "give that machine --node-rank 0, or remove the file there to start anew"
        raise CheckpointError(
            "the unfinished run is on a machine that is not the first", path=checkpoint_path, hint=hint
        )
    if saved:
        network.load_state_dict(saved.network)
        for optimiser, state in zip(optimisers, saved.optimisers, strict=True):
            optimiser.load_state_dict(state)
        if average and saved.average:
            average.load_state_dict(saved.average)
        history = [EpochReport(**report) for report in saved.history]
        earlier_seconds, cpu_seconds = saved.seconds, saved.cpu_seconds
    on_start(tuple(history))

    clock, cpu_clock, earlier_cpu_seconds = time.monotonic(), time.process_time(), cpu_seconds
    for epoch in range(len(history), config.epochs):
        loss, accuracy = _train_epoch(
            network, team, optimisers, average, images, features, epoch, config, preprocessing, progress
        )
        measured: tuple[float, float] | tuple[None, None] = (None, None)
        if validation and team.leads:
            measured = _measure(network, images, validation, preprocessing, config)
        cpu_seconds = earlier_cpu_seconds + team.total(time.process_time() - cpu_clock, device)
        seconds = earlier_seconds + time.monotonic() - clock
        history.append(
            EpochReport(
                epoch=epoch + 1,
                loss=loss,
                training_accuracy=accuracy,
                validation_accuracy=measured[0],
                validation_mean_average_precision=measured[1],
                seconds=seconds,
            )
        )
        if checkpoint_path and team.leads:
            checkpoint = Checkpoint(
                run=run,
                network=network.state_dict(),
                optimisers=[optimiser.state_dict() for optimiser in optimisers],
                average=average.state_dict() if average else None,
                history=[asdict(report) for report in history],
                seconds=seconds,
                cpu_seconds=cpu_seconds,
            )
            save_checkpoint(checkpoint_path, checkpoint)
        on_epoch(tuple(history))
    trained = average.module if average else network
    if average:
        _renew_statistics(trained, images, config, preprocessing)
    kept = network_config.array_shapes()
    state = {name: value.cpu().numpy() for name, value in trained.state_dict().items() if name in kept}
    return TrainedNetwork(
        arrays=halve_filters(state),
        history=history,
        seconds=earlier_seconds + time.monotonic() - clock,
        cpu_seconds=cpu_seconds,
    )


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Return what an epoch draws its order and its augmentation from, on the CPU.

    Torch takes 32 bits of a seed there and drops the rest, so seed and epoch are mixed, not put side by side.
    """
    return torch.Generator().manual_seed(int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0]))


def _digest(images: LabelledPixels) -> str:
    digest = sha256()
    for array in (images.pixels, images.labels):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _train_epoch(
    network: DRHN,
    team: Team,
    optimisers: list[Optimizer],
    average: AveragedModel | None,
    images: LabelledPixels,
    features: NDArray[np.float16] | None,
    epoch: int,
    config: TrainConfig,
    preprocessing: Preprocessing,
    progress: Progress,
) -> tuple[float, float]:
    """Go once over the training images, this process over its share of each batch.

    Returns:
        The mean loss and the accuracy on the way.
    """
    device = next(network.parameters()).device
    labels = torch.from_numpy(images.labels)
    batch_size = _batch_size(images, config)
    n_steps = len(images.labels) // batch_size  # what is left over is in another epoch's order
    share = team.share_of(batch_size)
    weight = (share.stop - share.start) * team.size / batch_size  # processes count as many images as they have
    network.train()
    progress.phase("training", n_steps)
    total_loss = torch.zeros((), device=device)
    n_right = torch.zeros((), device=device)
    for step, (indices, batch) in enumerate(_batches(images, team, epoch, config, preprocessing, device)):
        truth = labels[indices].to(device)
        seen = None if features is None else torch.from_numpy(features[indices]).to(device)
        set_rates(optimisers, rate_at(epoch * n_steps + step, config.epochs * n_steps, config), config)
        loss, scores = _step(network, team, weight, optimisers, batch, truth, seen, config)
        if average and is_averaged(epoch * n_steps + step, config.epochs * n_steps, config):
            average.update_parameters(network)
        total_loss += loss
        n_right += (scores.argmax(dim=1) == truth).sum()
        progress.advance()
    # Batch normalisation has taken each process's share by itself: its running statistics differ.
    team.average(buffer for buffer in network.buffers() if buffer.is_floating_point())
    mean_loss = team.total(total_loss.item(), device) / (n_steps * team.size)
    if not math.isfinite(mean_loss):
        raise DrhnError(
            f"the loss is no longer a number in epoch {epoch + 1}",
            hint="lower --rate and --conv-rate, or use --precision float32",
        )
    return mean_loss, team.total(n_right.item(), device) / (n_steps * batch_size)


def _batch_size(images: LabelledPixels, config: TrainConfig) -> int:
    return min(config.batch_size, len(images.labels))


def _batches(
    images: LabelledPixels,
    team: Team,
    epoch: int,
    config: TrainConfig,
    preprocessing: Preprocessing,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the positions of the images of each batch of an epoch, this process's share, and the augmented images."""
    pixels = torch.from_numpy(images.pixels)
    batch_size = _batch_size(images, config)
    generator = epoch_generator(config.seed, epoch)
    order = torch.randperm(len(images.labels), generator=generator)
    share = team.share_of(batch_size)
    generator = team.own_generator(generator)
    for start in range(0, len(order) - batch_size + 1, batch_size):
        indices = order[start : start + batch_size][share]
        batch = normalize(pixels[indices].to(device).permute(0, 3, 1, 2), preprocessing)
        yield indices, augment(batch, indices, epoch, config, generator)


def _renew_statistics(
    network: nn.Module, images: LabelledPixels, config: TrainConfig, preprocessing: Preprocessing
) -> None:
    """Give batch normalisation the statistics of a network that was not trained but averaged: those of an epoch more.

    Every process does the same; the statistics are those of one.
    """
    device = next(network.parameters()).device
    batches = _batches(images, ALONE, config.epochs, config, preprocessing, device)
    n_batches = -(-_N_STATISTICS // _batch_size(images, config))
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bfloat16"):
        update_bn((batch for _, batch in islice(batches, n_batches)), network)


def _step(
    network: DRHN,
    team: Team,
    weight: float,
    optimisers: list[Optimizer],
    batch: Tensor,
    labels: Tensor,
    features: Tensor | None,
    config: TrainConfig,
) -> tuple[Tensor, Tensor]:
    """Take one step; return the loss times the weight, and the (n, n_classes) scores, detached."""

    def descend(part: slice) -> tuple[Tensor, Tensor]:
        with torch.autocast(batch.device.type, dtype=torch.bfloat16, enabled=config.precision == "bfloat16"):
            activations = network(batch[part])
        seen = None if features is None else features[part]
        loss, scores = training_loss(network, activations, labels[part], config, features=seen)
        for optimiser in optimisers:
            optimiser.zero_grad()
        (loss * weight).backward()  # type: ignore[no-untyped-call]
        return loss.detach() * weight, scores.detach()

    if config.sharpness:
        loss, scores = descend_from_uphill(network, config.sharpness, len(batch), descend)
    else:
        loss, scores = descend(slice(None))
    team.average(p.grad for p in network.parameters() if p.grad is not None)
    for optimiser in optimisers:
        optimiser.step()
    return loss, scores


def _measure(
    network: DRHN, images: LabelledPixels, validation: LabelledPixels, preprocessing: Preprocessing, config: TrainConfig
) -> tuple[float, float]:
    """Return accuracy and mean average precision of the validation images, looked up among some training images."""
    network.eval()
    gallery = np.random.default_rng(config.seed).permutation(len(images.labels))[:GALLERY_LIMIT]
    backend = torch_backend(network, preprocessing, config.precision)
    query_activations, gallery_activations = (
        encode_views(backend, pixels) for pixels in (validation.pixels, images.pixels[gallery])
    )
    n_bits = network.config.bits
    metrics = evaluate_retrieval(
        codes_of(query_activations, network.config, n_bits),
        validation.labels,
        codes_of(gallery_activations, network.config, n_bits),
        images.labels[gallery],
        n_bits=n_bits,
    )
    right = predict_classes(network, query_activations, n_bits) == validation.labels
    # Python's own numbers: a checkpoint that is read without pickle has no others.
    return float(right.mean()), float(metrics.mean_average_precision)
