"""Searching large code files, beside faiss, usearch and the mere reading of memory.

    python -m tests.benchmarks.search [--size 10_000_000] [--bits 48 64 128] [--kinds uniform clustered] [--rounds 7]

Several sizes show how time grows. On a machine with other work, --busy gives each method one thread and counts its
processor time: what others do costs it caches and memory bandwidth then, but no waiting.

Makes codes: uniform ones, or clustered as trained ones are: 88 % are one of ten class centres, the others have 1 to 9
of its bits flipped, each count as likely, as in the codes that the bundled weights give to the 50,000 training images
of CIFAR-10. Asks for the 10 nearest of 1 and of 64 queries that are drawn alike, method after method, round after
round, with other queries each time, and checks that all find the same distances. The 1 query is no class centre: there
a search ends as soon as it has met ten of it. "numpy alone" is the scan without the library in C. All use all cores.
What has taken 5 seconds is not run again. "start to answer" is a process that opens a code file, whose pages are in the
cache, and answers one query (not with --no-start-up, nor with more than ten million codes). Prints the medians in
milliseconds as a table, then as one line of JSON. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import faiss
import numpy as np
from usearch.index import MetricKind
from usearch.index import search as usearch_search

from drhn_cli.codes.entries import CONTENT_DTYPE, NOT_READ, STAMP_DTYPE, Entries
from drhn_cli.codes.manifest import CodeManifest
from drhn_cli.codes.writer import write_code_file
from drhn_cli.search import hamming
from tests.benchmarks.start_up import compiled

TOP_K = 10
N_QUERIES = 64
SLOW_SECONDS = 5.0
N_CLASSES, CENTRE_SHARE, MOST_FLIPS = 10, 0.88, 9
START_UP_ITEMS = 10_000_000
THREADS = os.cpu_count() or 1
FAISS_PROGRAM = """
import sys, numpy as np, faiss
index = faiss.read_index_binary(sys.argv[1])
query = np.frombuffer(bytes.fromhex(sys.argv[2]), np.uint8)[np.newaxis]
print(index.search(query, 10)[1])
"""

Codes = np.ndarray
Clock = Callable[[], float]


def uniform_codes(n: int, n_bits: int, rng: np.random.Generator) -> Codes:
    return rng.integers(0, 256, (n, n_bits // 8), dtype=np.uint8)


def class_centres(n_bits: int) -> Codes:
    return uniform_codes(N_CLASSES, n_bits, np.random.default_rng(0))


def clustered_codes(n: int, n_bits: int, rng: np.random.Generator) -> Codes:
    centres = class_centres(n_bits)
    codes = centres[rng.integers(0, N_CLASSES, n)]
    moved = np.flatnonzero(rng.random(n) > CENTRE_SHARE)
    n_flips = rng.integers(1, MOST_FLIPS + 1, len(moved))
    # With replacement, so that a bit may flip back: a few codes are nearer than told.
    for count in range(1, MOST_FLIPS + 1):
        rows = moved[n_flips >= count]
        bits = rng.integers(0, n_bits, len(rows))
        codes[rows, bits // 8] ^= (1 << (bits % 8)).astype(np.uint8)
    return codes


def hardest_first(queries: Codes, n_bits: int) -> Codes:
    """Put queries that are no class centre first: at a centre, a search ends as soon as it has met ten of it."""
    is_centre = (queries[:, np.newaxis] == class_centres(n_bits)).all(axis=2).any(axis=1)
    return queries[np.argsort(is_centre, kind="stable")]


def seconds_of(task: Callable[[], object], clock: Clock) -> float:
    started = clock()
    task()
    return clock() - started


def medians(
    tasks: dict[str, Callable[[int], object]], rounds: int, clock: Clock = time.perf_counter
) -> dict[str, float]:
    """Run each task in turn, round after round; return the median seconds of each."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(rounds):
        for name, task in tasks.items():
            if sum(times[name]) < SLOW_SECONDS:
                times[name].append(seconds_of(lambda task=task, turn=turn: task(turn), clock))  # type: ignore[misc]
    return {name: statistics.median(measured) for name, measured in times.items()}


def read_all(codes: Codes, threads: int) -> None:
    """Sum all bytes, eight at a time: what no search that looks at every code can do without."""
    words = codes.reshape(-1)[: codes.size // 8 * 8].view(np.uint64)
    if threads == 1:
        np.add.reduce(words)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(np.add.reduce, np.array_split(words, threads)))


