"""What each step of a scan takes, beside the scan and faiss: how far the scan is from what numpy can do.

    python -m tests.benchmarks.scan_steps [--size 10_000_000] [--bits 48 64 128 256] [--rounds 5]

Runs one operation of numpy after another over as many rows at a time as its scan does: the one that reads the codes
through all of them, the others in the cache; then a query by drhn, with its library in C and without, and by
faiss.IndexBinaryFlat, and 64 queries of the first 2,000,000 codes. Codes are uniform and begin at an odd byte, as in a
file. Counts processor time, one thread. Prints the least of the rounds, in turn, in nanoseconds a code and query: a
line of JSON for each length. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import faiss
import numpy as np

from drhn_cli.codes import compare
from drhn_cli.codes import search as scan
from drhn_cli.codes.words import copy_words, sum_counts

N_QUERIES, MANY_ROWS = 64, 2_000_000


def steps_of(codes: np.ndarray, query: np.ndarray, n_bits: int) -> tuple[int, dict[str, Callable[[int], object]]]:
    """Return how many rows a scan takes at a time, and what it does with those from a row on."""
    width, n_words = codes.shape[1], -(-n_bits // 64)
    rows = scan._CHUNK_WORDS // n_words
    words, counts = np.zeros((n_words, rows), np.uint64), np.zeros((n_words, rows), np.uint8)
    turned = np.zeros((rows, n_words), np.uint64)
    bits, total = np.full((n_words, 1), 0x0123456789ABCDEF, np.uint64), sum_counts(counts)
    tile, flat = np.tile(query, compare._TILE_ROWS), codes.reshape(-1)

    def turn(start: int) -> None:
        part = flat[start * width : (start + rows) * width].reshape(-1, len(tile))
        np.bitwise_xor(part, tile, out=turned.view(np.uint8).reshape(part.shape))

    def count_turned(_: int) -> None:
        for word, count in zip(turned.T, counts, strict=True):
            np.bitwise_count(word, out=count)

    many: dict[str, Callable[[int], object]] = {
        "XOR words": lambda _: np.bitwise_xor(words, bits, out=words),
        "count words": lambda _: np.bitwise_count(words, out=counts),
    }
    if n_words > 1:
        many["add"] = lambda _: sum_counts(counts)
    many["find the least"] = lambda _: total.argmin()
    if n_bits % 64 == 0:
        return rows, {"XOR bytes": turn, "count bytes": count_turned, **many}
    copy = {
        "copy words": lambda start: copy_words(codes[start : start + rows + 7], 64, out=words),
        "mask words": lambda _: np.bitwise_and(words, bits, out=words),
    }
    return rows, {**copy, **many}


def measure(codes: np.ndarray, n_bits: int, rounds: int) -> dict[str, float]:
    """Return the least nanoseconds a code and query of each step, of drhn and of faiss."""
    queries = np.random.default_rng(2).integers(0, 256, (rounds, N_QUERIES, codes.shape[1]), dtype=np.uint8)
    rows, steps = steps_of(codes, queries[0, 0], n_bits)
    n_read = len(codes) // rows * rows
    best: dict[str, float] = {}

    def take(name: str, n: int, task: Callable[[], object]) -> None:
        started = time.process_time()
        task()
        best[name] = min(best.get(name, np.inf), (time.process_time() - started) / n * 1e9)

    faiss.omp_set_num_threads(1)
    indexes = {}
    for label, part in (("", codes), ("64 queries: ", codes[:MANY_ROWS])):
        indexes[label] = (part, faiss.IndexBinaryFlat(n_bits))
        indexes[label][1].add(part)
    read = codes.reshape(-1)[7 : codes.size - codes.size % 8 - 1].view(np.uint64)  # from a multiple of 8 bytes on
    for asked in queries:
        take("reading", len(codes), lambda: np.add.reduce(read))
        for name, step in steps.items():
            take(name, n_read, lambda step=step: deque(map(step, range(0, n_read, rows)), maxlen=0))  # type: ignore[misc]
        for label, (part, index) in indexes.items():
            those = asked if label else asked[:1]
            n = len(part) * len(those)
            search = partial(scan.search, part, those, n_bits=n_bits, top_k=10, n_threads=1)
            take(label + "drhn", n, search)
            take(label + "drhn, numpy alone", n, patch.dict(os.environ, DRHN_NATIVE="0")(lambda s=search: s()))  # type: ignore[misc]
            take(label + "faiss", n, lambda i=index, q=those: i.search(q, 10))  # type: ignore[misc]
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=10_000_000)
    parser.add_argument("--bits", type=int, nargs="+", choices=[48, 64, 128, 256], default=[48, 64, 128, 256])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for n_bits in arguments.bits:
        width = n_bits // 8
        contents = np.random.default_rng(1).integers(0, 256, 33 + arguments.size * width, dtype=np.uint8)
        best = measure(contents[33:].reshape(-1, width), n_bits, arguments.rounds)
        print(json.dumps({"bits": n_bits, **{name: round(taken, 3) for name, taken in best.items()}}), flush=True)


if __name__ == "__main__":
    main()
