"""Load a code file into a table, in slices that arrive once however often they are sent."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from operator import itemgetter

from drhn_cli.clickhouse.connection import Connection, TableAddress
from drhn_cli.clickhouse.schema import DROPPED, LIVE, LOADING, ROW_COLUMNS, PushedFile, Schema, live_files, pack_rows
from drhn_cli.codes.reader import CodeFile
from drhn_cli.errors import AnyPath, TableError, about, printable
from drhn_cli.progress import SILENT, Progress

SLICE_ROWS = 1_000_000
_SLICE_BYTES = 128 << 20  # a slice of long codes has fewer rows
_PATH_BYTES = 100  # estimate of a row without its code
_SETTINGS = {
    "async_insert": 0,  # acknowledge only what is stored
    "distributed_foreground_insert": 1,  # the same on every shard
    "insert_deduplicate": 1,
    "max_insert_block_size": 2 * SLICE_ROWS,  # a slice is one block, which is inserted whole or not at all
    "min_insert_block_size_rows": 2 * SLICE_ROWS,
    "min_insert_block_size_bytes": 4 * _SLICE_BYTES,
}


@dataclass(frozen=True, kw_only=True)
class PushSummary:
    """What was pushed.

    Attributes:
        name: of the code file in the table; bytes that are not UTF-8 are surrogates.
        n_items: codes of the file.
        n_sent: rows that were sent; the others were there already.
        n_files: code files in the table now.
        n_table: codes in the table now.
        seconds: wall-clock time.
    """

    name: str
    n_items: int
    n_sent: int
    n_files: int
    n_table: int
    seconds: float = 0.0


def push_codes(codes_path: AnyPath, url: str, *, name: str | None = None, progress: Progress = SILENT) -> PushSummary:
    """Load a code file into a table, where it replaces what was pushed with the same name before.

    Args:
        codes_path: the code file.
        url: of the table, which is made if there is none.
        name: of the code file in the table. None: its absolute path.
        progress: its steps are rows.

    Raises:
        CodeFileError: the code file cannot be read, or is damaged.
        ConfigError: not a table's URL, or packages are missing.
        TableError: the table does not answer, is foreign, or holds codes of another model.
    """
    clock = time.monotonic()
    address = TableAddress.parse(url)
    name = os.path.abspath(os.fsdecode(codes_path)) if name is None else name
    with CodeFile.open(codes_path) as file:
        file.verify(index=False)  # rows of a table have no checksum
        with Connection(address, may_create=True) as connection, about(str(address)):
            summary = load_codes(file, connection, os.fsencode(name), progress)
    return replace(summary, seconds=time.monotonic() - clock)


def load_codes(file: CodeFile, connection: Connection, name: bytes, progress: Progress = SILENT) -> PushSummary:
    """Load an open code file, and make the table if there is none; the summary has no time yet.

    Readers see the previous rows until the last row has arrived. Slices that an interrupted push has sent are not sent
    again. Errors do not name the table.
    """
    schema = Schema(connection)
    schema.create(file.n_bits)
    pushed = schema.read_files()
    live = live_files(pushed)
    _require_alike(file, live)
    generation = int.from_bytes(hashlib.sha256(name + b"\0" + file.digest).digest()[:8])
    n_items, version = len(file), max((each.version for each in pushed), default=0) + 1
    push = PushedFile(name, generation, LOADING, version, n_items, file.manifest)
    if not any(each.generation == generation and each.state != DROPPED for each in pushed):
        schema.write_file(push)
    n_sent = send_missing(file, schema, generation, progress)
    if not any((each.name, each.generation, each.manifest) == (name, generation, file.manifest) for each in live):
        schema.write_file(replace(push, state=LIVE, version=version + 1))
    for each in pushed:
        if each.name == name and each.generation != generation and each.state != DROPPED:
            schema.drop_generation(each.generation)
            schema.write_file(replace(each, state=DROPPED, version=version + 1))
    live = live_files(schema.read_files())
    n_table = sum(each.n_items for each in live)
    return PushSummary(name=os.fsdecode(name), n_items=n_items, n_sent=n_sent, n_files=len(live), n_table=n_table)


def send_missing(file: CodeFile, schema: Schema, generation: int, progress: Progress) -> int:
    """Send the slices of a push that the table lacks, and return the number of rows sent.

    Raises:
        TableError: rows are missing afterwards, or came twice.
    """
    n_items = len(file)
    n_rows = min(SLICE_ROWS, max(1, _SLICE_BYTES // (file.codes.shape[1] + _PATH_BYTES)))  # depends only on the file
    sizes: dict[int, int] = {start // n_rows: min(n_rows, n_items - start) for start in range(0, n_items, n_rows)}
    counted = f"intDiv(id, {n_rows})", f"generation = {generation}"
    counts = schema.count_rows(*counted)
    if any(count > sizes.get(place, 0) for place, count in counts.items()):
        # Rows came twice, because the table no longer recognizes blocks that it has.
        schema.drop_generation(generation)
        counts = {}
    progress.phase("pushing", n_items)
    whole = {place for place, size in sizes.items() if counts.get(place) == size}
    n_sent = n_items - sum(sizes[place] for place in whole)
    for place, parts in groupby(_packed_rows(file, generation, n_rows, whole), key=itemgetter(0)):
        rows = b"".join(part for _, part in parts)
        if rows:
            token = {"insert_deduplication_token": f"{generation}-{n_rows}-{place}"}
            schema.connection.insert(schema.rows, ROW_COLUMNS, rows, {**_SETTINGS, **token})
        progress.advance(sizes[place])
    if n_sent and schema.count_rows(*counted) != sizes:
        problem = "not all rows have arrived, or others push the same name"
        raise TableError(problem, hint="push again; readers still see what was there before")
    return n_sent


def _packed_rows(file: CodeFile, generation: int, n_rows: int, skipped: set[int]) -> Iterator[tuple[int, bytes]]:
    """Yield rows and the number of the slice that they belong to, no rows for a slice that is skipped."""
    row = 0
    for codes, entries, _ in file.blocks():
        cuts = {0, *range(-row % n_rows, len(entries), n_rows), len(entries)}  # where slices begin in the block
        for start, stop in pairwise(sorted(cuts)):
            place = row // n_rows
            is_sent = place in skipped
            yield place, b"" if is_sent else pack_rows(generation, row, codes[start:stop], entries.part(start, stop))
            row += stop - start


def _require_alike(file: CodeFile, others: list[PushedFile]) -> None:
    for other in others:
        if (other.manifest.fingerprint, other.manifest.n_bits) != (file.manifest.fingerprint, file.n_bits):
            problem = f"the table holds codes of another model, those of {printable(other.name)}"
            expected, found = (
                f"{m.model} ({m.fingerprint[:12]}), {m.n_bits} bits" for m in (other.manifest, file.manifest)
            )
            hint = "push to another table, or hash the pictures with that model"
            raise TableError(problem, expected=expected, found=found, hint=hint)
