"""A network in training: its data, optimizers, history and checkpoints; an epoch and a step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

from drhn_cli.errors import CheckpointError, ConfigError, DrhnError
from drhn_cli.evaluation.data import LabelledImages
from drhn_cli.evaluation.evaluate import Measures, evaluate_network
from drhn_cli.network.drhn import DRHN, normalize, torch_backend
from drhn_cli.network.model import Model
from drhn_cli.network.weights_file import halve_filters
from drhn_cli.progress import SILENT, Progress
from drhn_cli.training.augment import augment
from drhn_cli.training.checkpoint import load_checkpoint, save_checkpoint
from drhn_cli.training.distillation import DistillationHead, is_model, load_features, model_features
from drhn_cli.training.distributed import World
from drhn_cli.training.losses import total_loss
from drhn_cli.training.optimizers import in_swa, lr_schedule, make_optimizers, sam_gradients, set_learning_rates
from drhn_cli.training.recipe import Recipe

GALLERY_LIMIT = 5000
"""Training images that validation images are looked up in after an epoch: all of them would double its time."""

_BATCH_NORM_IMAGES = 10_000
"""Training images, in whole batches, that batch-norm statistics of averaged weights are estimated from."""


@dataclass(frozen=True)
class EpochReport:
    """The figures of an epoch; those of validation are None without validation images."""

    stage: int  # from 1
    epoch: int  # of the stage, from 1
    loss: float
    training_accuracy: float  # on the augmented images, before each step
    validation_accuracy: float | None
    validation_mean_average_precision: float | None  # at the full code length, among training images
    seconds: float  # wall-clock time of the run so far

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by their names in the history file."""
        names = {"validation_mean_average_precision": "mAP"}
        return {names.get(name, name): value for name, value in asdict(self).items()}


