"""Hash damaged pictures of every format, and hold ``drhn hash`` to it that nothing but a picture is lost.

    python -m tests.benchmarks.fuzz --size 10000

Each picture is either in the code file or reported, on one line; nothing else reaches stderr; no picture takes long;
the process does not grow, and holds no more files open at the end than after the first round. What is damaged, and how,
depends on the seed and the picture's number alone. A crash names its round's folder, which stays.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from drhn_cli.cli.app import run
from drhn_cli.codes.reader import CodeFile
from drhn_cli.images import load
from drhn_cli.network.model import save_model
from tests.damage import damage, encode_all
from tests.networks import random_model

ROUND = 250
SLOWEST_SECONDS = 60.0
GROWTH_BYTES = 64 << 20


def write_damaged(folder: Path, numbers: range, seed: int) -> None:
    """Write a damaged picture for each number."""
    originals = [picture for size in (16, 100) for picture in encode_all(size)]
    for number in numbers:
        rng = np.random.default_rng((seed, number))
        (suffix, data), (_, other) = (originals[int(i)] for i in rng.integers(len(originals), size=2))
        (folder / f"{number:06d}{suffix}").write_bytes(damage(data, other, rng))


@contextmanager
def captured(descriptor: int) -> Iterator[list[bytes]]:
    """Collect the lines that are written to a descriptor, by libraries past Python, too."""
    lines: list[bytes] = []
    saved = os.dup(descriptor)
    with tempfile.TemporaryFile() as stream:
        os.dup2(stream.fileno(), descriptor)
        try:
            yield lines
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(saved, descriptor)
            os.close(saved)
            stream.seek(0)
            lines.extend(stream.read().splitlines())


def hash_folder(folder: Path, codes: Path, weights: Path) -> tuple[set[str], set[str]]:
    """Hash a folder; return the names that are in the code file, and those that were reported.

    Raises:
        AssertionError: the command failed, or wrote something else than a line for each failure.
    """
    arguments = ["hash", str(folder), "-o", str(codes), "--weights", str(weights), "--json", "--workers", "2"]
    with captured(1) as rows, captured(2) as lines:
        status = run(arguments)
    *failures, summary = (json.loads(row) for row in rows)
    assert status == 0, status
    assert len(lines) == len(failures) == summary["failed"], (lines, failures, summary)
    assert all(line.startswith(b"drhn: ") for line in lines), lines
    with CodeFile.open(codes) as file:
        file.verify()
        hashed = {os.path.basename(os.fsdecode(entry.path)) for entry in file}
    return hashed, {os.path.basename(failure["path"]) for failure in failures}


def resident_bytes() -> int:
    """Return the memory that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def fuzz(size: int, seed: int, place: Path) -> dict[str, float]:
    """Hash ``size`` damaged pictures in rounds; return what came of it.

    Raises:
        AssertionError: the program did what it must not.
    """
    slowest = 0.0

    def load_timed(*arguments: object, decode: object = load.decode_reduced, **settings: object) -> object:
        nonlocal slowest
        started = time.monotonic()
        try:
            return decode(*arguments, **settings)
        finally:
            slowest = max(slowest, time.monotonic() - started)

    load.decode_reduced = load_timed
    weights = place / "weights.npz"
    save_model(weights, random_model())
    n_hashed, held, open_files = 0, [], []
    for start in range(0, size, ROUND):
        numbers = range(start, min(start + ROUND, size))
        folder = place / f"round-{start}"
        folder.mkdir()
        write_damaged(folder, numbers, seed)
        # It says where each thread is, and ends the process, if this round does not end.
        faulthandler.dump_traceback_later(ROUND * SLOWEST_SECONDS / 10, exit=True)
        hashed, reported = hash_folder(folder, place / f"{start}.bin", weights)
        faulthandler.cancel_dump_traceback_later()
        assert not hashed & reported, hashed & reported
        assert hashed | reported == set(os.listdir(folder)), set(os.listdir(folder)) - hashed - reported
        n_hashed += len(hashed)
        held.append(resident_bytes())
        open_files.append(len(os.listdir("/proc/self/fd")))
        shutil.rmtree(folder)
    assert slowest < SLOWEST_SECONDS, slowest
    assert open_files[-1] <= open_files[0], open_files
    # The first rounds load decoders and fill the allocator's pools.
    grown = held[-1] - held[min(len(held) - 1, 3)]
    assert grown < GROWTH_BYTES, held
    return {
        "pictures": size,
        "hashed": n_hashed,
        "reported": size - n_hashed,
        "slowest_seconds": round(slowest, 2),
        "grown_MiB": round(grown / 2**20, 1),
        "resident_MiB": round(held[-1] / 2**20),
        "open_files": open_files[-1],
    }


def main() -> None:
    """Parse the command line and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=10_000, help="damaged pictures")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    faulthandler.enable()
    place = Path(tempfile.mkdtemp(prefix="drhn-fuzz-"))
    print(f"in {place}", file=sys.stderr)
    result = fuzz(options.size, options.seed, place)
    shutil.rmtree(place)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
