"""The processes that train one network together, as ``torchrun`` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch

# The first optimiser would load it, and loaded while the processes are connected it keeps what connects them (seen with
# torch 2.14). Gloo's threads then run on as the interpreter ends, which may end the process by std::terminate.
import torch._dynamo
import torch.distributed as dist
from torch import Tensor

from drhn_cli.errors import DrhnError

T = TypeVar("T")

_PATIENCE = timedelta(days=1)
"""How long the others wait for the first, which measures alone. ``torchrun`` ends them when one has died."""


@dataclass(frozen=True, kw_only=True)
class Team:
    """This process's place among those that train together.

    Attributes:
        rank: number of this process, from 0. The first one alone writes files, tells and measures.
        size: number of processes. With one, every method does nothing and costs nothing.
        local_rank: number of this process on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0

    @contextmanager
    def assembled(self, device: torch.device) -> Iterator[None]:
        """Connect the processes through a ``with`` block: by NCCL between GPUs, by Gloo between CPUs."""
        if self.size == 1:
            yield
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
        try:
            yield
        finally:
            dist.destroy_process_group()

    @contextmanager
    def first_here_first(self) -> Iterator[None]:
        """Let the first process of each machine through a ``with`` block before the others."""
        if self.size > 1 and self.local_rank:
            dist.barrier()
        yield
        if self.size > 1 and not self.local_rank:
            dist.barrier()

    def from_first(self, value: T) -> T:
        """Return what the first process has given; what the others give is ignored."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def total(self, value: float, device: torch.device) -> float:
        """Return the sum of all processes' values."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return float(total.item())

    def share_of(self, batch_size: int) -> slice:
        """Return which images of a batch are this process's; shares differ by one image at most.

        Raises:
            DrhnError: some process would get fewer than two images, which batch normalisation needs.
        """
        if batch_size < 2 * self.size and self.size > 1:
            expected = f"{2 * self.size} or more"
            raise DrhnError("too few images a step for so many processes", expected=expected, found=str(batch_size))
        return slice(batch_size * self.rank // self.size, batch_size * (self.rank + 1) // self.size)

    def own_generator(self, generator: torch.Generator) -> torch.Generator:
        """Return a generator whose numbers are this process's own, drawn from one that all have in the same state."""
        if self.size == 1:
            return generator
        seeds = torch.randint(2**31, (self.size,), generator=generator)
        return torch.Generator().manual_seed(int(seeds[self.rank]))

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor, all of one type and device, by its mean over all processes.

        One sum of all, and not DistributedDataParallel: that would overwrite the running statistics of all processes
        but the first at each step, and torch 2.14 warns of the option against it.
        """
        if self.size == 1:
            return
        given = list(tensors)
        flat = torch.cat([tensor.reshape(-1) for tensor in given])
        dist.all_reduce(flat)
        flat /= self.size
        parts = torch.split(flat, [tensor.numel() for tensor in given])
        for tensor, part in zip(given, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


ALONE = Team()
"""A process that trains by itself."""


def find_team() -> Team:
    """Return this process's place, which ``torchrun`` tells by environment variables; without them it is alone."""
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} <= os.environ.keys():
        return ALONE
    rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return Team(rank=rank, size=size, local_rank=local_rank)
