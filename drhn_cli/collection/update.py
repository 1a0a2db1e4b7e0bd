"""Bring a code file up to date with its pictures: read it, find pictures, plan, hash, and write."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.entries import Entries
from drhn_cli.codes.manifest import CodeManifest, Shard
from drhn_cli.codes.pack import code_size
from drhn_cli.codes.reader import CodeFile
from drhn_cli.codes.writer import Block, lock_code_file, refuse_foreign_file, write_code_file
from drhn_cli.collection.plan import HashOptions, Stored, UpdatePlan, plan_update
from drhn_cli.collection.sources import find_sources, unread_sources
from drhn_cli.errors import AnyPath, CodeFileError, ConfigError, DrhnError, SourceError, printable
from drhn_cli.images.decode import DecodeOptions
from drhn_cli.images.load import load_batches
from drhn_cli.images.source import ImageFile, is_gone, is_there
from drhn_cli.network.devices import check_device
from drhn_cli.network.encoder import Encoder
from drhn_cli.network.model import choose_bits, load_model, model_of
from drhn_cli.paths import absolute_folder
from drhn_cli.progress import SILENT, Progress
from drhn_cli.threads import ThreadPool, n_processors

SAVE_EVERY_SECONDS = 60.0
"""A killed run loses about this much work at most."""


@dataclass(kw_only=True)
class HashSummary:
    """What a run did. It grows while the run goes on.

    Attributes:
        added: pictures hashed for the first time.
        changed: pictures hashed again because their size or time had changed.
        unchanged: pictures whose code stayed.
        moved: pictures that were found under another path and whose code stayed.
        removed: entries dropped because their file is gone, or can no longer be read.
        kept: entries that this run left as they were: outside its sources, under one that cannot be read, or of a
            file that changed or vanished during the run.
        n_items: codes in the file now.
        failures: what could not be hashed, with its reason.
        skipped: how many files of the folders and archives were not looked at, by what they are.
        n_found: pictures that were found, of all shards; a lower bound.
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
    n_found: int = 0
    unread: set[bytes] = field(default_factory=set, repr=False)
    seconds: float = 0.0


