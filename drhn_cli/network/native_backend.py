"""The integer network in C: pixels -> pooled sums, by the best instructions that the processor has.

``native/int8.c`` computes; here weights are packed in the order in which it reads them, once when a model is loaded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drhn_cli.native import load_library
from drhn_cli.network.config import Layer
from drhn_cli.network.integer import IntegerLayer, integer_layers
from drhn_cli.network.model import Model

KERNELS = ("avx2", "avxvnni", "avx512vnni")
"""The kernels of int8.c, in the order of their numbers."""

_VECTOR_BYTES = (32, 32, 64)
_BLOCKS = (2, 2, 4)
_POOLED_BLOCKS = (1, 1, 3)
"""Units of 16 channels that a tile computes together; with pooling it has four pixels or more, so there are fewer."""

_Bytes = NDArray[np.uint8]
_Sums = NDArray[np.int32]


class _Layer(ctypes.Structure):
    """``struct layer`` of int8.c, where the fields are described."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("depthwise", "kernel", "stride", "before", "in_side", "in_width")),
        *((name, ctypes.c_int64) for name in ("in_pitch", "out_pitch", "out_side", "out_before", "out_width")),
        *((name, ctypes.c_int64) for name in ("n_rows", "row_bytes", "row_stride", "block", "filter_vectors")),
        *((name, ctypes.c_int64) for name in ("max_pool", "relu", "writes_stream", "closes_block", "is_last")),
        *((name, ctypes.c_int64) for name in ("shortcut_pool", "shortcut_pitch", "zero_point")),
        *((name, ctypes.c_void_p) for name in ("pad", "packed")),
        ("next_scale", ctypes.c_float),
    )