def measure_warm(
    codes: Codes, queries: list[Codes], n_bits: int, rounds: int, with_usearch: bool, busy: bool
) -> dict[str, dict[str, float]]:
    """Time the methods in this process; each gets another slice of the queries in each round."""
    threads, clock = (1, time.process_time) if busy else (THREADS, time.perf_counter)
    flat = faiss.IndexBinaryFlat(n_bits)
    flat.add(codes)
    faiss.omp_set_num_threads(threads)

    def usearch(asked: Codes) -> np.ndarray:
        matches = usearch_search(codes, asked, TOP_K, MetricKind.Hamming, exact=True, threads=threads)
        return np.asarray(matches.distances, dtype=np.int64).reshape(len(asked), -1)

    def scan(asked: Codes) -> np.ndarray:
        with patch.object(hamming, "count_threads", return_value=1) if busy else nullcontext():
            results = hamming.search(codes, asked, n_bits=n_bits, top_k=TOP_K)
        return np.array([result.distances for result in results])

    methods: dict[str, Callable[[Codes], np.ndarray]] = {
        "drhn": scan,
        "drhn, numpy alone": patch.dict(os.environ, DRHN_NATIVE="0")(scan),
        "faiss IndexBinaryFlat": lambda asked: flat.search(asked, TOP_K)[0],
        **({"usearch, exact": usearch} if with_usearch else {}),
    }
    expected = methods["drhn"](queries[0])
    for name, method in methods.items():
        asked = queries[0][:2] if name.startswith("usearch") else queries[0]
        if not np.array_equal(method(asked), expected[: len(asked)]):
            raise SystemExit(f"{name} finds other distances")
    tasks: dict[str, Callable[[int], object]] = {"reading the codes": lambda _: read_all(codes, threads)}
    for name, method in methods.items():
        tasks[name] = lambda turn, method=method: method(queries[turn][:1])  # type: ignore[misc]
    one = medians(tasks, rounds, clock)
    del tasks["reading the codes"]
    for name, method in methods.items():
        tasks[name] = lambda turn, method=method: method(queries[turn])  # type: ignore[misc]
    many = medians(tasks, rounds, clock)
    return {"one": one, "many": many}


def measure_start_up(codes: Codes, query: Codes, n_bits: int, rounds: int) -> dict[str, float]:
    """Time processes that open a file and answer one query."""
    n = len(codes)
    names = np.char.zfill(np.arange(n).astype("S9"), 9)
    entries = Entries(
        blob=names.tobytes(),
        offsets=np.arange(n + 1, dtype=np.int64) * 9,
        stamps=np.zeros(n, STAMP_DTYPE),
        contents=np.full(n, NOT_READ, CONTENT_DTYPE),
    )
    manifest = CodeManifest(root="/photos", n_bits=n_bits, model="none", fingerprint="0" * 64)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "codes.bin")
        write_code_file(path, codes, entries, manifest)
        code = query.tobytes().hex()
        commands = {
            "drhn": [sys.executable, "-m", "drhn_cli", "query", "--code", code, str(path)],
            "faiss IndexBinaryFlat": [sys.executable, "-c", FAISS_PROGRAM, str(path), code],
        }

        environment = compiled(f"{folder}/bytecode")

        def run(command: list[str]) -> None:
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)

        for command in commands.values():
            run(command)
        return medians({name: lambda _, c=command: run(c) for name, command in commands.items()}, rounds)  # type: ignore[misc]


def table(results: list[dict[str, object]]) -> Iterator[str]:
    columns = ("1 query", "64 queries", "start to answer")
    yield "| codes | method | " + " | ".join(f"{column}, ms" for column in columns) + " |"
    yield "|---" * (2 + len(columns)) + "|"
    for result in results:
        label = f"{result['size']:,} {result['kind']}, {result['bits']} bits"
        one, many, start = (result.get(part) or {} for part in ("one", "many", "start_up"))
        for name in one:  # type: ignore[union-attr]
            cells = (f"{1e3 * part[name]:.2f}" if name in part else "" for part in (one, many, start))  # type: ignore[operator, index]
            yield f"| {label} | {name} | " + " | ".join(cells) + " |"
            label = ""


def processor() -> str:
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--bits", type=int, nargs="+", default=[48, 64, 128])
    parser.add_argument("--kinds", nargs="+", choices=["uniform", "clustered"], default=["uniform", "clustered"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-start-up", action="store_true")
    parser.add_argument("--busy", action="store_true", help="one thread each, processor time")
    parser.add_argument(
        "--no-usearch", action="store_true", help="it takes minutes for 64 queries of 100 million codes"
    )
    arguments = parser.parse_args()
    results: list[dict[str, object]] = []
    for n_bits, kind, size in itertools.product(arguments.bits, arguments.kinds, arguments.size):
        make = {"uniform": uniform_codes, "clustered": clustered_codes}[kind]
        rng = np.random.default_rng(1)
        codes = make(size, n_bits, rng)
        queries = [hardest_first(make(N_QUERIES, n_bits, rng), n_bits) for _ in range(arguments.rounds)]
        result: dict[str, object] = {"kind": kind, "bits": n_bits, "size": size}
        result |= measure_warm(codes, queries, n_bits, arguments.rounds, not arguments.no_usearch, arguments.busy)
        if not (arguments.no_start_up or arguments.busy) and size <= START_UP_ITEMS:
            result["start_up"] = measure_start_up(codes, queries[0][0], n_bits, arguments.rounds)
        results.append(result)
        print(*list(table([result]))[0 if len(results) == 1 else 2 :], sep="\n", flush=True)
    facts = {"cpu": processor(), "threads": 1 if arguments.busy else THREADS, "rounds": arguments.rounds}
    print(json.dumps({**facts, "busy": arguments.busy, "results": results}))


if __name__ == "__main__":
    main()
