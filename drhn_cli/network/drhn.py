"""The Deep Residual Hashing Network (Jimenez-Lepe and Mendez-Vazquez) in torch, for training and for GPUs.

Only the abstract of the paper is published; README.md in this folder says how this network follows from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from drhn_cli.images.preprocess import Preprocessing
from drhn_cli.network.config import Activation, Layer, NetworkConfig
from drhn_cli.network.integer import LARGEST, STREAM_LIMIT, IntegerLayer, Pooled, float_arrays, integer_layers
from drhn_cli.network.model import Model

_ACTIVATIONS: dict[Activation, nn.Module] = {
    "none": nn.Identity(),
    "relu": nn.ReLU(inplace=True),
    "relu6": nn.ReLU6(inplace=True),
}


def normalize(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Standardize each channel: (n, 3, s, s) uint8 -> float32 of the same shape, in channels-last order."""
    channels = torch.tensor([preprocessing.mean, preprocessing.std], device=pixels.device)
    mean, std = (channels.view(2, 1, 3, 1, 1) * 255).unbind()
    return ((pixels.float() - mean) / std).contiguous(memory_format=torch.channels_last)


class DRHN(nn.Module):
    """Trunk -> average pooling -> hash layer -> class scores.

    The paper's trunk is (Conv -> ReLU -> BN) -> six residual groups; ``NetworkConfig.layers`` lists that of a network.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self._trunk: list[tuple[Layer, nn.Module, nn.Module]] = []
        for layer in config.layers():
            sizes = layer.in_channels, layer.out_channels, layer.kernel, layer.stride
            before, after = layer.padding
            padding = before if before == after else 0  # else ``features`` pads
            conv = nn.Conv2d(*sizes, padding=padding, groups=layer.groups, bias=False)
            norm = nn.BatchNorm2d(layer.out_channels, eps=layer.epsilon)
            _add_module(self, layer.conv, conv)
            _add_module(self, layer.norm, norm)
            self._trunk.append((layer, conv, norm))
        self.hash = nn.Linear(self._trunk[-1][0].out_channels, config.bits, bias=not config.hash_norm)
        self.hash_norm = nn.BatchNorm1d(config.bits) if config.hash_norm else nn.Identity()
        self.classify = nn.Linear(config.bits, config.n_classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the output of the trunk: (n, 3, input_size, input_size) -> (n, channels, side, side)."""
        block_input = x
        for layer, conv, norm in self._trunk:
            block_input = x if layer.opens_block else block_input
            before, after = layer.padding
            x = conv(x if before == after else functional.pad(x, (before, after, before, after)))
            if layer.max_pool:
                x = functional.max_pool2d(x, 2)
            activate = _ACTIVATIONS[layer.activation]
            x = activate(norm(x)) if layer.norm_first else norm(activate(x))
            if layer.closes_block:
                x = _shortcut(block_input, layer) + x
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Return the hash layer's activations: (n, 3, input_size, input_size) -> (n, bits) float32 in 0..1."""
        return self.activations(self.pooled_features(x))

    def activations(self, pooled: Tensor) -> Tensor:
        """Return the hash layer's activations of pooled features: (n, n_features) -> (n, bits) float32 in 0..1."""
        with torch.autocast(pooled.device.type, enabled=False):  # full precision, as this decides the codes
            return torch.sigmoid(self.hash_norm(self.hash(pooled)))

    def pooled_features(self, x: Tensor) -> Tensor:
        """Return the input of the hash layer: (n, 3, input_size, input_size) -> (n, n_features) float32."""
        x = self.features(x).float().mean(dim=(2, 3))  # (n, n_features): the average pooling layer
        return functional.normalize(x) if self.config.unit_features else x

    def scores(self, activations: Tensor, n_bits: int | None = None, *, first: int = 0) -> Tensor:
        """Return the class logits from ``n_bits`` bits, from ``first`` on: (n, bits) -> (n, n_classes).

        Weights are scaled by bits / n_bits, so that logits have the same range at every code length. Otherwise the
        first bits alone would have to reach the logits of a low loss, and the others would have nothing to learn.
        With ``classify_bits`` the gradients are those of activations (the straight-through estimator, Bengio et al.
        2013, https://arxiv.org/abs/1308.3432).
        """
        n_bits = n_bits or self.config.bits
        if self.config.classify_bits:
            bits = torch.where(activations > self.config.threshold, 1.0, -1.0)
            signs = 2 * activations - 1
            activations = bits + (signs - signs.detach())
        return linear_of_bits(self.classify, activations[:, first : first + n_bits], first=first)


