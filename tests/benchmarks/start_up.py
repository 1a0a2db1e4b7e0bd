"""From typing a command to its answer, beside what importing alone costs.

    python -m tests.benchmarks.start_up [--rounds 9]

Draws pictures, hashes them, and runs each command in turn, round after round, as a process of its own; prints one JSON
object a command: the median of its wall-clock seconds, and the median over rounds of its ratio to `import torch` and to
`import numpy, typer`. The file cache is warm.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.drawing import write_class_folders

TORCH, NUMPY_TYPER = "import torch", "import numpy, typer"


def seconds_of(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    drhn = [sys.executable, "-m", "drhn_cli"]
    with tempfile.TemporaryDirectory() as root:
        pictures, codes = write_class_folders(Path(root, "pictures"), n=50), f"{root}/codes.bin"
        query = Path(root, "query.png")
        query.write_bytes((pictures / "circle" / "0000.png").read_bytes())
        subprocess.run([*drhn, "hash", str(pictures), "-o", codes, "-q"], check=True)
        commands = {
            TORCH: [sys.executable, "-c", TORCH],
            NUMPY_TYPER: [sys.executable, "-c", NUMPY_TYPER],
            "drhn --help": [*drhn, "--help"],
            "drhn info codes.bin": [*drhn, "info", codes],
            "drhn query --code HEX codes.bin": [*drhn, "query", "--code", "0" * 12, codes],
            "drhn query query.png codes.bin": [*drhn, "query", str(query), codes],
            "drhn hash pictures -o codes.bin (unchanged)": [*drhn, "hash", str(pictures), "-o", codes],
        }
        for command in commands.values():
            seconds_of(command)
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                times[name].append(seconds_of(command))
    for name, measured in times.items():
        ratios = {
            f"to {rival}": round(statistics.median(a / b for a, b in zip(measured, times[rival], strict=True)), 3)
            for rival in (TORCH, NUMPY_TYPER)
        }
        print(json.dumps({"command": name, "seconds": round(statistics.median(measured), 3), **ratios}))


if __name__ == "__main__":
    main()