class _Network(ctypes.Structure):
    """``struct network`` of int8.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("kernel", "n_layers", "n_features")),
        *((name, ctypes.c_int64) for name in ("picture_size", "activations_size", "stream_size")),
        ("layers", ctypes.POINTER(_Layer)),
    )


def load_native(model: Model) -> Callable[[_Bytes], _Sums] | None:
    """Return a function from (n, s, s, 3) uint8 views to (n, n_features) int32 pooled sums, or None.

    There is none without the library in C, or without a kernel for this processor. Threads may call it at once.
    """
    library = load_library()
    if library is None or library.drhn_int8_best_kernel() < 0:
        return None
    return NativeTrunk(library, integer_layers(model))


class NativeTrunk:
    """The trunk in C. ``kernel`` is 0 to ``library.drhn_int8_best_kernel()``, the default."""

    def __init__(self, library: ctypes.CDLL, layers: Sequence[IntegerLayer], *, kernel: int | None = None) -> None:
        self._kernel = library.drhn_int8_best_kernel() if kernel is None else kernel
        self._arrays: list[NDArray[Any]] = []  # what the structures point to
        self._packed: list[NDArray[np.int32]] = []
        self._layers = (_Layer * len(layers))(*self._structures(layers))
        arena = _aligned(sum(a.nbytes for a in self._packed) + (1 << 18)).view(np.int32)
        at = 0
        for array, one in zip(self._packed, self._layers):
            arena[at : at + array.size] = array
            one.packed = arena.ctypes.data + at * 4
            at += array.size
        self._arrays.append(arena)
        first, last = layers[0].layer, layers[-1].layer
        self._side, self.n_features = first.in_side, last.out_channels
        sizes = {
            "picture_size": _round_up(self._layers[0].in_width ** 2 * 3 + 64, 64),
            "activations_size": max(one.out_width**2 * one.out_pitch for one in self._layers) + 64,
            "stream_size": max(one.out_side**2 * one.out_pitch for one in self._layers if one.writes_stream) * 2,
        }
        self._workspace_size = 64 + sizes["picture_size"] + 2 * (sizes["activations_size"] + sizes["stream_size"])
        self._workspace_size += 4 * self._layers[-1].out_pitch + 64
        self._network = _Network(
            kernel=self._kernel, n_layers=len(layers), n_features=self.n_features, layers=self._layers, **sizes
        )
        self._run = library.drhn_int8_run
        self._run.argtypes = (ctypes.POINTER(_Network), *[ctypes.c_void_p, ctypes.c_int64, *[ctypes.c_void_p] * 2])
        self._run.restype = None
        self._spare: list[_Bytes] = []  # workspaces that no call uses

    def __call__(self, views: _Bytes) -> _Sums:
        """Return pooled sums: (n, s, s, 3) uint8 -> (n, n_features) int32."""
        views = np.ascontiguousarray(views)
        sums = np.empty((len(views), self.n_features), np.int32)
        try:
            workspace = self._spare.pop()
        except IndexError:
            workspace = _aligned(self._workspace_size)
        self._run(self._network, views.ctypes.data, len(views), workspace.ctypes.data, sums.ctypes.data)
        self._spare.append(workspace)
        return sums

    def _structures(self, layers: Sequence[IntegerLayer]) -> list[_Layer]:
        structures = []
        stream_pitch = 0
        for number, one in enumerate(layers):
            layer = one.layer
            after = layers[number + 1].layer if number + 1 < len(layers) else None
            in_pitch, out_pitch = (_pitch(layer.in_channels) if number else layer.in_channels), _pitch(layer.out_channels)
            before, in_width = _border(layer)
            out_before, out_width = _border(after) if after else (0, layer.out_side)
            packed, scheme = self._pack(one, in_pitch)
            structures.append(
                _Layer(
                    depthwise=layer.groups > 1,
                    kernel=layer.kernel,
                    stride=layer.stride,
                    before=layer.padding[0],
                    in_side=layer.in_side,
                    in_width=in_width,
                    in_pitch=in_pitch,
                    out_pitch=out_pitch,
                    out_side=layer.out_side,
                    out_before=out_before,
                    out_width=out_width,
                    row_stride=in_width * in_pitch,
                    **scheme,
                    max_pool=layer.max_pool,
                    relu=layer.activation == "relu",
                    writes_stream=one.writes_stream,
                    closes_block=layer.closes_block,
                    is_last=after is None,
                    shortcut_pool=layer.shortcut_pool,
                    shortcut_pitch=stream_pitch,
                    zero_point=one.zero_point,
                    pad=self._keep(one.pad),
                    packed=self._packed.append(packed),
                    next_scale=one.next_scale,
                )
            )
            stream_pitch = out_pitch if one.writes_stream else stream_pitch
        return structures

    def _keep(self, array: NDArray[Any]) -> int:
        """Return the address of an array, which lives as long as this object."""
        self._arrays.append(array)
        return array.ctypes.data

    def _pack(self, one: IntegerLayer, in_pitch: int) -> tuple[NDArray[np.int32], dict[str, int]]:
        """Return bias, scale, offset and weights in the order in which the kernel reads them, and what it must know."""
        layer, n_out = one.layer, _pitch(one.layer.out_channels)
        offset = np.zeros(layer.out_channels, np.int32) if one.offset is None else one.offset
        if layer.groups > 1:
            weights, ends = self._zipped(one), []
        else:
            pitch = in_pitch if layer.kernel > 1 else layer.in_channels
            rows = _padded(one.weight, pitch, axis=3).reshape(layer.out_channels, layer.kernel, -1)
            weights = _padded(rows, _round_up(rows.shape[2], 4), axis=2)
        fours = np.ascontiguousarray(weights).reshape(layer.out_channels, -1).view(np.int32)
        columns = _padded(np.vstack([one.bias, one.scale.view(np.int32), offset, fours.T]), n_out, axis=1)
        if layer.groups > 1:
            columns = _zipped_order(columns, _VECTOR_BYTES[self._kernel])
            lanes = _VECTOR_BYTES[self._kernel] // 4
            packed = columns.reshape(len(columns), -1, lanes).swapaxes(0, 1)
            return packed.ravel(), {"n_rows": 0, "row_bytes": 0, "block": 0, "filter_vectors": len(columns) - 3}
        block = (_POOLED_BLOCKS if layer.max_pool else _BLOCKS)[self._kernel]
        n_units = n_out // 16
        n_blocks = -(-n_units // block)
        each, more = divmod(n_units, n_blocks)
        ends = np.cumsum([each + (i < more) for i in range(n_blocks)])[:-1] * 16
        packed = np.concatenate([part.ravel() for part in np.split(columns, ends, axis=1)])
        return packed, {"n_rows": layer.kernel, "row_bytes": weights.shape[2], "block": block, "filter_vectors": 0}

    def _zipped(self, one: IntegerLayer) -> NDArray[np.int8]:
        """Return depthwise weights as int32 of zipped rows meet them: (channels, rows of outputs, columns, groups, 4)."""
        kernel, stride = one.layer.kernel, one.layer.stride
        n_rows = 1 if kernel == 3 and stride == 2 else 2
        groups = ((n_rows - 1) * stride + kernel + 3) // 4
        shifted = np.zeros((len(one.weight), n_rows, kernel, groups * 4), np.int8)
        for row in range(n_rows):
            shifted[:, row, :, row * stride : row * stride + kernel] = one.weight[..., 0].swapaxes(1, 2)
        return shifted


def _border(layer: Layer) -> tuple[int, int]:
    """Return the rows above the input and the width of the input with its border, which only dense filters need."""
    before, after = layer.padding if layer.groups == 1 else (0, 0)
    return before, before + layer.in_side + after


def _pitch(channels: int) -> int:
    return _round_up(channels, 16)


def _round_up(n: int, step: int) -> int:
    return -(-n // step) * step


def _padded(array: NDArray[Any], n: int, axis: int = 0) -> NDArray[Any]:
    """Append zeros up to a length of n."""
    widths = [(0, n - size if i == axis else 0) for i, size in enumerate(array.shape)]
    return np.pad(array, widths) if n > array.shape[axis] else array


def _zipped_order(columns: NDArray[np.int32], size: int) -> NDArray[np.int32]:
    """Reorder channels as int8.c zips them in vectors of ``size`` bytes: vector j has 16 i + 4 j + 0..3 in lane i."""
    whole = _padded(columns, _round_up(columns.shape[1], size), axis=1)
    return whole.reshape(len(whole), -1, size // 16, 4, 4).swapaxes(2, 3).reshape(whole.shape)


def _aligned(size: int) -> _Bytes:
    """Return an array that begins a cache line."""
    array = np.empty(size + 64, np.uint8)
    start = -array.ctypes.data % 64
    return array[start : start + size]