def linear_of_bits(layer: nn.Linear, bits: Tensor, *, first: int = 0) -> Tensor:
    """Apply a layer to bits from ``first`` on, (n, n_bits), with weights scaled by in_features / n_bits."""
    n_bits = bits.shape[1]
    weight = layer.weight[:, first : first + n_bits] * (layer.in_features / n_bits)
    return functional.linear(bits, weight, layer.bias)


def _add_module(parent: nn.Module, name: str, module: nn.Module) -> None:
    """Add a module by its dotted name, and plain modules for the parts before the last dot."""
    *path, last = name.split(".")
    for part in path:
        if not hasattr(parent, part):
            parent.add_module(part, nn.Module())
        parent = parent.get_submodule(part)
    parent.add_module(last, module)


def _shortcut(x: Tensor, layer: Layer) -> Tensor:
    """(n, in_channels, s, s) -> (n, out_channels, s / shortcut_pool, s / shortcut_pool)."""
    if layer.shortcut_pool > 1:
        x = functional.avg_pool2d(x, layer.shortcut_pool)
    if x.shape[1] < layer.out_channels:
        x = functional.pad(x, (0, 0, 0, 0, 0, layer.out_channels - x.shape[1]))
    return x


def build_network(model: Model, device: torch.device) -> DRHN:
    """Return the trained network, in evaluation mode."""
    network = DRHN(model.config)
    state = {name: torch.from_numpy(array.astype(np.float32)) for name, array in float_arrays(model).items()}
    # Not strict: num_batches_tracked of batch normalization is not in the weights file, and not needed.
    network.load_state_dict(state, strict=False)
    return network.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def load_torch(
    model: Model, device: torch.device, *, features: bool = False
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return a function from (n, s, s, 3) uint8 views to (n, bits) activations in 0..1, float32.

    With ``features`` the function returns the (n, n_features) pooled features, the input of the hash layer.
    """
    return torch_backend(build_network(model, device), model.preprocessing, features=features)


def torch_backend(
    network: DRHN, preprocessing: Preprocessing, *, bfloat16: bool = False, features: bool = False
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return the function of ``load_torch`` for a network in evaluation mode; bfloat16 activations are approximate."""
    device = next(network.parameters()).device
    compute = network.pooled_features if features else network

    @torch.inference_mode()
    def encode(views: NDArray[np.uint8]) -> NDArray[np.float32]:
        pixels = torch.from_numpy(views).to(device).permute(0, 3, 1, 2)  # (n, 3, s, s)
        autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16)
        with _without_tf32(device), autocast:
            return cast("NDArray[np.float32]", compute(normalize(pixels, preprocessing)).cpu().numpy())

    return encode


def load_integer_trunk(model: Model, device: torch.device) -> Pooled:
    """Return the trunk of a model in integers: (n, s, s, 3) uint8 views -> (n, n_features) int32 pooled sums.

    Dense convolutions are matrix products over patches: a library's convolution may be Winograd's, which rounds.
    """
    steps = [(step, _load_products(step, device), _load_requantize(step, device)) for step in integer_layers(model)]

    @torch.inference_mode()
    def pooled(views: NDArray[np.uint8]) -> NDArray[np.int32]:
        x = torch.from_numpy(views).to(device).float()  # (n, s, s, 3)
        stream = block_input = x
        with _without_tf32(device):
            for step, products, requantize in steps:
                block_input = stream if step.layer.opens_block else block_input
                x, stream = requantize(products(x), stream, block_input)
        last = stream if steps[-1][0].writes_stream else x
        return cast("NDArray[np.int32]", last.int().sum(dim=(1, 2), dtype=torch.int32).cpu().numpy())

    return pooled


