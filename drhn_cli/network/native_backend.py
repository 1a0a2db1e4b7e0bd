"""The network in integers in C, with the best instructions that the processor has.

``native/int8.c`` computes. Here weights are packed in the order in which it reads them, when a model is loaded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drhn_cli.native import load_library
from drhn_cli.network.config import Layer
from drhn_cli.network.integer import IntegerLayer, Pooled, integer_layers
from drhn_cli.network.model import Model

KERNELS = ("AVX2", "AVX-VNNI", "AVX512-VNNI")
"""The kernels of int8.c, in the order of their numbers."""

_VECTOR = (32, 32, 64)
"""Bytes of a vector of each kernel."""

_BLOCK, _POOLED_BLOCK = (2, 2, 4), (1, 1, 3)
"""Units of 16 channels that a tile has at most: with max pooling it has four pixels or more, so fewer channels fit."""

_HEADER = 3  # bias, scale and offset of a channel, before its weights


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


def load_native(model: Model) -> Pooled | None:
    """Return the trunk of a model in integers, (n, s, s, 3) uint8 views -> (n, n_features) int32 pooled sums.

    None: there is no library in C, or no kernel in it for this processor. Several threads may call it at once.
    """
    library = load_library()
    if library is None or library.drhn_int8_best_kernel() < 0:
        return None
    return NativeTrunk(library, integer_layers(model))


class NativeTrunk:
    """The trunk in C; ``kernel`` is the number of one that ``library.drhn_int8_can_run``, the best one by default."""

    def __init__(self, library: ctypes.CDLL, layers: Sequence[IntegerLayer], *, kernel: int | None = None) -> None:
        kernel = library.drhn_int8_best_kernel() if kernel is None else kernel
        self._side, self._n_features = layers[0].layer.in_side, layers[-1].layer.out_channels
        self._structures = (_Layer * len(layers))(*_describe(layers))
        self._pointed_to = _pack_all(layers, self._structures, kernel), *(one.pad for one in layers)
        streams = [one.out_side**2 * one.out_pitch for one in self._structures if one.writes_stream]
        sizes = {
            "picture_size": _round_up(3 * self._structures[0].in_width ** 2 + 64, 64),  # reads reach beyond the end
            "activations_size": _round_up(max(one.out_width**2 * one.out_pitch for one in self._structures) + 64, 64),
            "stream_size": _round_up(2 * max(streams), 64),
        }
        self._workspace_size = 64 + sum(sizes.values()) + sizes["activations_size"] + sizes["stream_size"]
        self._workspace_size += 4 * self._structures[-1].out_pitch
        self._spare: list[NDArray[np.uint8]] = []  # workspaces that no call has
        self._network = _Network(
            kernel=kernel, n_layers=len(layers), n_features=self._n_features, layers=self._structures, **sizes
        )
        self._pooled_sums = library.drhn_int8_pooled_sums
        addresses = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)
        self._pooled_sums.argtypes = (ctypes.POINTER(_Network), *addresses)
        self._pooled_sums.restype = None

    def __call__(self, views: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Return pooled sums: (n, s, s, 3) uint8 -> (n, n_features) int32."""
        views = np.ascontiguousarray(views, np.uint8).reshape(len(views), self._side, self._side, 3)
        sums = np.empty((len(views), self._n_features), np.int32)
        try:
            workspace = self._spare.pop()
        except IndexError:
            workspace = _aligned(self._workspace_size)
        # ctypes releases the interpreter lock meanwhile
        self._pooled_sums(self._network, views.ctypes.data, len(views), workspace.ctypes.data, sums.ctypes.data)
        self._spare.append(workspace)
        return sums


def _describe(layers: Sequence[IntegerLayer]) -> list[_Layer]:
    """Return what int8.c must know of each layer, but for the weights."""
    structures: list[_Layer] = []
    followers = [one.layer for one in layers[1:]]
    for one, following in zip(layers, [*followers, None], strict=True):
        layer = one.layer
        in_pitch = structures[-1].out_pitch if structures else layer.in_channels
        out_before, out_width = _border(following) if following else (0, layer.out_side)
        written = [before.out_pitch for before in structures if before.writes_stream]
        structures.append(
            _Layer(
                depthwise=layer.groups > 1,
                kernel=layer.kernel,
                stride=layer.stride,
                before=layer.padding[0],
                in_side=layer.in_side,
                in_width=_border(layer)[1],
                in_pitch=in_pitch,
                out_pitch=_round_up(layer.out_channels, 16),
                out_side=layer.out_side,
                out_before=out_before,
                out_width=out_width,
                row_stride=_border(layer)[1] * in_pitch,
                max_pool=layer.max_pool,
                relu=layer.activation == "relu",
                writes_stream=one.writes_stream,
                closes_block=layer.closes_block,
                is_last=following is None,
                shortcut_pool=layer.shortcut_pool,
                shortcut_pitch=written[-1] if written else 0,
                zero_point=one.zero_point,
                pad=one.pad.ctypes.data,
                next_scale=one.next_scale,
            )
        )
    return structures


