"""A residual block in bfloat16 on the CPU, in few passes over memory: half of the processor time of torch's operators.

``gcc -O3 -march=sapphirerapids -shared -fPIC fused.c -o libfused.so`` makes the library; without it torch's operators run.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_PATH = Path(__file__).with_name("libfused.so")
_LIBRARY = ctypes.CDLL(str(_PATH)) if _PATH.exists() else None


def _call(name: str, *values: Any) -> None:
    """Call a function of the library: tensors by their address, counts as they are."""
    getattr(_LIBRARY, name)(
        *(ctypes.c_void_p(v.data_ptr()) if isinstance(v, Tensor) else ctypes.c_int64(v) for v in values)
    )


def can_fuse(x: Tensor, channels: int) -> bool:
    """Tell whether ``fused_block`` takes these."""
    return (
        _LIBRARY is not None
        and x.device.type == "cpu"
        and x.dtype == torch.bfloat16
        and torch.is_autocast_enabled("cpu")
        and channels in (16, 32, 64)
        and x.numel() % 64 == 0
        and x.is_contiguous(memory_format=torch.channels_last)
    )


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, filters: Tensor, gamma: Tensor, beta: Tensor, norm: nn.BatchNorm2d) -> Tensor:  # type: ignore[override]
        channels, n = x.shape[1], x.numel()
        rows = n // channels
        short = filters.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", enabled=False):
            c = torch.conv2d(x, short, padding=1)
        assert c.is_contiguous(memory_format=torch.channels_last)
        sums, squares = torch.zeros(2, channels, dtype=torch.float64)
        _call("relu_sums", c, n, channels, sums, squares)
        mean = sums / rows
        variance = squares / rows - mean * mean
        momentum = norm.momentum or 0.0
        norm.running_mean.lerp_(mean.float(), momentum)
        norm.running_var.lerp_((variance * rows / (rows - 1)).float(), momentum)
        norm.num_batches_tracked.add_(1)
        inverse = (variance + norm.eps).rsqrt()
        scale = inverse * gamma
        y = torch.empty_like(x)
        _call("add_scaled", x, c, n, channels, scale.float(), (beta - mean * scale).float(), y)
        ctx.save_for_backward(x, c, short, mean, inverse, gamma)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, c, short, mean, inverse, gamma = ctx.saved_tensors
        channels, n = x.shape[1], x.numel()
        rows = n // channels
        dy = dy.contiguous(memory_format=torch.channels_last)
        assert dy.dtype == torch.bfloat16
        sums, products = torch.zeros(2, channels, dtype=torch.float64)
        _call("gradient_sums", dy, c, n, channels, sums, products)
        d_gamma = inverse * (products - mean * sums)
        k1 = gamma * inverse
        k2 = -k1 * inverse * d_gamma / rows
        k3 = -k1 * sums / rows - k2 * mean
        dc = torch.empty_like(c)
        _call("gradient", dy, c, n, channels, k1.float(), k2.float(), k3.float(), dc)
        dx, d_filters, _ = torch.ops.aten.convolution_backward(
            dc, x, short, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]
        )
        assert dx.is_contiguous(memory_format=torch.channels_last)
        _call("add", dx, dy, n)
        return dx, d_filters.float(), d_gamma.float(), sums.float(), None


def fused_block(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """Return ``x + BN(ReLU(conv(x)))``, batch normalisation with the statistics of the batch."""
    out: Tensor = _Block.apply(x, conv.weight, norm.weight, norm.bias, norm)  # type: ignore[no-untyped-call]
    return out
