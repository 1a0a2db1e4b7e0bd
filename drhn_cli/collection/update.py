"""Bring a code file up to date with its pictures: read it, find pictures, plan, hash, and write."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.entries import CONTENT_DTYPE, UNKNOWN_TIME, Entries
from drhn_cli.codes.manifest import CodeManifest, LastRun, Shard
from drhn_cli.codes.writer import Block, lock_code_file, write_code_file
from drhn_cli.collection.plan import HashOptions, Stored, UpdatePlan, plan_update
from drhn_cli.collection.sources import find_sources, unread_sources
from drhn_cli.collection.stored import COPY_CODES, read_stored
from drhn_cli.errors import AnyPath, DrhnError, printable
from drhn_cli.images.decode import DecodeOptions
from drhn_cli.images.load import LoadedPicture, Unreadable, load_files
from drhn_cli.images.source import ImageFile, is_gone, is_there
from drhn_cli.network.copy_code import dct_signs
from drhn_cli.network.devices import check_device
from drhn_cli.network.encoder import Encoder
from drhn_cli.paths import absolute_path
from drhn_cli.progress import SILENT, Progress
from drhn_cli.threads import ThreadPool, n_processors

SAVE_EVERY_SECONDS = 60.0
"""A killed run loses about this much work at most."""

_TOO_FEW_FOR_GPU = 500
"""So few pictures are hashed before a GPU is ready, which takes some seconds."""

_MAX_SOURCES = 1000


@dataclass(kw_only=True)
class HashSummary:
    """What a run did. It grows while the run goes on.

    Attributes:
        added: pictures hashed for the first time.
        changed: pictures hashed again because they had changed.
        unchanged: pictures whose code stayed.
        moved: pictures that were found under another path and whose code stayed.
        removed: entries dropped because their file is gone, or can no longer be read.
        kept: entries that this run left as they were: outside its sources, under one that cannot be read, or of a
            file that changed or vanished during the run.
        n_items: codes in the file now.
        failures: what could not be hashed, with its reason.
        skipped: how many files of the folders and archives were not looked at, by what they are, and what the pictures
            that were decoded hold besides the one that counts.
        found_any: whether a picture was found, of any shard.
        unread: the sources that are not there, or of which nothing could be read, as absolute paths.
        seconds: wall-clock time.
    """

    added: int = 0
    changed: int = 0
    unchanged: int
    moved: int
    removed: int
    kept: int
    n_items: int = 0
    failures: list[DrhnError] = field(repr=False)
    skipped: Mapping[str, int] = field(default_factory=dict)
    found_any: bool = False
    unread: set[bytes] = field(default_factory=set, repr=False)
    seconds: float = 0.0


def update_collection(
    sources: Sequence[AnyPath], codes_path: AnyPath, options: HashOptions, progress: Progress = SILENT
) -> HashSummary:
    """Bring a code file up to date with its pictures.

    A file with the size, times and inode that the code file has for it keeps its code. Where only size and time agree,
    at its path or at one that is gone, the file is read, and keeps the code if its digest is the same. Pictures of
    which an older code file does not note all are read, too, and keep their codes. Entries of deleted files are
    dropped, except below a source or folder that cannot be read or a source that is now empty. Entries outside the
    sources are kept. The code file is saved periodically, and when the run is interrupted.

    Args:
        sources: files and folders.
        codes_path: the code file; it need not exist yet.
        options: how pictures are found and hashed.
        progress: counts pictures found ("listing") and read ("hashing"), and gets the files that could not be hashed,
            and notes: how many pictures an older code file makes it read, and when this waits for another run that
            writes the code file.

    Raises:
        SourceError: no source can be read, or nothing of the code file is below ``root``.
        ConfigError: ``root`` without a code file to move, or an unknown device.
        CodeFileError: the code file is damaged, was made with another model or code length, is locked, or cannot be
            written.
        WeightsError: the weights cannot be read.
    """
    clock = time.monotonic()
    check_device(options.device)
    progress.phase("listing")
    with lock_code_file(codes_path, progress):
        stored = read_stored(codes_path, options)
        found = find_sources(sources, options, stored, progress)
        for failure in found.search.failures:
            progress.failure(failure)
        stays = is_gone if options.keep_missing else lambda _: False
        plan = plan_update(stored, found, is_there=is_there, stays=stays, later=options.later)
        if n_unread := plan.n_unread(stored):
            pictures = "1 picture has" if n_unread == 1 else f"{n_unread:,} pictures have"
            progress.note(
                f"{printable(codes_path)}: {pictures} to be read again, because the file is of an older version, which "
                "does not note all that is needed now (--later leaves that for another time)"
            )
        progress.phase("hashing", len(plan.pending))
        run = LastRun(sources=_noted_sources(sources), options=options.to_note())
        update = _Update(codes_path, options, stored, plan, run)
        update.summary.failures.extend(found.search.failures)
        try:
            update.hash_images(progress)
            # A shard is not finished if a source, such as a drive, is missing.
            update.finish(complete=found.complete)
        except KeyboardInterrupt:
            update.save()
            raise
    summary = update.summary
    summary.skipped, summary.found_any = found.search.skipped + update.passed_over, found.found_any
    summary.unread = unread_sources(found, summary.failures)
    summary.seconds = time.monotonic() - clock
    return summary


def _noted_sources(sources: Sequence[AnyPath]) -> list[str] | None:
    """Return the sources for the manifest, which everyone who opens the file reads; None for a long list of files."""
    return [os.fsdecode(absolute_path(source)) for source in sources] if len(sources) <= _MAX_SOURCES else None


class _Update:
    """Collects the new content of a code file, and writes it."""

    def __init__(
        self, codes_path: AnyPath, options: HashOptions, stored: Stored, plan: UpdatePlan, run: LastRun
    ) -> None:
        self._codes_path, self._options = codes_path, options
        self._stored, self._plan, self._run = stored, plan, run
        self._blocks = [plan.stored_part(stored)]  # with absolute paths
        self._outdated = dict(plan.outdated)
        shard = options.shard
        self._shard = shard and Shard(number=shard.number, count=shard.count, finished=False)
        counts: dict[str, Any] = {name: len(getattr(plan, name)) for name in ("unchanged", "moved", "removed", "kept")}
        self.summary = HashSummary(**counts, failures=[])
        self.passed_over: Counter[str] = Counter()  # in the pictures that were decoded
        self._some_changed_meanwhile = self._saved = False
        self._next_save = time.monotonic() + SAVE_EVERY_SECONDS

    def hash_images(self, progress: Progress) -> None:
        """Read and hash the pending pictures, saving now and then."""
        try:
            if self._plan.pending:
                self._hash(progress)
        except DrhnError:  # such as a closed stdout, to which a failure was written
            has_hashed = any(len(block.entries) for block in self._blocks[1:])
            if has_hashed and (self._saved or not self._options.rebuild):  # else the old file stays
                self.save()
            raise

    def _hash(self, progress: Progress) -> None:
        stored, pending, options = self._stored, self._plan.pending, self._options
        n_threads = options.workers or n_processors()
        batches = load_files(
            pending,
            stored.model.preprocessing,
            known=self._plan.known_digests(stored),
            batch_size=options.batch_size,
            workers=n_threads,
            options=DecodeOptions(max_pixels=options.max_pixels, strict=options.strict, raw=options.raw),
        )
        device = options.device
        if device == "auto" and len(pending) <= _TOO_FEW_FOR_GPU:
            device = "cpu"
        # Torch, for a GPU, takes a second or two to import; pictures are decoded meanwhile. Those that turn out to be
        # the same need no encoder.
        sizes = {"batch_size": options.batch_size, "n_threads": n_threads}
        starter = ThreadPool(1, "drhn-start")
        start_encoder = cache(lambda: starter.submit(Encoder, stored.model, device=device, **sizes))
        if len(self._plan.recognizable) < len(pending):
            start_encoder()
        start = 0
        for batch in batches:
            files = pending[start : start + len(batch)]
            start += len(batch)
            new = self._take_known(files, batch, progress)
            n_told = 0
            while new:
                encoder = start_encoder().result()  # not all at once: a batch may take a CPU some seconds
                step, new = new[: encoder.step], new[encoder.step :]
                pixels = np.stack([picture.pixels for _, picture in step])
                self._add(step, encoder.codes(pixels, stored.n_bits))
                if new:
                    progress.advance(len(step))
                    n_told += len(step)
            progress.advance(len(files) - n_told)
            self._save_now_and_then()

    def _take_known(
        self, files: list[ImageFile], batch: list[LoadedPicture | bytes | Unreadable], progress: Progress
    ) -> list[tuple[ImageFile, LoadedPicture]]:
        """Add the pictures of a batch that keep their codes, note failures, and return those that need codes."""
        new: list[tuple[ImageFile, LoadedPicture]] = []
        known: list[tuple[ImageFile, LoadedPicture | None]] = []
        for file, loaded in zip(files, batch, strict=True):
            if isinstance(loaded, Unreadable):
                self._give_up(file, loaded)
                self.summary.failures.append(loaded.error)
                progress.failure(loaded.error)
            elif isinstance(loaded, bytes):
                known.append((file, None))
            elif self._keeps_code(file):
                known.append((file, loaded))
            else:
                new.append((file, loaded))
        self._add_known(known)
        return new

    def _keeps_code(self, file: ImageFile) -> bool:
        """Whether a picture that was decoded keeps its code: it has not changed, and was decoded for the rest."""
        plan = self._plan
        return file.path in plan.recognizable and not self._stored.are_read[plan.outdated[file.path]]

    def _add_known(self, pictures: list[tuple[ImageFile, LoadedPicture | None]]) -> None:
        """Add pictures whose codes stay; None: what is noted of its content, too."""
        if not pictures:
            return
        rows = [self._plan.outdated[file.path] for file, _ in pictures]
        block = self._stored.block(rows)
        for place, (_, picture) in enumerate(pictures):
            if picture is not None:
                block.entries.contents[place] = _content_of(picture)
                block.copy_codes[place] = dct_signs(picture.thumbnail)
        files = [file for file, _ in pictures]
        self._append(files, block.codes, block.entries.contents, block.copy_codes)
        n_moved = sum(self._stored.entries.path(row) != file.path for file, row in zip(files, rows, strict=True))
        self.summary.moved += n_moved
        self.summary.unchanged += len(files) - n_moved

    def _add(self, pictures: list[tuple[ImageFile, LoadedPicture]], codes: NDArray[np.uint8]) -> None:
        self.passed_over.update(picture.passed_over for _, picture in pictures if picture.passed_over)
        contents = np.array([_content_of(picture) for _, picture in pictures], CONTENT_DTYPE)
        copy_codes = np.stack([dct_signs(picture.thumbnail) for _, picture in pictures])
        files = [file for file, _ in pictures]
        self._append(files, codes, contents, copy_codes)
        n_changed = 0
        for file in files:
            row = self._plan.outdated.get(file.path)
            if row is None:
                continue
            if (old_path := self._stored.entries.path(row)) == file.path:
                n_changed += 1
            else:  # not the picture of this gone path, after all
                self._drop(old_path, row)
        self.summary.changed += n_changed
        self.summary.added += len(files) - n_changed

    def _append(
        self, files: list[ImageFile], codes: NDArray[np.uint8], contents: NDArray[Any], copy_codes: NDArray[np.uint8]
    ) -> None:
        entries = Entries.from_stamps([file.path for file in files], [file.stamp for file in files], contents)
        # One step, so that Ctrl-C finds all of these pictures here or none.
        self._blocks.append(Block(codes, entries, copy_codes))

    def _drop(self, old_path: bytes, row: int) -> None:
        if row in self._plan.kept_if_other:
            self._outdated[old_path] = row  # no pending picture has this path, so it stays
        else:
            self.summary.removed += 1

    def _give_up(self, file: ImageFile, loaded: Unreadable) -> None:
        """Drop the entry of a file that cannot be read, unless it changed or vanished during the run."""
        if not file.is_unchanged():
            self._some_changed_meanwhile = True
        elif file.path in self._plan.recognizable and (loaded.digest is None or self._keeps_code(file)):
            pass  # nothing tells that it has changed
        elif (row := self._outdated.pop(file.path, None)) is not None:
            self._drop(self._stored.entries.path(row), row)

    def _save_now_and_then(self) -> None:
        started = time.monotonic()
        if started > self._next_save:
            self.save()
            # Saving a very large file takes a while; it may take a tenth of the time.
            self._next_save = time.monotonic() + max(SAVE_EVERY_SECONDS, 10 * (time.monotonic() - started))

    def _still_outdated(self) -> list[int]:
        """Return the rows of pictures that have changed and are not hashed yet."""
        blocks = self._blocks[1:] if self._outdated else ()
        hashed = {path for block in blocks for path in block.entries.paths()}
        return [row for path, row in self._outdated.items() if path not in hashed]

    def save(self) -> None:
        """Write what there is so far."""
        stored = self._stored
        blocks = [*self._blocks, stored.block(self._still_outdated())]
        entries = Entries.concatenate([block.entries for block in blocks])
        prefix = len(os.path.join(self._plan.root, b""))
        manifest = CodeManifest(
            root=os.fsdecode(self._plan.root),
            n_bits=stored.n_bits,
            model=stored.model.name,
            fingerprint=stored.model.fingerprint,
            preprocessing=stored.model.preprocessing.to_dict(),
            shard=self._shard,
            copy_codes=COPY_CODES,
            last_run=self._run,
        )
        entries = Entries.from_stamps([path[prefix:] for path in entries.paths()], entries.stamps, entries.contents)
        codes, copy_codes = (np.concatenate([block[column] for block in blocks]) for column in (0, 2))
        write_code_file(self._codes_path, codes, entries, manifest, copy_codes)
        self._saved = True

    def finish(self, *, complete: bool) -> None:
        """Write the code file if anything has changed; a shard is finished if its sources were complete."""
        if self._shard is not None:
            self._shard = replace(self._shard, finished=complete and not self._some_changed_meanwhile)
        stored, summary = self._stored, self.summary
        is_other = summary.added or summary.changed or summary.removed or summary.moved or self._has_news()
        # A run some of whose sources are away is noted only where there is something else to write.
        is_other_run = complete and stored.last_run is not None and stored.last_run != self._run
        is_other_shard = self._shard and (self._shard, self._plan.root) != (stored.shard, stored.root)
        if stored.is_new or self._options.root is not None or is_other or is_other_run or is_other_shard:
            self.save()
        n_outdated = len(self._still_outdated())
        summary.kept += n_outdated
        summary.n_items = sum(len(block.entries) for block in self._blocks) + n_outdated

    def _has_news(self) -> bool:
        """Whether there is something to note of pictures whose codes stay."""
        rows = np.array([row for _, row in self._plan.unchanged], np.int64)
        stamps = self._blocks[0].entries.stamps[: len(rows)]  # of today; unchanged pictures come first
        is_other = stamps != self._stored.entries.stamps[rows]
        # Where the content is not known, --later leaves the file as it is.
        return len(self._blocks) > 1 or bool((is_other & self._stored.are_read[rows]).any())


def _content_of(picture: LoadedPicture) -> tuple[bytes, int, int, int]:
    """Return a row of ``CONTENT_DTYPE``."""
    return (picture.digest, *picture.size, UNKNOWN_TIME if picture.taken_ns is None else picture.taken_ns)