def _load_products(step: IntegerLayer, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return the convolution of a layer in integers, (n, s, s, in) -> (n, conv_side, conv_side, out)."""
    layer = step.layer
    weight, bias, pad = (torch.from_numpy(array).to(device).float() for array in (step.weight, step.bias, step.pad))
    before, after = layer.padding
    side = before + layer.in_side + after
    matrix = weight.reshape(layer.out_channels, -1).t()  # (kernel * kernel * in, out)
    filters = weight.permute(0, 3, 1, 2)

    def products(x: Tensor) -> Tensor:
        if before or after:
            padded = pad.repeat(len(x), side, side, 1)
            padded[:, before : before + layer.in_side, before : before + layer.in_side] = x
            x = padded
        if layer.groups > 1:
            planes = functional.conv2d(x.permute(0, 3, 1, 2), filters, stride=layer.stride, groups=layer.groups)
            return planes.permute(0, 2, 3, 1) + bias
        windows = x.unfold(1, layer.kernel, layer.stride).unfold(2, layer.kernel, layer.stride)
        patches = windows.permute(0, 1, 2, 4, 5, 3)  # (n, conv_side, conv_side, kernel, kernel, in)
        return (patches.reshape(-1, len(matrix)) @ matrix).view(*patches.shape[:3], -1) + bias

    return products


def _load_requantize(
    step: IntegerLayer, device: torch.device
) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return what ``requantize`` of ``numpy_backend`` does for a layer: sums, stream, shortcut -> output, stream."""
    layer = step.layer
    scale = torch.from_numpy(step.scale).to(device)
    offset = None if step.offset is None else torch.from_numpy(step.offset).to(device)

    def requantize(sums: Tensor, stream: Tensor, shortcut: Tensor) -> tuple[Tensor, Tensor]:
        if layer.max_pool:
            sums = functional.max_pool2d(sums.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        if layer.activation == "relu":
            sums = sums.relu()
        y = (sums * scale).round()  # half to even
        if not step.writes_stream:
            return y.clamp(0, LARGEST), stream
        if offset is not None:
            y += offset
        if layer.closes_block:
            if layer.shortcut_pool > 1:
                n, side, _, channels = shortcut.shape
                tiles = shortcut.reshape(n, side // 2, 2, side // 2, 2, channels)
                shortcut = (tiles.sum(dim=(2, 4)) * (1 / layer.shortcut_pool**2)).round()
            y[..., : shortcut.shape[3]] += shortcut
        stream = y.clamp(-STREAM_LIMIT - 1, STREAM_LIMIT)
        return ((stream * float(step.next_scale)).round() + step.zero_point).clamp(0, LARGEST), stream

    return requantize


@torch.inference_mode()
def predict_classes(network: DRHN, activations: NDArray[np.float32], n_bits: int) -> NDArray[np.int64]:
    """Return the likeliest class of each picture from its first ``n_bits`` activations: (n, bits) -> (n,)."""
    device = next(network.parameters()).device
    scores = network.scores(torch.from_numpy(activations).to(device), n_bits)
    return cast("NDArray[np.int64]", scores.argmax(dim=1).cpu().numpy())


def use_one_thread() -> None:
    """Have torch compute in the calling thread alone; to be called in each thread that encodes."""
    torch.set_num_threads(1)


@contextmanager
def _without_tf32(device: torch.device) -> Iterator[None]:
    """Multiply in full single precision: TF32 has a mantissa of 10 bits, and codes would depend on the GPU."""
    if device.type != "cuda":  # threads on a CPU would restore each other's setting
        yield
        return
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])
