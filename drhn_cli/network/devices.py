"""The device that runs the network, and the number format it is trained in there."""

from __future__ import annotations

import os
import re
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from drhn_cli.errors import ConfigError

if TYPE_CHECKING:
    import torch

Dtype = Literal["float32", "bfloat16"]

_GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""What Linux has where a driver of NVIDIA, of WSL or of AMD is loaded."""


def check_device(name: str) -> None:
    """Raise a ``ConfigError`` for an invalid device name; ``choose_device`` checks if the device exists."""
    if not re.fullmatch(r"auto|(cuda|mps|cpu)(:(0|[1-9][0-9]?))?", name):
        raise ConfigError(f"unknown device {name!r}", expected="auto, cuda, mps or cpu, or such as cuda:0")


def choose_device(name: str, *, is_exclusive: bool = False) -> torch.device:
    """Return the device of a name: ``auto`` takes CUDA, then Apple's MPS, then the CPU.

    Processes that ``torchrun`` has started on one machine take its GPUs in turn. ``is_exclusive``: each of them needs a
    GPU of its own, whatever number the name gives, because they train together.

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
    device, n_gpus = torch.device(name), torch.cuda.device_count()
    if kind == "cuda" and (device.index or 0) >= n_gpus:
        raise ConfigError(f"no {name} here", expected=f"cuda:0..{n_gpus - 1}")
    local_rank = os.environ.get("LOCAL_RANK", "")  # set by torchrun
    if kind == "cpu" or not local_rank.isdecimal():
        return device
    is_exclusive = is_exclusive and os.environ.get("WORLD_SIZE", "1") != "1"
    if is_exclusive and kind == "mps":
        raise ConfigError("several processes cannot train on mps", hint="use --device cpu")
    if is_exclusive and int(local_rank) >= n_gpus:
        raise ConfigError("more processes than GPUs", expected=f"--nproc-per-node {n_gpus}")
    if kind == "cuda" and (is_exclusive or device.index is None):
        return torch.device("cuda", int(local_rank) % n_gpus)
    return device


def choose_gpu(name: str) -> torch.device | None:
    """Return the GPU of a name, see ``choose_device``; None for the CPU, for which torch is not imported.

    Raises:
        ConfigError: the device is unknown or not there.
    """
    check_device(name)
    if name.startswith("cpu") or (name == "auto" and not may_have_gpu()):
        return None
    device = choose_device(name)
    return None if device.type == "cpu" else device


def may_have_gpu() -> bool:
    """Return whether torch may find a GPU here; it takes a second or two to import, and may not be installed."""
    if find_spec("torch") is None:
        return False
    return sys.platform != "linux" or any(map(os.path.exists, _GPU_FILES))


def choose_dtype(device: torch.device) -> Dtype:
    """Return ``bfloat16`` where the device multiplies it in hardware, else ``float32``."""
    import torch

    fast = False
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # which not every torch has
        capabilities = torch.cpu.get_capabilities()
        fast = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return "bfloat16" if fast else "float32"
