"""The processes that train one network together, as ``torchrun`` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch

# Imported before the processes are connected: the first optimizer would import it, and it would then keep the process
# group alive (seen with torch 2.14). Gloo's threads still run when the interpreter ends, which may call std::terminate.
import torch._dynamo
import torch.distributed as dist
from torch import Tensor

from drhn_cli.errors import DrhnError

T = TypeVar("T")

_TIMEOUT = timedelta(days=1)
"""How long the others wait for the main process, which validates alone. ``torchrun`` ends them if one has died."""


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among those that train together. If it is alone, every method does nothing and costs nothing."""

    rank: int = 0  # number of this process
    size: int = 1  # number of processes
    local_rank: int = 0  # number of this process on its machine

    @classmethod
    def from_environment(cls) -> World:
        """Read what ``torchrun`` has put into the environment; without it this process is alone."""
        if not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} <= os.environ.keys():
            return cls()
        rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        return cls(rank=rank, size=size, local_rank=local_rank)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that validates, reports and writes files."""
        return self.rank == 0

    @contextmanager
    def connected(self, device: torch.device) -> Iterator[None]:
        """Connect the processes for a ``with`` block: NCCL between GPUs, Gloo between CPUs."""
        if self.size == 1:
            yield
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
        try:
            yield
        finally:
            dist.destroy_process_group()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run a ``with`` block in the first process of each machine before the others."""
        if self.size > 1 and self.local_rank:
            dist.barrier()
        yield
        if self.size > 1 and not self.local_rank:
            dist.barrier()

    def broadcast(self, value: T) -> T:
        """Return the main process's value in every process."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def all_reduce_sum(self, value: float, device: torch.device) -> float:
        """Return the sum of the processes' values."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return float(total.item())

    def all_reduce_mean(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors of one dtype and device by their means over the processes.

        Not DistributedDataParallel: it overwrites the batch-norm statistics of all processes but the first at each
        step, and torch 2.14 warns if that is switched off.
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

    def share_of(self, batch_size: int) -> slice:
        """Return this process's images of a batch; shares differ by one image at most."""
        if batch_size < 2 * self.size and self.size > 1:  # batch normalization needs two images
            expected = f"{2 * self.size} or more"
            raise DrhnError("too few images a step for so many processes", expected=expected, found=str(batch_size))
        return slice(batch_size * self.rank // self.size, batch_size * (self.rank + 1) // self.size)

    def own_generator(self, generator: torch.Generator) -> torch.Generator:
        """Derive this process's own generator from one that is in the same state in all processes."""
        if self.size == 1:
            return generator
        seeds = torch.randint(2**31, (self.size,), generator=generator)
        return torch.Generator().manual_seed(int(seeds[self.rank]))
