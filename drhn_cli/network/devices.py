"""Where the network runs, and in which precision it is trained there."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Literal

from drhn_cli.errors import ConfigError

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16"]


def check_device(name: str) -> None:
    """Raise a ``ConfigError`` for what names no device, without importing torch to see whether the device is there."""
    if not re.fullmatch(r"auto|(cuda|mps|cpu)(:\d+)?", name):
        raise ConfigError(f"unknown device {name!r}", expected="auto, cuda, mps or cpu, or such as cuda:0")


def choose_device(name: str, *, is_exclusive: bool = False) -> torch.device:
    """Return the device of a name: ``auto`` takes CUDA, then Apple's MPS, then the CPU.

    Processes that ``torchrun`` has started on one machine take its GPUs in turn. ``is_exclusive``: each needs one of
    its own, whatever number is given, as those that train together do.

    Raises:
        ConfigError: the device is unknown or not there, or there are more processes than GPUs.
    """
    check_device(name)
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in present.items() if there)
    kind = name.split(":")[0]
    if not present[kind]:
        raise ConfigError(f"no {kind} device here", hint="use --device auto or --device cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}", expected="such as cuda:0") from error
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"no {name} here", expected=f"cuda:0..{torch.cuda.device_count() - 1}")
    return _device_of_process(device, is_exclusive=is_exclusive)


def _device_of_process(device: torch.device, *, is_exclusive: bool) -> torch.device:
    local_rank = os.environ.get("LOCAL_RANK", "")
    if not local_rank.isdecimal() or device.type == "cpu":
        return device
    import torch

    is_exclusive = is_exclusive and os.environ.get("WORLD_SIZE", "1") != "1"
    if device.type != "cuda":
        if is_exclusive:
            raise ConfigError(f"several processes cannot train on {device.type}", hint="use --device cpu")
        return device
    n_gpus = torch.cuda.device_count()
    if is_exclusive and int(local_rank) >= n_gpus:
        raise ConfigError("more processes than GPUs", expected=f"--nproc-per-node {n_gpus}")
    return torch.device("cuda", int(local_rank) % n_gpus) if is_exclusive or device.index is None else device


def choose_precision(device: torch.device) -> Precision:
    """Return ``bfloat16`` where the device multiplies it in hardware, else ``float32``."""
    import torch

    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        fast = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    else:
        fast = False
    return "bfloat16" if fast else "float32"
