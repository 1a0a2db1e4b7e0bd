"""The most memory that hashing and searching take, at growing sizes.

    python -m tests.benchmarks.memory [--pictures 100000] [--codes 10000000]

Links a few hundred drawn pictures of 32 x 32 pixels under many names and hashes them with tiny untrained weights, as
the bundled ones take long; then makes a code file of random codes and searches it. Each command is a process of its
own, at a tenth of the size and at the whole. Prints one JSON object a command: the most memory that was resident,
mapped pages of the code file included, and the seconds. Fails where a command takes more than README.md here
says. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from drhn_cli.codes import layout
from drhn_cli.codes.manifest import CodeManifest
from drhn_cli.codes.writer import Block, write_blocks
from drhn_cli.network.model import save_model
from tests.drawing import write_class_folders
from tests.entries import entries_of
from tests.networks import random_model, tiny_config

N_BITS = 48

# What README.md promises, MiB: in any case, and for each million pictures or codes.
LIMITS = {"hash": (700, 1000), "hash, nothing changed": (80, 1000), "query": (130, 15)}

# The peak of the program alone: what wait4 tells of a child includes its parent's memory at the fork.
SCRIPT = """
import sys
from drhn_cli.cli.app import run
status = run(sys.argv[1:])
with open("/proc/self/status") as lines:
    print(*(line.split()[1] for line in lines if line.startswith("VmHWM:")), file=sys.stderr)
sys.exit(status)
"""


def measure(name: str, size: int, *arguments: object) -> None:
    """Run a command, print what it took, and check it against its limit."""
    started = time.monotonic()
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True)
    peak = int(done.stderr.split()[-1]) / 1024
    base, per_million = LIMITS[name.split(" with ")[0]]
    limit = base + per_million * size / 1e6
    told = {"command": name, "size": size, "peak_MiB": round(peak), "limit_MiB": round(limit)}
    print(json.dumps({**told, "seconds": round(time.monotonic() - started, 1)}), flush=True)
    if peak > limit:
        sys.exit(f"{name}, {size}: {peak:.0f} MiB are more than {limit:.0f}")


def link_pictures(folder: Path, originals: list[Path], n: int) -> None:
    """Fill a folder with n names of the same pictures, a thousand to a sub-folder."""
    for number in range(n):
        inner = folder / f"{number // 1000:04d}"
        if number % 1000 == 0:
            inner.mkdir(parents=True)
        os.link(originals[number % len(originals)], inner / f"{number:07d}.png")


def write_random_codes(path: Path, n: int) -> None:
    """Write a code file of n random codes, a block at a time."""
    rng = np.random.default_rng(0)

    def blocks() -> Iterator[Block]:
        for start in range(0, n, layout.BLOCK_ROWS):
            numbers = range(start, min(start + layout.BLOCK_ROWS, n))
            paths = [b"folder-%05d/%09d.jpg" % (number // 10_000, number) for number in numbers]
            codes = rng.integers(0, 256, (len(numbers), N_BITS // 8), dtype=np.uint8)
            no_copy_codes = np.empty((len(numbers), 0), np.uint8)
            yield Block(codes, entries_of(paths, numbers, numbers, numbers), no_copy_codes)

    manifest = CodeManifest(root="/photos", n_bits=N_BITS, model="random", fingerprint="0" * 64)
    write_blocks(path, blocks(), n, manifest)


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--codes", type=int, default=10_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="drhn-memory-") as root:
        place = Path(root)
        save_model(place / "weights.npz", random_model(tiny_config(bits=N_BITS, input_size=32)))
        originals = sorted(write_class_folders(place / "originals", n=75).rglob("*.png"))
        for n in (options.pictures // 10, options.pictures):
            link_pictures(place / f"{n}", originals, n)
            hash_ = ("hash", place / f"{n}", "-o", place / f"{n}.bin", "--weights", place / "weights.npz", "-q")
            measure("hash", n, *hash_)
            measure("hash, nothing changed", n, *hash_)
        codes = np.random.default_rng(1).integers(0, 256, (64, N_BITS // 8), dtype=np.uint8)
        some = [part for code in codes for part in ("--code", code.tobytes().hex())]
        for n in (options.codes // 10, options.codes):
            path = place / "codes.bin"
            write_random_codes(path, n)
            measure("query", n, "query", *some[:2], path)
            measure("query with 64 codes", n, "query", *some, path)


if __name__ == "__main__":
    main()
