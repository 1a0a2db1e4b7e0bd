"""The network in integers, in C: each kind of layer beside the most that the processor multiplies, and whole networks.

    python -m tests.benchmarks.integer [--rounds 40] [--networks lite0 lite2 residual]

Weights and pictures are random: the time does not depend on them. One thread, one picture a call. Whole networks have
the processor time, median and least, of half a second or more each, one after another. Layers are timed by the time
stamp counter of the processor: three quarters of the rounds took as long as is printed or longer, as other work may
interrupt them. "numpy" is the network in integers without the library in C; "torch float32" a network of this shape
in floats, channels last. The peak is that of the instructions alone (int8_peak.c). Needs a C compiler.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import torch

from drhn_cli.native.build import FLAGS, SOURCES, compile_library
from drhn_cli.network.config import Layer, NetworkConfig
from drhn_cli.network.drhn import load_torch
from drhn_cli.network.native_backend import KERNELS, NativeTrunk
from drhn_cli.network.numpy_backend import load_integer_trunk, use_one_thread
from drhn_cli.network.quantize import quantize
from tests.benchmarks.search import processor
from tests.conftest import CHECKOUT
from tests.network.random_layers import random_layers
from tests.networks import lite_config, random_model

NETWORKS = {
    "lite0": lite_config(0, input_size=224),
    "lite2": lite_config(2, input_size=224),
    "residual": NetworkConfig(
        n_classes=2, blocks=2, widths=(96, 96, 192, 192, 384, 384), input_size=64, stem_stride=2, bits=256
    ),
}
PEAKS = ("peak_avx2", "peak_avxvnni", "peak_avx512vnni")
BYTES = (32, 32, 64)
N_PEAK = 400_000


def seconds_of(task: Callable[[], object]) -> float:
    started = time.process_time()
    task()
    return time.process_time() - started


def multiply_adds(layer: Layer) -> int:
    return prod(layer.filter_shape) * layer.conv_side**2


def kind_of(layer: Layer) -> str:
    if layer.in_channels == 3:
        return "stem"
    if layer.groups > 1:
        return f"depthwise {layer.kernel}x{layer.kernel}, stride {layer.stride}"
    return f"{layer.kernel}x{layer.kernel}" + (", pooled" if layer.max_pool else "")


def peak_of(library: ctypes.CDLL, kernel: int, rounds: int) -> float:
    """Return multiply-adds a second."""
    peak = getattr(library, PEAKS[kernel])
    peak.argtypes = (ctypes.c_int64,)
    return 12 * BYTES[kernel] * N_PEAK / min(seconds_of(lambda: peak(N_PEAK)) for _ in range(rounds))


def seconds_of_layers(trunk: NativeTrunk, views: np.ndarray, ticks: ctypes.Array, rounds: int) -> np.ndarray:
    n_layers, started, rows = trunk._network.n_layers, time.perf_counter(), []
    for _ in range(10 * rounds):
        trunk(views)
        rows.append(list(ticks[: n_layers + 1]))
    ticks_a_second = (rows[-1][-1] - rows[0][0]) / (time.perf_counter() - started)
    return np.quantile(np.diff(np.array(rows, np.uint64), axis=1), 0.25, axis=0) / ticks_a_second


def print_kinds(config: NetworkConfig, library: ctypes.CDLL, peaks: dict[int, float], rounds: int) -> None:
    views = np.random.default_rng(0).integers(0, 256, (1, config.input_size, config.input_size, 3), dtype=np.uint8)
    layers = config.layers()
    ticks = (ctypes.c_uint64 * 256).in_dll(library, "ticks")
    trunks = {kernel: NativeTrunk(library, random_layers(config), kernel=kernel) for kernel in peaks}
    seconds = {kernel: seconds_of_layers(trunk, views, ticks, rounds) for kernel, trunk in trunks.items()}
    print("| layers | million multiply-adds | " + " | ".join(KERNELS[kernel] for kernel in trunks) + " |")
    print("|---" * (2 + len(trunks)) + "|")
    for kind in dict.fromkeys(map(kind_of, layers)):
        places = [i for i, layer in enumerate(layers) if kind_of(layer) == kind]
        total = sum(multiply_adds(layers[i]) for i in places)
        rates = {kernel: total / seconds[kernel][places].sum() for kernel in trunks}
        cells = [f"{rate / 1e9:.0f} ({rate / peaks[kernel]:.2f})" for kernel, rate in rates.items()]
        print(f"| {kind} | {total / 1e6:.1f} | " + " | ".join(cells) + " |")


def print_whole(name: str, tasks: dict[str, Callable[[], object]], rounds: int) -> None:
    times: dict[str, list[float]] = {task: [] for task in tasks}
    for task, run in tasks.items():  # one after the other, as each fills the caches
        while len(times[task]) < rounds or (len(times[task]) < 20 * rounds and sum(times[task]) < 500):
            times[task].append(1e3 * seconds_of(run))
    for task, measured in times.items():
        print(f"| {name} | {task} | {statistics.median(measured):.2f} | {min(measured):.2f} |", flush=True)


def tasks_of(config: NetworkConfig, trunks: dict[int, NativeTrunk]) -> dict[str, Callable[[], object]]:
    """Return what encodes one picture, by each kernel and by the others."""
    side = config.input_size
    views = np.random.default_rng(1).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    model = random_model(config)
    model = replace(model, preprocessing=replace(model.preprocessing, size=side))
    in_torch = load_torch(model, torch.device("cpu"), features=True)
    in_numpy = load_integer_trunk(quantize(model, np.repeat(views, 2, axis=0)))
    in_c = {f"C, {KERNELS[kernel]}": lambda trunk=trunk: trunk(views) for kernel, trunk in reversed(trunks.items())}
    return {**in_c, "numpy": lambda: in_numpy(views), "torch float32": lambda: in_torch(views)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    use_one_thread()
    with tempfile.TemporaryDirectory() as folder:
        parts = {"kernels": [CHECKOUT / SOURCES[1]], "peak": [Path(__file__).with_name("int8_peak.c")]}
        for part, sources in parts.items():
            flags = FLAGS if part == "peak" else (*FLAGS, "-include", str(Path(__file__).with_name("int8_clock.h")))
            if failure := compile_library(sources, Path(folder, part), flags):
                raise SystemExit(failure)
        library, peak_library = (ctypes.CDLL(str(Path(folder, part))) for part in parts)
    usable = [kernel for kernel in range(len(KERNELS)) if library.drhn_int8_can_run(kernel)]
    peaks = {kernel: peak_of(peak_library, kernel, arguments.rounds) for kernel in usable}
    print(processor() + "; peak: " + ", ".join(f"{KERNELS[k]} {peak / 1e9:.0f} G" for k, peak in peaks.items()))
    for name in arguments.networks:
        config = NETWORKS[name]
        print(f"\n{name}, G multiply-adds a second (share of the peak)\n")
        print_kinds(config, library, peaks, arguments.rounds)
        print("\n| network | by | ms a picture, median | least |\n|---|---|---|---|")
        trunks = {kernel: NativeTrunk(library, random_layers(config), kernel=kernel) for kernel in usable}
        print_whole(name, tasks_of(config, trunks), arguments.rounds)


if __name__ == "__main__":
    main()
