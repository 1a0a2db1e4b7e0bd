"""From typing a command to its answer, beside what importing alone costs.

    python -m tests.benchmarks.start_up [--rounds 9] [--size 1_000_000] [--busy]

Draws pictures, hashes them, makes a code file of so many random codes, and runs each command in turn, round after
round, as a process of its own; prints one JSON object a command: the median of its wall-clock seconds, and the median
over rounds of its ratio to `import torch` and to `import numpy, typer`. The file cache is warm, and Python's
bytecode is there, as pip leaves it with what it installs. On a machine with other work, --busy counts processor time
instead, on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from drhn_cli.codes.manifest import CodeManifest
from drhn_cli.codes.pack import code_size
from drhn_cli.codes.writer import write_code_file
from drhn_cli.network.model import Model, load_model
from tests.drawing import write_class_folders
from tests.entries import entries_of

TORCH, NUMPY_TYPER = "import torch", "import numpy, typer"


def processor_seconds() -> float:
    """Return what the processes that were started and have ended took of the processor."""
    taken = resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken.ru_utime + taken.ru_stime


def compiled(folder: str) -> dict[str, str]:
    """Return an environment in which Python keeps bytecode in a folder, whatever it is told in this one."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return environment | {"PYTHONPYCACHEPREFIX": folder}


def seconds_of(command: list[str], clock: Callable[[], float], environment: dict[str, str]) -> float:
    started = clock()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return clock() - started


def write_random_codes(path: Path, n: int, weights: Model) -> None:
    """Write a code file as the weights make it, of n pictures that are not there."""
    n_bits = weights.config.bits
    codes = np.random.default_rng(0).integers(0, 256, (n, code_size(n_bits)), dtype=np.uint8)
    zeros = np.zeros(n, np.int64)
    entries = entries_of([b"%09d.jpg" % i for i in range(n)], zeros, zeros, zeros)
    manifest = CodeManifest(
        root="/photos",
        n_bits=n_bits,
        model=weights.name,
        fingerprint=weights.fingerprint,
        preprocessing=weights.preprocessing.to_dict(),
    )
    write_code_file(path, codes, entries, manifest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", type=int, default=1_000_000, help="codes in the large code file")
    parser.add_argument("--busy", action="store_true", help="processor time, one thread")
    arguments = parser.parse_args()
    clock = processor_seconds if arguments.busy else time.perf_counter
    if arguments.busy:
        os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    drhn = [sys.executable, "-m", "drhn_cli"]
    weights = load_model(None)
    n_digits = 2 * code_size(weights.config.bits)
    with tempfile.TemporaryDirectory() as root:
        pictures, codes = write_class_folders(Path(root, "pictures"), n=50), f"{root}/codes.bin"
        query = Path(root, "query.png")
        query.write_bytes((pictures / "circle" / "0000.png").read_bytes())
        large = Path(root, "large.bin")
        write_random_codes(large, arguments.size, weights)
        subprocess.run([*drhn, "hash", str(pictures), "-o", codes, "-q"], check=True)
        commands = {
            TORCH: [sys.executable, "-c", TORCH],
            NUMPY_TYPER: [sys.executable, "-c", NUMPY_TYPER],
            "drhn --help": [*drhn, "--help"],
            "drhn info codes.bin": [*drhn, "info", codes],
            "drhn query --code HEX codes.bin": [*drhn, "query", "--code", "0" * n_digits, codes],
            "drhn query query.png codes.bin": [*drhn, "query", str(query), codes],
            f"drhn query query.png large.bin --top 10 ({arguments.size} codes)": [
                *(*drhn, "query", str(query), str(large), "--top", "10")
            ],
            "drhn hash pictures -o codes.bin (unchanged)": [*drhn, "hash", str(pictures), "-o", codes],
        }
        environment = compiled(f"{root}/bytecode")
        for command in commands.values():
            seconds_of(command, clock, environment)
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(arguments.rounds):
            for name, command in commands.items():
                times[name].append(seconds_of(command, clock, environment))
    for name, measured in times.items():
        ratios = {
            f"to {rival}": round(statistics.median(a / b for a, b in zip(measured, times[rival], strict=True)), 3)
            for rival in (TORCH, NUMPY_TYPER)
        }
        print(json.dumps({"command": name, "seconds": round(statistics.median(measured), 3), **ratios}))


if __name__ == "__main__":
    main()
