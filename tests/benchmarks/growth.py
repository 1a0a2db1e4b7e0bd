"""How the time of hashing grows with the number of pictures.

    python -m tests.benchmarks.growth [--pictures 100 1000 10000 100000] [--side 256]

Links 48 drawn photographs of this many pixels a side under as many names, a thousand to a sub-folder, and hashes the
folder with the bundled weights; then once more with nothing changed; then with one picture more. Each run is a process
of its own. Prints a table of seconds and pictures a second, and all as one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.memory import link_pictures
from tests.benchmarks.photographs import write_photographs
from tests.benchmarks.search import processor

N_DIFFERENT = 48


def seconds_of(*arguments: object) -> float:
    """Return how long the program takes, from its start to its end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "drhn_cli", *map(str, arguments)], check=True)
    return time.perf_counter() - started


def measure(place: Path, originals: list[Path], n: int) -> dict[str, float]:
    """Hash n pictures, again, and with one more."""
    folder = place / f"{n}"
    link_pictures(folder, originals, n)
    command = ("hash", folder, "-o", place / f"{n}.bin", "-q")
    first, again = seconds_of(*command), seconds_of(*command)
    os.link(originals[0], folder / "another.jpg")
    return {"pictures": n, "seconds": first, "nothing changed": again, "one more": seconds_of(*command)}


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[100, 1000, 10_000, 100_000])
    parser.add_argument("--side", type=int, default=256)
    arguments = parser.parse_args()
    results = []
    print("| pictures | first run, s | pictures a second | nothing changed, s | one more, s |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="drhn-growth-") as root:
        originals = write_photographs(Path(root, "originals"), N_DIFFERENT, sizes=[(arguments.side, arguments.side)])
        for n in arguments.pictures:
            result = measure(Path(root), originals, n)
            results.append(result)
            first, again, more = (result[key] for key in ("seconds", "nothing changed", "one more"))
            print(f"| {n:,} | {first:.2f} | {n / first:.1f} | {again:.2f} | {more:.2f} |", flush=True)
    print(json.dumps({"cpu": processor(), "cores": os.cpu_count(), "side": arguments.side, "results": results}))


if __name__ == "__main__":
    main()
