"""Loading and searching tables of ClickHouse, beside the code file.

    python -m tests.benchmarks.clickhouse [--size 100_000 ...] [--bits 48] [--kinds uniform clustered] [--rounds 7]

Makes a code file of codes as tests.benchmarks.search does, with paths like `photos/0012/000012345.jpg`, pushes it to a
table of the embedded engine in a temporary folder (or to --url, the URL of a table of this benchmark alone), then asks
both for the 10 nearest of one query, in turn, round after round, with another query each time, and checks that they
find the same pictures. The times are those of the search alone, without the start of a process or a connection. Prints
the rate of the push, what a row takes on disk, and median milliseconds of the table, of its two statements and of the
file as a table, then one line of JSON. Needs the extras `bench` and `clickhouse`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from drhn_cli.clickhouse.connection import Connection, TableAddress
from drhn_cli.clickhouse.push import push_codes
from drhn_cli.clickhouse.table import CodeTable
from drhn_cli.codes.manifest import CodeManifest
from drhn_cli.codes.reader import CodeFile
from drhn_cli.codes.writer import write_code_file
from drhn_cli.retrieval.gallery import FileGallery, Gallery, TableGallery
from tests.benchmarks.search import THREADS, TOP_K, Codes, clustered_codes, hardest_first, processor, uniform_codes
from tests.entries import entries_of

COLUMNS = ("push, rows/s", "bytes/row", "table, ms", "counting", "fetching", "file, ms")


def write_file(path: Path, codes: Codes) -> None:
    n = len(codes)
    paths = [b"photos/%04d/%09d.jpg" % (row // 1000 % 10_000, row) for row in range(n)]
    rng = np.random.default_rng(2)
    sizes, times = rng.integers(10_000, 5_000_000, n), 1_600_000_000_000_000_000 + rng.integers(0, 10**17, n)
    manifest = CodeManifest(root="/data", n_bits=8 * codes.shape[1], model="none", fingerprint="0" * 64)
    write_code_file(path, codes, entries_of(paths, sizes, times), manifest)


def bytes_a_row(address: TableAddress, n: int) -> float:
    """Return what a row takes on disk, with indexes."""
    with Connection(address) as connection:
        ((taken,),) = connection.query(
            "SELECT sum(bytes_on_disk) FROM system.parts WHERE active "
            f"AND database = '{address.database}' AND table = '{address.table}'"
        )
    return float(taken / n)


def time_searches(galleries: dict[str, Gallery], queries: Codes) -> dict[str, float]:
    """Return median seconds of one query by each, in turn; the first query warms up."""
    times: dict[str, list[float]] = {name: [] for name in galleries}
    for query in queries:
        answers = []
        for name, gallery in galleries.items():
            started = time.perf_counter()
            answers.append(gallery.search(query[np.newaxis], top_k=TOP_K, max_distance=None))
            times[name].append(time.perf_counter() - started)
        if any(answer != answers[0] for answer in answers):
            raise SystemExit("the table and the file find different pictures")
    return {name: statistics.median(measured[1:]) for name, measured in times.items()}


class Stopwatch:
    """Notes how long each statement of a table takes."""

    def __init__(self, table: CodeTable) -> None:
        self.seconds: list[float] = []
        self._query = table._connection.query
        table._connection.query = self  # type: ignore[method-assign, assignment]

    def __call__(self, statement: str) -> object:
        started = time.perf_counter()
        rows = self._query(statement)
        self.seconds.append(time.perf_counter() - started)
        return rows


def measure(kind: str, n_bits: int, size: int, rounds: int, url: str | None) -> dict[str, object]:
    make = {"uniform": uniform_codes, "clustered": clustered_codes}[kind]
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "codes.bin")
        write_file(path, make(size, n_bits, rng))
        queries = np.concatenate([hardest_first(make(64, n_bits, rng), n_bits)[:1] for _ in range(rounds + 1)])
        target = url or f"chdb:{folder}/table"
        pushed = push_codes(path, target)
        with CodeFile.open(path) as file, CodeTable.open(target) as table:
            # While the table is open: the embedded engine stays up.
            taken = bytes_a_row(TableAddress.parse(target), size)
            watch = Stopwatch(table)
            seconds = time_searches({"table": TableGallery(table), "file": FileGallery(file)}, queries)
            counting, fetching = (statistics.median(watch.seconds[start::2][1:]) for start in (0, 1))
    return {
        "kind": kind,
        "bits": n_bits,
        "size": size,
        "push_s": pushed.seconds,
        "bytes_a_row": taken,
        "table_s": seconds["table"],
        "counting_s": counting,
        "fetching_s": fetching,
        "file_s": seconds["file"],
    }


def table_row(result: dict[str, object]) -> str:
    cells = (
        f"{result['size'] / result['push_s']:,.0f}",  # type: ignore[operator]
        f"{result['bytes_a_row']:.1f}",
        *(f"{1e3 * result[name]:.1f}" for name in ("table_s", "counting_s", "fetching_s", "file_s")),  # type: ignore[operator]
    )
    return f"| {result['kind']}, {result['bits']} bits | {result['size']:,} | " + " | ".join(cells) + " |"


def header() -> Iterator[str]:
    yield "| codes | rows | " + " | ".join(COLUMNS) + " |"
    yield "|---" * (2 + len(COLUMNS)) + "|"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", default=[100_000])
    parser.add_argument("--bits", type=int, default=48)
    parser.add_argument("--kinds", nargs="+", choices=["uniform", "clustered"], default=["uniform", "clustered"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--url", help="a table; the codes of one size and kind at a time")
    arguments = parser.parse_args()
    print(*header(), sep="\n", flush=True)
    results = []
    for size in arguments.size:
        for kind in arguments.kinds:
            results.append(measure(kind, arguments.bits, size, arguments.rounds, arguments.url))
            print(table_row(results[-1]), flush=True)
    print(json.dumps({"cpu": processor(), "threads": THREADS, "rounds": arguments.rounds, "results": results}))


if __name__ == "__main__":
    main()