def _border(layer: Layer) -> tuple[int, int]:
    """Return the rows above the input of a layer in memory, and its width: depthwise filters need no border there."""
    before, after = layer.padding if layer.groups == 1 else (0, 0)
    return before, before + layer.in_side + after


def _pack_all(layers: Sequence[IntegerLayer], structures: ctypes.Array[_Layer], kernel: int) -> NDArray[np.int32]:
    """Pack the weights of all layers, one after another, and tell the structures where they are."""
    packed = []
    for one, structure in zip(layers, structures, strict=True):
        pack = _pack_depthwise if structure.depthwise else _pack_dense
        packed.append(pack(one, structure, kernel))
    whole = _aligned(4 * sum(array.size for array in packed)).view(np.int32)
    np.concatenate(packed, out=whole)
    ends = accumulate(array.nbytes for array in packed)
    for structure, array, end in zip(structures, packed, ends, strict=True):
        structure.packed = whole.ctypes.data + end - array.nbytes
    return whole


def _pack_dense(one: IntegerLayer, structure: _Layer, kernel: int) -> NDArray[np.int32]:
    """Return, block by block, bias, scale, offset and each four weights of a filter for all channels of the block."""
    layer = one.layer
    pitch = structure.in_pitch if layer.kernel > 1 else layer.in_channels
    rows = _padded(one.weight, pitch).reshape(layer.out_channels, layer.kernel, -1)
    rows = _padded(rows, _round_up(rows.shape[2], 4))
    structure.n_rows, structure.row_bytes = rows.shape[1:]
    structure.block = (_POOLED_BLOCK if layer.max_pool else _BLOCK)[kernel]
    columns = _columns(one, rows)
    n_units = structure.out_pitch // 16
    blocks = np.array_split(np.arange(n_units), -(-n_units // structure.block))  # as int8.c divides them
    return np.concatenate([columns[:, 16 * block[0] : 16 * block[-1] + 16].ravel() for block in blocks])


def _pack_depthwise(one: IntegerLayer, structure: _Layer, kernel: int) -> NDArray[np.int32]:
    """Return, vector by vector, bias, scale, offset and weights of the channels that int8.c zips into it."""
    layer, size = one.layer, _VECTOR[kernel]
    weight = one.weight[..., 0].swapaxes(1, 2)  # (channels, column, row)
    n_rows = 1 if layer.kernel == 3 and layer.stride == 2 else 2
    groups = -(-((n_rows - 1) * layer.stride + layer.kernel) // 4)
    shifted = np.zeros((len(weight), n_rows, layer.kernel, 4 * groups), np.int8)
    for row in range(n_rows):  # the second row of outputs reads zipped rows that begin one stride later
        shifted[:, row, :, row * layer.stride : row * layer.stride + layer.kernel] = weight
    columns = _columns(one, shifted)
    columns = _padded(columns, _round_up(columns.shape[1], size))
    structure.filter_vectors = len(columns) - _HEADER
    zipped = columns.reshape(len(columns), -1, size // 16, 4, 4).swapaxes(2, 3)  # 16 i + 4 j + e: from (i, j) to (j, i)
    return zipped.reshape(len(columns), -1, size // 4).swapaxes(0, 1).ravel()


def _columns(one: IntegerLayer, weight: NDArray[np.int8]) -> NDArray[np.int32]:
    """Return a column for each output channel, zeros up to a multiple of 16: bias, scale, offset, weights by fours."""
    fours = np.ascontiguousarray(weight).reshape(len(weight), -1).view(np.int32)
    offset = np.zeros_like(one.bias) if one.offset is None else one.offset
    header = [one.bias, np.ascontiguousarray(one.scale).view(np.int32), offset]
    return _padded(np.vstack([*header, fours.T]), _round_up(len(weight), 16))


def _round_up(n: int, step: int) -> int:
    return -(-n // step) * step


def _padded(array: NDArray[Any], n: int) -> NDArray[Any]:
    """Append zeros to the last axis, up to a length of n."""
    if array.shape[-1] == n:
        return array
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, n - array.shape[-1])])


def _aligned(size: int) -> NDArray[np.uint8]:
    """Return an array that begins where a cache line does."""
    array = np.empty(size + 64, np.uint8)
    start = -array.ctypes.data % 64
    return array[start : start + size]