class Trainer:
    """Trains a network on images in memory, of one view, stage by stage.

    An epoch's random numbers depend on the stage's seed and its own number alone, so a run that was interrupted and
    resumed ends with the same weights as one that was not.

    The processes of a connected ``world`` divide the images of each step; how many there are changes the
    augmentation, but not the order of the images.
    """

    def __init__(
        self,
        images: LabelledImages,
        recipe: Recipe,  # see ``Recipe.for_pictures``
        *,
        device: torch.device,
        world: World | None = None,  # the processes that train together; None: this one alone
        validation: LabelledImages | None = None,  # images to measure after every epoch
        checkpoint_path: Path | None = None,  # where the state is kept between epochs
        progress: Progress = SILENT,
    ) -> None:
        if len(images.labels) < 2:
            raise DrhnError("too few training images", expected="2 or more", found=str(len(images.labels)))
        self.images, self.validation, self.checkpoint_path = images, validation, checkpoint_path
        self.recipe, self.device, self.world = recipe, device, world or World()
        self.preprocessing = replace(recipe.preprocessing, views=1)
        self.progress = progress if self.world.is_main else SILENT
        self.labels = torch.from_numpy(images.labels).to(device)
        teachers = sorted({stage.teacher for stage in recipe.stages if stage.teacher})
        self._features = {teacher: self._features_of(teacher).to(device) for teacher in teachers}
        self.history: list[EpochReport] = []
        self.cpu_seconds = 0.0
        self._clock_start, self._cpu_start = time.monotonic(), time.process_time()
        self._run = self._describe_run()
        self._begin_stage(0, recipe.start)

    def _features_of(self, teacher: str) -> Tensor:
        """Return what a teacher knows of the images, (n, d) float16."""
        if not is_model(teacher):
            return torch.from_numpy(load_features(teacher, self.images.names))
        features = None
        if self.world.is_main:
            options: Any = {"device": str(self.device), "progress": self.progress}
            features = model_features(teacher, self.images.pixels, **options)
        return torch.from_numpy(self.world.broadcast(features))

    def _begin_stage(self, number: int, start: Model | None) -> None:
        """Make network and optimizers of a stage, from the weights before it; None: random ones."""
        self.stage_number = number
        self.stage = stage = self.recipe.stages[number]
        n_images = len(self.labels)
        self.batch_size = min(stage.batch_size or n_images, n_images)
        self.steps_per_epoch = n_images // self.batch_size  # each epoch leaves out other images
        self.features = self._features[stage.teacher] if stage.teacher else None
        torch.manual_seed(stage.seed or 0)
        self.network = DRHN(self.recipe.network_of(number))
        config, features = self.network.config, self.features
        self.head = None if features is None else DistillationHead(config, features.shape[1], stage.distill_at)
        copy_fitting_arrays(self.network, start, self.images.class_names, stage.block_scale)
        self.trained = nn.ModuleList([self.network] if self.head is None else [self.network, self.head])
        self.trained.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizers = make_optimizers(self.network, stage, self.head)
        self.average = AveragedModel(self.network) if stage.swa else None
        modules = {"network": self.network, "head": self.head, "average": self.average}
        self._modules = {name: module for name, module in modules.items() if module}  # by their names in a checkpoint

    @property
    def seconds(self) -> float:
        """Wall-clock time of the run, of earlier processes too."""
        return time.monotonic() - self._clock_start

    def epochs(self) -> Iterator[EpochReport]:
        """Train the epochs of all stages that are left, and save the state after each."""
        earlier_cpu_seconds = self.cpu_seconds
        for number in range(self.stage_number, len(self.recipe.stages)):
            if number > self.stage_number:
                self._begin_stage(number, self.model())
            n_done = sum(report.stage == number + 1 for report in self.history)
            for epoch in range(n_done, self.stage.epochs):
                figures = *self.train_epoch(epoch), *self.validate()
                cpu_seconds = self.world.all_reduce_sum(time.process_time() - self._cpu_start, self.device)
                self.cpu_seconds = earlier_cpu_seconds + cpu_seconds
                self.history.append(EpochReport(number + 1, epoch + 1, *figures, seconds=self.seconds))
                self.save()
                yield self.history[-1]

    def train_epoch(self, epoch: int) -> tuple[float, float]:
        """Train on all images once; return the mean loss and the accuracy, measured before each step."""
        self.network.train()
        self.progress.phase("training", self.steps_per_epoch)
        loss_sum, n_right = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        first_step = epoch * self.steps_per_epoch
        for step, (images, indices) in enumerate(self.batches(epoch, self.world)):
            loss, scores = self.step(first_step + step, images, indices)
            loss_sum += loss
            n_right += (scores.argmax(dim=1) == self.labels[indices]).sum()
            self.progress.advance()
        # Each process has its own batch-norm statistics, from its own images.
        self.world.all_reduce_mean(buffer for buffer in self.network.buffers() if buffer.is_floating_point())
        n_losses = self.steps_per_epoch * self.world.size
        mean_loss = self.world.all_reduce_sum(loss_sum.item(), self.device) / n_losses
        if not math.isfinite(mean_loss):
            raise DrhnError(
                f"the loss is no longer a number in epoch {epoch + 1}",
                hint="lower stage.lr and stage.muon_lr, or set stage.dtype=float32",
            )
        n_images = self.steps_per_epoch * self.batch_size
        return mean_loss, self.world.all_reduce_sum(n_right.item(), self.device) / n_images

    def step(self, step: int, images: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Update the weights once; return the loss and the (b, n_classes) scores of this process's images."""
        stage, backward = self.stage, partial(self._backward, images, indices)
        n_steps = stage.epochs * self.steps_per_epoch
        set_learning_rates(self.optimizers, lr_schedule(step, n_steps, stage), stage)
        if stage.sam_rho:
            loss, scores = sam_gradients(self.trained, stage, len(indices), backward)
        else:
            loss, scores = backward(slice(None))
        self.world.all_reduce_mean(p.grad for p in self.trained.parameters() if p.grad is not None)
        for optimizer in self.optimizers:
            optimizer.step()
        if self.average and in_swa(step, n_steps, stage):
            self.average.update_parameters(self.network)
        return loss, scores

    def _backward(self, images: Tensor, indices: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """Overwrite the gradients by those of a part of the images; return its loss and its scores, detached."""
        with self._autocast():
            pooled = self.network.pooled_features(images[part])  # (b, n_features)
        activations = self.network.activations(pooled)  # (b, bits)
        labels = self.labels[indices[part]]
        features = None if self.features is None else self.features[indices[part]]
        taught = self.head.predict(pooled, activations) if self.head else ()
        loss, scores = total_loss(self.network, activations, labels, self.stage, predictions=taught, features=features)
        share = self.world.share_of(self.batch_size)
        # The mean over processes is to be the mean over images, though shares differ by one.
        loss = loss * ((share.stop - share.start) * self.world.size / self.batch_size)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        return loss.detach(), scores.detach()

    def batches(self, epoch: int, world: World) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the steps of an epoch: this process's augmented images, (b, 3, s, s), and their (b,) indices."""
        generator = epoch_generator(self.stage.seed or 0, epoch)
        order = torch.randperm(len(self.labels), generator=generator)
        share, generator = world.share_of(self.batch_size), world.own_generator(generator)
        pixels = torch.from_numpy(self.images.pixels)
        for start in range(0, len(order) - self.batch_size + 1, self.batch_size):
            indices = order[start : start + self.batch_size][share]
            images = normalize(pixels[indices].to(self.device).permute(0, 3, 1, 2), self.preprocessing)
            yield augment(images, indices, epoch, self.stage, generator), indices

    def validate(self) -> tuple[float | None, float | None]:
        """Return accuracy and mean average precision of the validation images, looked up in training images.

        With the averaged weights once SWA has started; None without validation images or in a process that is not
        the main one.
        """
        if self.validation is None or not self.world.is_main:
            return None, None
        network = self.trained_network().eval()
        rows = np.random.default_rng(self.recipe.seed).permutation(len(self.labels))[:GALLERY_LIMIT]
        backend = torch_backend(network, self.preprocessing, bfloat16=self._is_mixed)
        (one,) = evaluate_network(network, backend, self.validation, self.images.take(rows), Measures())
        return one.accuracy, one.retrieval.mean_average_precision

    def model(self) -> Model:
        """Return the trained network as a model without a name; with SWA, of the averaged weights."""
        kept = self.network.config.array_shapes()
        state = self.trained_network().state_dict()
        return Model(
            name="",
            config=self.network.config,
            preprocessing=self.recipe.preprocessing,
            class_names=self.images.class_names,
            arrays=halve_filters({name: value.cpu().numpy() for name, value in state.items() if name in kept}),
        )

    def trained_network(self) -> DRHN:
        """Return the network, with the averaged weights as soon as SWA has some.

        Batch-norm statistics are re-estimated from batches of one more epoch for averaged weights, and after SAM, whose
        micro-batches are small. Every process does so by itself, with the same images.
        """
        averages = self.average is not None and bool(self.average.n_averaged)
        if not averages and not self.stage.sam_rho:
            return self.network
        network = cast(DRHN, self.average.module) if self.average and averages else deepcopy(self.network)
        batches = islice(self.batches(self.stage.epochs, World()), -(-_BATCH_NORM_IMAGES // self.batch_size))
        with self._autocast():
            update_bn((images for images, _ in batches), network)
        return network

    def resume(self) -> None:
        """Continue from the checkpoint, if there is one."""
        path, world = self.checkpoint_path, self.world
        saved = load_checkpoint(path, self._run) if path and world.is_main else None
        main_run, saved = world.broadcast((self._run, saved))
        if main_run != self._run:
            differing = ", ".join(key for key in self._run if self._run[key] != main_run[key])
            hint = "give every process the same pictures and options, stage.dtype among them"
            raise ConfigError(f"process {world.rank} trains something else than the first: {differing}", hint=hint)
        n_present = world.all_reduce_sum(bool(path and path.exists()), self.device)
        if n_present and not saved:
            hint = "give that machine --node-rank 0, or remove the file there to start anew"
            raise CheckpointError("the unfinished run is on a machine that is not the first", path=path, hint=hint)
        if saved:
            self._load_state(saved)

    def _load_state(self, saved: dict[str, Any]) -> None:
        if saved["stage"] != self.stage_number:
            self._begin_stage(saved["stage"], None)
        for name, module in self._modules.items():
            module.load_state_dict(saved[name])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.history = [EpochReport(**report) for report in saved["history"]]
        self.cpu_seconds = saved["cpu_seconds"]
        self._clock_start = time.monotonic() - saved["seconds"]

    def save(self) -> None:
        """Write the checkpoint, in the main process."""
        if self.checkpoint_path is None or not self.world.is_main:
            return
        state = {
            "run": self._run,
            "stage": self.stage_number,
            **{name: module.state_dict() for name, module in self._modules.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "history": [asdict(report) for report in self.history],
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }
        save_checkpoint(self.checkpoint_path, state)

    def _describe_run(self) -> dict[str, Any]:
        """Return the settings and digests of the data that must be equal in the run that continues this one."""
        images = sha256(np.ascontiguousarray(self.images.pixels).data)
        images.update(self.images.labels.data)
        run: dict[str, Any] = {
            "network": self.recipe.network.to_dict(),
            "training": self.recipe.settings(),
            "preprocessing": self.preprocessing.to_dict(),
            "images": images.hexdigest(),
            "processes": self.world.size,  # each augments its images with random numbers of its own
        }
        if self.recipe.start:
            run["start"] = self.recipe.start.fingerprint
        if self._features:
            features = b"".join(each.cpu().numpy().tobytes() for each in self._features.values())
            run["teacher"] = sha256(features).hexdigest()
        return run

    @property
    def _is_mixed(self) -> bool:
        return self.stage.dtype == "bfloat16"

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._is_mixed)


@torch.no_grad()
def copy_fitting_arrays(network: DRHN, start: Model | None, class_names: tuple[str, ...], block_scale: float) -> None:
    """Copy the arrays of other weights, if there are any, into a network as far as they fit.

    A shorter hash layer takes the first units of a longer one, as a shorter code is a prefix of a longer one, and the
    last layer takes their weights. A longer hash layer, and a last layer of other classes or more units, stay random;
    so do blocks that the weights lack, whose batch-norm scale becomes ``block_scale``: 0 makes them the identity.
    """
    state, bits = network.state_dict(), network.config.bits
    for name, scale in state.items():
        if name.startswith("groups") and name.endswith("norm.weight"):
            scale *= block_scale
    if start is None:
        return
    for name, array in start.arrays.items():
        if start.config.bits > bits:
            if name.startswith("hash"):
                array = array[:bits]
            elif name == "classify.weight":
                array = array[:, :bits] * (start.config.bits / bits)  # as DRHN.scores scales shorter codes
        is_other = name.startswith("classify") and start.class_names != class_names
        if not is_other and state[name].shape == array.shape:
            state[name].copy_(torch.from_numpy(array.astype(np.float32)))


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Return the generator of an epoch's order and augmentation, on the CPU.

    Torch uses 32 bits of a seed there, so seed and epoch are hashed together, not put side by side.
    """
    return torch.Generator().manual_seed(int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0]))