def update_collection(
    sources: Sequence[AnyPath], codes_path: AnyPath, options: HashOptions, progress: Progress = SILENT
) -> HashSummary:
    """Bring a code file up to date with its pictures.

    A file with the size and time that the code file has for it keeps its code; a file that was only renamed is
    recognized by size, time and inode. Entries of deleted files are dropped, except below a source or folder that
    cannot be read or a source that is now empty. Entries outside the sources are kept. The code file is saved
    periodically, and when the run is interrupted.

    Args:
        sources: files and folders.
        codes_path: the code file; it need not exist yet.
        options: how pictures are found and hashed.
        progress: counts pictures found ("listing") and decoded ("hashing"), and gets the files that could not be
            hashed, and a note when this waits for another run that writes the code file.

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
        stored = _read_stored(codes_path, options)
        found = find_sources(sources, options, stored, progress)
        for failure in found.search.failures:
            progress.failure(failure)
        stays = is_gone if options.keep_missing else lambda _: False
        plan = plan_update(stored, found, is_there=is_there, stays=stays)
        progress.phase("hashing", len(plan.pending))
        update = _Update(codes_path, options, stored, plan, found.search.failures)
        try:
            # A shard that is run again uses the encoder of a first run, so it gets the same codes.
            update.hash_images(found.n_images if options.shard else len(plan.pending), progress)
            # A shard is not finished if a source, such as a drive, is missing.
            update.finish(complete=found.complete)
        except KeyboardInterrupt:
            update.save()
            raise
    summary = update.summary
    summary.skipped, summary.n_found = found.search.skipped, found.n_images
    summary.unread = unread_sources(found, summary.failures)
    summary.seconds = time.monotonic() - clock
    return summary


def _read_stored(codes_path: AnyPath, options: HashOptions) -> Stored:
    """Read what a code file holds, and load the model that made it."""
    # An empty file is what mktemp makes.
    if options.rebuild or not os.path.exists(codes_path) or not os.path.getsize(codes_path):
        if options.root is not None:
            hint = "leave --root out"
            raise ConfigError("a new code file has no pictures that could have moved", path=codes_path, hint=hint)
        refuse_foreign_file(codes_path)
        model = load_model(options.weights, views=options.views)
        n_bits = choose_bits(options.n_bits, model)
        codes, entries = np.empty((0, code_size(n_bits)), np.uint8), Entries.from_stamps([], [])
        return Stored(root=b"", codes=codes, entries=entries, model=model, n_bits=n_bits, is_new=True)
    with CodeFile.open(codes_path) as file:
        model = model_of(file.manifest, options.weights, path=file.path)
        hint = "leave {} out, or hash again with --rebuild"
        if options.n_bits not in (None, file.n_bits):
            problem, expected, found = "the codes have another length", f"{options.n_bits} bits", f"{file.n_bits} bits"
            raise CodeFileError(problem, path=codes_path, expected=expected, found=found, hint=hint.format("--bits"))
        if options.views not in (None, model.preprocessing.views):
            made, asked = ("without", "--tta") if options.views == 2 else ("with", "--no-tta")
            raise CodeFileError(f"the codes were made {made} --tta", path=codes_path, hint=hint.format(asked))
        # Codes that stay get a new checksum: they have to be intact.
        file.verify(index=False)
        root = os.fsencode(file.root) if options.root is None else _moved_root(file, options.root)
        entries = file.entries()
        entries = Entries.from_stamps([os.path.join(root, path) for path in entries.paths()], entries.stamps)
        codes, shard = np.array(file.codes), file.manifest.shard
        return Stored(root=root, codes=codes, entries=entries, model=model, n_bits=file.n_bits, shard=shard)


def _moved_root(file: CodeFile, root: AnyPath) -> bytes:
    """Return the absolute new root, if any picture of the file is there: a wrong one would drop all codes."""
    absolute = absolute_folder(root)
    if file.n_items and not any(is_there(os.path.join(absolute, entry.path)) for entry in file):
        expected = f"the folder that was {printable(file.root)}"
        hint = "paths in a code file are relative to the root that drhn info shows"
        raise SourceError("no picture of the code file is below this folder", path=root, expected=expected, hint=hint)
    return absolute


class _Update:
    """Collects the new content of a code file, and writes it."""

    def __init__(
        self, codes_path: AnyPath, options: HashOptions, stored: Stored, plan: UpdatePlan, failures: list[DrhnError]
    ) -> None:
        self._codes_path, self._options = codes_path, options
        self._stored, self._plan = stored, plan
        self._blocks: list[Block] = [plan.stored_part(stored)]  # with absolute paths
        self._outdated = dict(plan.outdated)
        shard = options.shard
        self._shard = shard and Shard(number=shard.number, count=shard.count, finished=False)
        counts: dict[str, Any] = {name: len(getattr(plan, name)) for name in ("unchanged", "moved", "removed", "kept")}
        self.summary = HashSummary(**counts, failures=list(failures))
        self._some_changed_meanwhile = self._saved = False
        self._next_save = time.monotonic() + SAVE_EVERY_SECONDS

    def hash_images(self, n_images: int, progress: Progress) -> None:
        """Decode and hash the pending pictures with the encoder for ``n_images``, saving now and then."""
        try:
            if self._plan.pending:
                self._hash(n_images, progress)
        except DrhnError:  # such as a closed stdout, to which a failure was written
            has_hashed = any(len(entries) for _, entries in self._blocks[1:])
            if has_hashed and (self._saved or not self._options.rebuild):  # else the old file stays
                self.save()
            raise

    def _hash(self, n_images: int, progress: Progress) -> None:
        stored, pending, device = self._stored, self._plan.pending, self._options.device
        batch_size, n_threads = self._options.batch_size, self._options.workers or n_processors()
        options = self._options
        decoding = DecodeOptions(max_pixels=options.max_pixels, strict=options.strict, raw=options.raw)
        batches = load_batches(
            pending, stored.model.preprocessing, batch_size=batch_size, workers=n_threads, options=decoding
        )
        # Torch takes a second or two to import; pictures are decoded meanwhile.
        encoder = ThreadPool(1, "drhn-start").submit(
            Encoder, stored.model, device=device, n_images=n_images, batch_size=batch_size, n_threads=n_threads
        )
        for batch in batches:
            for index, error in batch.failures:
                self._give_up(pending[index])
                self.summary.failures.append(error)
                progress.failure(error)
            files = [pending[index] for index in batch.indices.tolist()]
            n_step = encoder.result().step  # not all at once: a batch may take a CPU some seconds
            for start in range(0, max(1, len(files)), n_step):
                step = slice(start, start + n_step)
                self._add(files[step], encoder.result().codes(batch.pixels[step], stored.n_bits))
                is_last = step.stop >= len(files)
                progress.advance(len(files[step]) + (len(batch.failures) if is_last else 0))
            self._save_now_and_then()

    def _add(self, files: list[ImageFile], codes: NDArray[np.uint8]) -> None:
        entries = Entries.from_stamps([file.path for file in files], [file.stamp for file in files])
        self._blocks.append((codes, entries))  # one step, so that Ctrl-C finds all of these pictures here or none
        n_changed = sum(file.path in self._plan.outdated for file in files)
        self.summary.changed += n_changed
        self.summary.added += len(files) - n_changed

    def _give_up(self, file: ImageFile) -> None:
        """Drop the entry of a file that cannot be read, unless it changed or vanished during the run."""
        if not file.is_unchanged():
            self._some_changed_meanwhile = True
        elif self._outdated.pop(file.path, None) is not None:
            self.summary.removed += 1

    def _save_now_and_then(self) -> None:
        started = time.monotonic()
        if started > self._next_save:
            self.save()
            # Saving a very large file takes a while; it may take a tenth of the time.
            self._next_save = time.monotonic() + max(SAVE_EVERY_SECONDS, 10 * (time.monotonic() - started))

    def _still_outdated(self) -> list[int]:
        """Return the rows of pictures that have changed and are not hashed yet."""
        blocks = self._blocks[1:] if self._outdated else ()
        hashed = {path for _, entries in blocks for path in entries.paths()}
        return [row for path, row in self._outdated.items() if path not in hashed]

    def save(self) -> None:
        """Write what there is so far."""
        stored = self._stored
        outdated = self._still_outdated()
        blocks = [*self._blocks, (stored.codes[outdated], stored.entries.take(outdated))]
        entries = Entries.concatenate([entries for _, entries in blocks])
        prefix = len(os.path.join(self._plan.root, b""))
        manifest = CodeManifest(
            root=os.fsdecode(self._plan.root),
            n_bits=stored.n_bits,
            model=stored.model.name,
            fingerprint=stored.model.fingerprint,
            preprocessing=stored.model.preprocessing.to_dict(),
            shard=self._shard,
        )
        entries = Entries.from_stamps([path[prefix:] for path in entries.paths()], entries.stamps)
        write_code_file(self._codes_path, np.concatenate([codes for codes, _ in blocks]), entries, manifest)
        self._saved = True

    def finish(self, *, complete: bool) -> None:
        """Write the code file if anything has changed; a shard is finished if its sources were complete."""
        if self._shard is not None:
            self._shard = replace(self._shard, finished=complete and not self._some_changed_meanwhile)
        stored, summary = self._stored, self.summary
        is_other = summary.added or summary.changed or summary.removed or summary.moved
        is_other_shard = self._shard and (self._shard, self._plan.root) != (stored.shard, stored.root)
        if stored.is_new or self._options.root is not None or is_other or is_other_shard:
            self.save()
        n_outdated = len(self._still_outdated())
        summary.kept += n_outdated
        summary.n_items = sum(len(entries) for _, entries in self._blocks) + n_outdated
