"""Hashing a folder of photographs, beside merely decoding them, imagehash and torchvision.

    python -m tests.benchmarks.hashing [--pictures 600] [--threads N] [--rounds 3] [--only "drhn hash" ...]

Makes photographs of 1 to 12 megapixels (see ``photographs``), at most 48 different ones; the others are hard links to
these. Their pages are in the cache. Each round runs every method once, in turn, with this many threads on this many
processors (all by default):

    decoding alone      every JPEG at the scale that drhn asks libjpeg for, no more: the limit for what decodes them
    decoding in full    every JPEG at its full size
    drhn hash           the whole process, from its start to its end
    drhn, at work       the same in a process that runs already: the rate of a folder so large that the start is nothing
    imagehash.phash     of the pictures decoded in full, in a loop as its manual has it, and in threads
    torchvision         ImageFolder, DataLoader with this many processes, and a loop that runs the same network

Prints the medians of pictures a second, of their ratio to the limit in the same round and of the processor time a
picture as a table, and all as one line of JSON. On a busy machine only the ratios mean something. Needs the extra
`bench`.
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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import imagehash
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from drhn_cli.collection.plan import HashOptions
from drhn_cli.collection.update import update_collection
from drhn_cli.network.drhn import build_network
from drhn_cli.network.model import load_model
from tests.benchmarks.photographs import write_photographs
from tests.benchmarks.search import processor

N_DIFFERENT = 48
BATCH_SIZE = 256
LIMIT = "decoding alone"
PROGRAM = """
import os, sys
from drhn_cli.cli.app import run
status = run(sys.argv[1:])
if os.path.exists("/proc/self/status"):
    print(*(line for line in open("/proc/self/status") if line.startswith("VmHWM:")))
sys.exit(status)
"""
WEIGHTS = load_model(None)


class Cost(NamedTuple):
    """What one run of a method took: wall-clock and processor seconds, and its peak memory where it is a process."""

    seconds: float
    cpu_seconds: float
    peak_mb: float | None = None


def decode(path: Path, draft: bool) -> None:
    with Image.open(path) as image:
        side = WEIGHTS.preprocessing.min_decoded_side
        if draft and side:
            image.draft("RGB", (side, side))
        image.load()


def phash(path: Path) -> None:
    with Image.open(path) as image:
        imagehash.phash(image)


def in_threads(task: Callable[[Path], None], paths: list[Path], threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(task, paths):
            pass


def run_torchvision(root: Path, threads: int) -> None:
    preprocessing = WEIGHTS.preprocessing
    fit = transforms.Compose(
        [
            transforms.Resize(preprocessing.size),
            transforms.CenterCrop(preprocessing.size),
            transforms.ToTensor(),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )
    network = build_network(WEIGHTS, torch.device("cpu"))
    loader = DataLoader(ImageFolder(root, fit), batch_size=BATCH_SIZE, num_workers=threads)
    with torch.inference_mode():
        for pixels, _ in loader:
            _ = network(pixels) > WEIGHTS.config.threshold


def cost_here(task: Callable[[], object]) -> Cost:
    """Run something in this process and those that it starts and ends."""

    def cpu_seconds() -> float:
        usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    started, cpu_started = time.perf_counter(), cpu_seconds()
    task()
    return Cost(time.perf_counter() - started, cpu_seconds() - cpu_started)


def cost_of_drhn(arguments: list[str]) -> Cost:
    """Run the program in a process of its own, which tells its peak memory where the system does (Linux)."""
    told: list[str] = []

    def run() -> None:
        command = [sys.executable, "-c", PROGRAM, *arguments]
        told.extend(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split())

    cost = cost_here(run)
    return cost._replace(peak_mb=int(told[1]) * 1024 / 1e6) if told else cost


def write_links(root: Path, n: int) -> list[Path]:
    """Write n photographs into ``root/photos``, most of them hard links; the folder above is for ImageFolder."""
    different = write_photographs(root / "photos", min(n, N_DIFFERENT))
    links = [root / "photos" / f"{i:06d}.jpg" for i in range(len(different), n)]
    for i, link in enumerate(links):
        link.hardlink_to(different[i % len(different)])
    return [*different, *links]


def methods(root: Path, paths: list[Path], threads: int) -> dict[str, Callable[[], Cost]]:
    codes = root.parent / "codes.bin"
    options = HashOptions(rebuild=True, workers=threads, device="cpu")
    command = ["hash", str(root), "-o", str(codes), "--rebuild", "-q", "--workers", str(threads), "--device", "cpu"]
    return {
        LIMIT: lambda: cost_here(lambda: in_threads(partial(decode, draft=True), paths, threads)),
        "decoding in full": lambda: cost_here(lambda: in_threads(partial(decode, draft=False), paths, threads)),
        "drhn hash": lambda: cost_of_drhn(command),
        "drhn, at work": lambda: cost_here(lambda: update_collection([root], codes, options)),
        "imagehash.phash, a loop": lambda: cost_here(lambda: list(map(phash, paths))),
        "imagehash.phash, in threads": lambda: cost_here(lambda: in_threads(phash, paths, threads)),
        "torchvision": lambda: cost_here(lambda: run_torchvision(root, threads)),
    }


def summarise(costs: dict[str, list[Cost]], n: int) -> dict[str, dict[str, float]]:
    results = {}
    for name, runs in costs.items():
        ratios = [limit.seconds / run.seconds for limit, run in zip(costs[LIMIT], runs, strict=True)]
        results[name] = {
            "pictures_per_second": n / statistics.median(run.seconds for run in runs),
            "to_limit": statistics.median(ratios),
            "cpu_ms_per_picture": 1e3 * statistics.median(run.cpu_seconds for run in runs) / n,
            **({"peak_mb": max(run.peak_mb for run in runs)} if runs[0].peak_mb else {}),  # type: ignore[type-var]
        }
    return results


def table(results: dict[str, dict[str, float]]) -> Iterator[str]:
    yield "| method | pictures a second | to the limit | processor ms a picture | peak memory, MB |"
    yield "|---|---|---|---|---|"
    for name, result in results.items():
        memory = f"{result['peak_mb']:.0f}" if "peak_mb" in result else ""
        rate, ratio, cpu = (result[key] for key in ("pictures_per_second", "to_limit", "cpu_ms_per_picture"))
        yield f"| {name} | {rate:.1f} | {ratio:.2f} | {cpu:.1f} | {memory} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[], metavar="METHOD", help="these, beside decoding alone")
    arguments = parser.parse_args()
    threads = arguments.threads
    if hasattr(os, "sched_setaffinity"):  # no method may use more, whatever it starts
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "pictures")
        root.mkdir()
        paths = write_links(root, arguments.pictures)
        megabytes = sum(path.stat().st_size for path in paths) / 1e6
        tasks = methods(root, paths, threads)
        if unknown := set(arguments.only) - set(tasks):
            parser.error(f"no such method: {unknown.pop()}; there are {', '.join(tasks)}")
        chosen = {name: task for name, task in tasks.items() if name == LIMIT or name in (arguments.only or tasks)}
        costs: dict[str, list[Cost]] = {name: [] for name in chosen}
        for _ in range(arguments.rounds):
            for name, task in chosen.items():
                costs[name].append(task())
    results = summarise(costs, arguments.pictures)
    print(*table(results), sep="\n")
    facts = {"cpu": processor(), "threads": threads, "pictures": arguments.pictures, "megabytes": round(megabytes)}
    print(json.dumps({**facts, "rounds": arguments.rounds, "results": results}))


if __name__ == "__main__":
    main()
