"""Training, from pixels in memory to a network."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from drhn_cli.codes.metrics import evaluate_retrieval
from drhn_cli.config import NetworkConfig, Preprocessing, TrainConfig
from drhn_cli.errors import CheckpointError, ConfigError, DrhnError
from drhn_cli.images.labelled import LabelledPixels
from drhn_cli.network.augment import augment, normalise
from drhn_cli.network.binarise import codes_of
from drhn_cli.network.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from drhn_cli.network.encode import encode_pixels, predict_classes
from drhn_cli.network.losses import training_loss
from drhn_cli.network.memory import keep_freed_memory
from drhn_cli.network.model import DRHN
from drhn_cli.network.optimise import make_optimisers, rate_at, set_rates
from drhn_cli.network.start import begin_with
from drhn_cli.network.team import ALONE, Team
from drhn_cli.network.weights import Weights, array_shapes, halve_filters
import os
PART = dict(item.split("=") for item in os.environ.get("DRHN_PART", "").split(",") if item)
SWA, SAM = float(PART.get("swa", 0)), float(PART.get("sam", 0))
_SUMS: dict = {}
MSAM = float(PART.get('msam', 0))
_MOMENTA: dict = {}


def _collect(network):
    _SUMS["n"] = _SUMS.get("n", 0) + 1
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            _SUMS[name] = _SUMS.get(name, 0) + value.double()


@torch.no_grad()
def _recalibrate(network, images, config, preprocessing):
    """The mean of the weights, and the statistics that belong to it."""
    if not SWA:
        return
    state = network.state_dict()
    network.load_state_dict({n: (_SUMS[n] / _SUMS["n"]).to(v.dtype) if n in _SUMS else v for n, v in state.items()})
    norms = [m for m in network.modules() if isinstance(m, (torch.nn.BatchNorm2d, torch.nn.BatchNorm1d))]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    generator = epoch_generator(config.seed, 10_000)
    order = torch.randperm(len(images.labels), generator=generator)[:10_000]
    for indices in order.split(500):
        batch = normalise(torch.from_numpy(images.pixels)[indices].permute(0, 3, 1, 2), preprocessing)
        batch = augment(batch, indices, 0, config, generator)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.precision == "bfloat16"):
            network(batch)

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
    start: Weights | None = None,
    features: NDArray[np.float16] | None = None,
    validation: LabelledPixels | None = None,
    checkpoint_path: Path | None = None,
    on_start: Callable[[Sequence[EpochReport]], None] = lambda _: None,
    on_step: Callable[[int, int], None] = lambda *_: None,
    on_epoch: Callable[[Sequence[EpochReport]], None] = lambda _: None,
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
        on_step: called after each step with the steps done in this epoch and the steps of an epoch.
        on_epoch: called after each epoch with the reports of all so far.

    Raises:
        ConfigError: images would be shifted or blanked by their whole size or more, or the first process trains
            something else.
        DrhnError: fewer than two images in all or for a process, or the loss is no longer a number.
        CheckpointError: the checkpoint is damaged, of another run or another process's, or cannot be written.
    """
    if not team.leads:
        on_start, on_step, on_epoch = (lambda _: None), (lambda *_: None), (lambda _: None)
    if len(images.labels) < 2:
        raise DrhnError("too few training images", expected="2 or more", found=str(len(images.labels)))
    check_augmentation(config, network_config.input_size)
    run = {
        "network": network_config.to_dict(),
        "training": config.to_dict(),
        # How they were decoded is in the images: a run of the time before that was a setting can go on.
        "preprocessing": replace(preprocessing, shrink_gap=None).to_dict(),
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
        history = [EpochReport(**report) for report in saved.history]
        earlier_seconds, cpu_seconds = saved.seconds, saved.cpu_seconds
    on_start(tuple(history))

    clock, cpu_clock, earlier_cpu_seconds = time.monotonic(), time.process_time(), cpu_seconds
    for epoch in range(len(history), config.epochs):
        loss, accuracy = _train_epoch(
            network, team, optimisers, images, features, epoch, config, preprocessing, on_step
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
                epoch=epoch + 1,
                network=network.state_dict(),
                optimisers=[optimiser.state_dict() for optimiser in optimisers],
                history=[asdict(report) for report in history],
                seconds=seconds,
                cpu_seconds=cpu_seconds,
            )
            save_checkpoint(checkpoint_path, checkpoint)
        on_epoch(tuple(history))
    _recalibrate(network, images, config, preprocessing)
    kept = array_shapes(network_config)
    state = {name: value.cpu().numpy() for name, value in network.state_dict().items() if name in kept}
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
    images: LabelledPixels,
    features: NDArray[np.float16] | None,
    epoch: int,
    config: TrainConfig,
    preprocessing: Preprocessing,
    on_step: Callable[[int, int], None],
) -> tuple[float, float]:
    """Go once over the training images, this process over its share of each batch.

    Returns:
        The mean loss and the accuracy on the way.
    """
    device = next(network.parameters()).device
    pixels, labels = torch.from_numpy(images.pixels), torch.from_numpy(images.labels)
    batch_size = min(config.batch_size, len(images.labels))
    n_steps = len(images.labels) // batch_size  # what is left over is in another epoch's order
    generator = epoch_generator(config.seed, epoch)
    order = torch.randperm(len(images.labels), generator=generator)
    share = team.share_of(batch_size)
    weight = (share.stop - share.start) * team.size / batch_size  # processes count as many images as they have
    generator = team.own_generator(generator)
    network.train()
    total_loss = torch.zeros((), device=device)
    n_right = torch.zeros((), device=device)
    for step in range(n_steps):
        indices = order[step * batch_size : (step + 1) * batch_size][share]
        batch = normalise(pixels[indices].to(device).permute(0, 3, 1, 2), preprocessing)
        batch = augment(batch, indices, epoch, config, generator)
        truth = labels[indices].to(device)
        seen = None if features is None else torch.from_numpy(features[indices]).to(device)
        set_rates(optimisers, rate_at(epoch * n_steps + step, config.epochs * n_steps, config.warm_up), config)
        _SUMS['share'] = (epoch * n_steps + step) / (config.epochs * n_steps)
        loss, scores = _step(network, team, weight, optimisers, batch, truth, seen, config)
        total_loss += loss
        n_right += (scores.argmax(dim=1) == truth).sum()
        if SWA and epoch * n_steps + step >= SWA * config.epochs * n_steps and (step + 1) % max(n_steps // 4, 1) == 0:
            _collect(network)
        on_step(step + 1, n_steps)
    # Batch normalisation has taken each process's share by itself: its running statistics differ.
    team.average(buffer for buffer in network.buffers() if buffer.is_floating_point())
    mean_loss = team.total(total_loss.item(), device) / (n_steps * team.size)
    if not math.isfinite(mean_loss):
        raise DrhnError(
            f"the loss is no longer a number in epoch {epoch + 1}",
            hint="lower --rate and --conv-rate, or use --precision float32",
        )
    return mean_loss, team.total(n_right.item(), device) / (n_steps * batch_size)


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
    if MSAM:
        with torch.no_grad():
            before = []
            for p in network.parameters():
                m = _MOMENTA.get(id(p))
                if m is not None:
                    e = m * (MSAM * p.norm() / (m.norm() + 1e-12))
                    p.add_(e)
                    before.append((p, e))
    with torch.autocast(batch.device.type, dtype=torch.bfloat16, enabled=config.precision == "bfloat16"):
        activations = network(batch)
    loss, scores = training_loss(network, activations, labels, config, features=features)
    loss = loss * weight
    for optimiser in optimisers:
        optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    if MSAM:
        with torch.no_grad():
            for p, e in before:
                p.sub_(e)
            for p in network.parameters():
                if p.grad is not None and p.ndim > 1:
                    _MOMENTA[id(p)] = _MOMENTA.get(id(p), 0) * 0.9 + p.grad
    if SAM and _SUMS.get('share', 0) < float(PART.get('until', 2)):
        with torch.no_grad():
            moved = []
            for p in network.parameters():
                if p.grad is None or p.ndim < 2:
                    continue
                e = p.grad * (SAM * p.norm() / (p.grad.norm() + 1e-12))
                p.add_(e)
                moved.append((p, e))
        for optimiser in optimisers:
            optimiser.zero_grad()
        norms = [m for m in network.modules() if isinstance(m, (torch.nn.BatchNorm2d, torch.nn.BatchNorm1d))]
        for norm in norms:
            norm.momentum = 0.0
        with torch.autocast(batch.device.type, dtype=torch.bfloat16, enabled=config.precision == "bfloat16"):
            activations = network(batch)
        again, _ = training_loss(network, activations, labels, config, features=features)
        (again * weight).backward()
        for norm in norms:
            norm.momentum = 0.1
        with torch.no_grad():
            for p, e in moved:
                p.sub_(e)
    team.average(p.grad for p in network.parameters() if p.grad is not None)
    for optimiser in optimisers:
        optimiser.step()
    return loss.detach(), scores.detach()


def _measure(
    network: DRHN, images: LabelledPixels, validation: LabelledPixels, preprocessing: Preprocessing, config: TrainConfig
) -> tuple[float, float]:
    """Return accuracy and mean average precision of the validation images, looked up among some training images."""
    network.eval()
    gallery = np.random.default_rng(config.seed).permutation(len(images.labels))[:GALLERY_LIMIT]
    query_activations, gallery_activations = (
        encode_pixels(network, pixels, preprocessing, precision=config.precision)
        for pixels in (validation.pixels, images.pixels[gallery])
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
