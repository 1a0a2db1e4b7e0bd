"""Hash pictures into a code file, doing only what has not been done before."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drhn_cli.codes.entries import Entries
from drhn_cli.codes.manifest import CodeManifest, CodePart
from drhn_cli.codes.pack import code_size
from drhn_cli.codes.reader import CodeFile, require_code_file
from drhn_cli.codes.writer import write_code_file
from drhn_cli.collection.shard import Shard
from drhn_cli.collection.sources import Gathered, gather_pictures
from drhn_cli.errors import AnyPath, CodeFileError, ConfigError, DrhnError, SourceError, printable
from drhn_cli.files import FileStamp, lock_file
from drhn_cli.images.decode import MAX_PIXELS
from drhn_cli.images.load import load_batches
from drhn_cli.images.packed import is_gone, is_there
from drhn_cli.images.source import FoundFile
from drhn_cli.network.devices import check_device
from drhn_cli.network.encoder import NUMPY_LIMIT, Encoder
from drhn_cli.network.model import Model, choose_bits, load_model, model_of
from drhn_cli.paths import absolute_folder, common_folder
from drhn_cli.progress import SILENT, Progress
from drhn_cli.threads import ThreadPool, n_processors

SAVE_EVERY_SECONDS = 60.0
"""A run that is killed loses at most so much of its work."""

LOCK_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class HashOptions:
    """How pictures are found and hashed.

    Attributes:
        weights: a bundled model's name or a weights file. None: the code file's, or the default.
        n_bits: length of the codes. None: that of the code file, or the network's.
        views: of each picture, 1 or 2, that activations are averaged of. None: as the code file has it, and a new one
            as the model does.
        rebuild: hash everything anew and forget what the code file held.
        keep_missing: keep the codes of files that are gone.
        shard: hash only this part of the pictures. None: all.
        root: where the folder that the code file's paths are relative to has been moved. None: it is where it was.
        exclude: globs of files and folders to leave out.
        hidden: take files and folders whose names begin with a dot.
        follow: follow symbolic links.
        device: auto, cuda, mps or cpu.
        batch_size: pictures at a time.
        workers: threads that decode, and as many that run the network on the CPU. None: one for each processor.
        max_pixels: larger pictures are refused.
    """

    weights: str | None = None
    n_bits: int | None = None
    views: int | None = None
    rebuild: bool = False
    keep_missing: bool = False
    shard: Shard | None = None
    root: AnyPath | None = None
    exclude: Sequence[str] = ()
    hidden: bool = False
    follow: bool = False
    device: str = "auto"
    batch_size: int = 256
    workers: int | None = None
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True, kw_only=True)
class HashSummary:
    """What a run did.

    Attributes:
        added: pictures hashed for the first time.
        changed: pictures hashed again because their size or time had changed.
        unchanged: pictures whose code was taken over.
        moved: pictures that were found under another name and whose code was taken over.
        removed: entries dropped because their file is gone, or can no longer be read.
        kept: entries that this run left as they were: outside its sources, under one that cannot be read, or of a
            file that changed or went away while the run was at it.
        n_items: codes in the file now.
        failures: what could not be hashed, with its reason.
        seconds: wall-clock time.
    """

    added: int
    changed: int
    unchanged: int
    moved: int
    removed: int
    kept: int
    n_items: int
    failures: list[DrhnError] = field(repr=False)
    seconds: float


class _Noted(NamedTuple):
    """What a code file has noted of a picture, and the row of its code."""

    size: int
    mtime_ns: int
    inode: int
    row: int

    @property
    def stamp(self) -> FileStamp:
        return FileStamp(size=self.size, mtime_ns=self.mtime_ns, inode=self.inode)


class _Part(NamedTuple):
    """Some pictures: absolute paths; sizes, times and inodes; (n, code_size) uint8."""

    paths: list[bytes]
    columns: list[tuple[int, int, int]]
    codes: NDArray[np.uint8]


class _Collection:
    """Codes and what is noted of their files, growing."""

    def __init__(self, n_bits: int) -> None:
        self._n_bits = n_bits
        self._parts = [_Part([], [], np.empty((0, code_size(n_bits)), np.uint8))]

    def __len__(self) -> int:
        return sum(len(part.paths) for part in self._parts)

    def paths(self) -> set[bytes]:
        return {path for part in self._parts for path in part.paths}

    def add(self, part: _Part) -> None:
        # One step, so that Ctrl-C finds a part here whole or not at all.
        self._parts.append(part)

    def write(self, path: AnyPath, root: bytes, weights: Model, part: CodePart | None, outdated: _Part) -> None:
        """Write all, and codes of before whose pictures have not been hashed again."""
        prefix = len(os.path.join(root, b""))
        parts = [*self._parts, outdated]
        columns = [column for one in parts for column in one.columns]
        sizes, mtimes_ns, inodes = zip(*columns, strict=True) if columns else ((), (), ())
        manifest = CodeManifest(
            root=os.fsdecode(root),
            n_bits=self._n_bits,
            model=weights.name,
            fingerprint=weights.fingerprint,
            preprocessing=weights.preprocessing.to_dict(),
            part=part,
        )
        paths = [path[prefix:] for one in parts for path in one.paths]
        entries = Entries.from_columns(paths, sizes, mtimes_ns, inodes)
        write_code_file(path, np.concatenate([one.codes for one in parts]), entries, manifest)


def hash_pictures(
    sources: Sequence[AnyPath],
    codes_path: AnyPath,
    options: HashOptions,
    progress: Progress = SILENT,
) -> HashSummary:
    """Bring a code file up to date with its pictures.

    A file with the size and time that the code file has noted keeps its code; a file that was only renamed is
    recognised by size, time and inode. Files that are gone lose theirs, but never under a source or folder that cannot
    be read, nor under a source that is empty now. Entries outside the sources are left alone. The code file is written
    now and then, and when the run is interrupted.

    Args:
        sources: files and folders.
        codes_path: the code file; it need not exist yet.
        options: how pictures are found and hashed.
        progress: is told of pictures found ("listing") and decoded ("hashing"), of files that could not be hashed, and
            if another run that writes the code file has to be waited for.

    Returns:
        What was done.

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
    with lock_file(codes_path, "code file", CodeFileError, LOCK_TIMEOUT_SECONDS, progress=progress):
        update = _Update(codes_path, options)
        gathered = gather_pictures(
            sources,
            options.shard,
            enough=max(NUMPY_LIMIT + 1, options.batch_size),
            exclude=options.exclude,
            hidden=options.hidden,
            follow=options.follow,
            is_known=update.holds,
            is_known_folder=update.holds_some_below,
            progress=progress,
        )
        for failure in gathered.failures:
            progress.failure(failure)
        pending = update.take_over(gathered)
        progress.phase("hashing", len(pending))
        # A part that is run again has the codes that it would have had at once: by the same encoder.
        n_images = gathered.n_images if options.shard else len(pending)
        failures = update.encode(pending, n_images, progress) if pending else []
        # On a machine where a drive is not there, a part must not pass for whole.
        update.finish(complete=gathered.complete)
        return update.summary([*gathered.failures, *failures], time.monotonic() - clock)


class _Update:
    """One run over one code file."""

    def __init__(self, codes_path: AnyPath, options: HashOptions) -> None:
        """Read what the code file holds, and refuse it if it is of another model or length."""
        self._codes_path = codes_path
        self._options = options
        self._noted: dict[bytes, _Noted] = {}
        self._root = b""
        self._outdated: dict[bytes, _Noted] = {}  # of changed files: kept until they are hashed again
        self._some_changed_meanwhile = False
        self._saved = False
        self._part: CodePart | None = None
        self._noted_part: CodePart | None = None
        if options.shard is not None:
            self._part = CodePart(number=options.shard.number, count=options.shard.count, finished=False)
        # An empty file is what mktemp makes.
        self._is_new = options.rebuild or not os.path.exists(codes_path) or not os.path.getsize(codes_path)
        if self._is_new:
            if options.root is not None:
                hint = "leave --root out"
                raise ConfigError("a new code file has no pictures that could have moved", path=codes_path, hint=hint)
            require_code_file(codes_path)
            self._weights = load_model(options.weights, views=options.views)
            self._n_bits = choose_bits(options.n_bits, self._weights)
            self._noted_codes = np.empty((0, code_size(self._n_bits)), np.uint8)
        else:
            with CodeFile.open(codes_path) as file:
                self._weights = model_of(file.manifest, options.weights, path=file.path)
                _require_length(file, options.n_bits)
                _require_views(file, self._weights, options.views)
                # Codes that are taken over get a new checksum: they have to be whole.
                file.verify(index=False)
                self._noted_part = file.manifest.part
                self._n_bits = file.n_bits
                self._noted_codes = np.array(file.codes)
                self._root = os.fsencode(file.root) if options.root is None else _moved_root(file, options.root)
                for row, entry in enumerate(file):
                    path = os.path.join(self._root, entry.path)
                    self._noted[path] = _Noted(entry.size, entry.mtime_ns, entry.inode, row)
        self._noted_root = self._root
        self._collection = _Collection(self._n_bits)
        self._counts = dict.fromkeys(("added", "changed", "unchanged", "moved", "removed", "kept"), 0)

    def holds(self, path: bytes) -> bool:
        """Tell whether the code file has this picture, or some in this folder or archive."""
        return path in self._noted or self.holds_some_below(path)

    def holds_some_below(self, folder: bytes) -> bool:
        """Tell whether the code file has pictures in a folder, at any depth."""
        return folder in self._noted_folders

    @cached_property
    def _noted_folders(self) -> set[bytes]:
        folders: set[bytes] = set()
        for path in self._noted:
            while (path := os.path.dirname(path)) not in folders:
                folders.add(path)
        return folders

    def take_over(self, gathered: Gathered) -> list[FoundFile]:
        """Take over the codes that are still right; return the files that have to be decoded."""
        gone = self._noted.keys() - {file.path for file in gathered.files}
        by_identity = {self._noted[path][:3]: path for path in gone if self._noted[path].inode}
        kept: dict[bytes, _Noted] = {}
        pending = []
        for file in gathered.files:
            noted = self._noted.get(file.path)
            if noted and file.is_as(noted.stamp):
                # The inode is the file's of today: a copy that was put in its place is the same picture.
                kept[file.path] = noted._replace(inode=file.inode)
                self._counts["unchanged"] += 1
                continue
            old_path = None if noted else by_identity.pop((file.size, file.mtime_ns, file.inode), None)
            if old_path is not None and not is_there(old_path):
                gone.remove(old_path)
                kept[file.path] = self._noted[old_path]
                self._counts["moved"] += 1
                continue
            if noted:
                self._outdated[file.path] = noted
            pending.append(file)
        for path in sorted(gone):  # archive by archive
            if not gathered.covers(path) or (self._options.keep_missing and is_gone(path)):
                kept[path] = self._noted[path]
                self._counts["kept"] += 1
            else:
                self._counts["removed"] += 1
        self._collection.add(self._codes_of(kept))
        # Parts that belong together have the same root, also one that holds nothing yet.
        has_root = self._noted or (self._part is not None and not self._is_new)
        self._root = common_folder([gathered.folder, self._root]) if has_root else gathered.folder
        return pending

    def _codes_of(self, noted: dict[bytes, _Noted]) -> _Part:
        rows = np.array([one.row for one in noted.values()], dtype=np.int64)
        return _Part(list(noted), [one[:3] for one in noted.values()], self._noted_codes[rows])

    def encode(self, pending: list[FoundFile], n_images: int, progress: Progress) -> list[DrhnError]:
        """Decode and hash files by the encoder for ``n_images``, saving now and then; return the errors."""
        options = self._options
        n_threads = options.workers or n_processors()
        batches = load_batches(
            [file.source for file in pending],
            self._weights.preprocessing,
            batch_size=options.batch_size,
            workers=n_threads,
            max_pixels=options.max_pixels,
        )
        # Torch takes a second or two to import; pictures are decoded meanwhile.
        encoder = ThreadPool(1, "drhn-start").submit(
            Encoder,
            self._weights,
            device=options.device,
            n_images=n_images,
            batch_size=options.batch_size,
            n_threads=n_threads,
        )
        failures: list[DrhnError] = []
        n_before = len(self._collection)
        next_save = time.monotonic() + SAVE_EVERY_SECONDS
        try:
            for batch in batches:
                for index, error in batch.failures:
                    self._give_up(pending[index])
                    failures.append(error)
                    progress.failure(error)
                files = [pending[index] for index in batch.indices.tolist()]
                n_step = encoder.result().step  # not all at once: a batch may take a CPU some seconds
                for start in range(0, max(1, len(files)), n_step):
                    step = slice(start, start + n_step)
                    self._add(files[step], encoder.result().codes(batch.pixels[step], self._n_bits))
                    is_last = step.stop >= len(files)
                    progress.advance(len(files[step]) + (len(batch.failures) if is_last else 0))
                if time.monotonic() > next_save:
                    started = time.monotonic()
                    self._save()
                    # Saving a very large file takes a while; it may take a tenth of the time.
                    next_save = time.monotonic() + max(SAVE_EVERY_SECONDS, 10 * (time.monotonic() - started))
        except KeyboardInterrupt:
            self._save()
            raise
        except DrhnError:  # as of a failure that stdout cannot be told
            has_hashed = len(self._collection) > n_before
            if has_hashed and (self._saved or not options.rebuild):  # nobody has given the old codes up
                self._save()
            raise
        return failures

    def _add(self, files: list[FoundFile], codes: NDArray[np.uint8]) -> None:
        columns = [(file.size, file.mtime_ns, file.inode) for file in files]
        self._collection.add(_Part([file.path for file in files], columns, codes))
        n_changed = sum(file.path in self._noted for file in files)
        self._counts["changed"] += n_changed
        self._counts["added"] += len(files) - n_changed

    def _give_up(self, file: FoundFile) -> None:
        """Drop what was known of a file that cannot be read; but not of one that went away or changed meanwhile."""
        if not file.is_unchanged():
            self._some_changed_meanwhile = True
        elif self._outdated.pop(file.path, None):
            self._counts["removed"] += 1

    def finish(self, *, complete: bool) -> None:
        """Write the code file, unless it holds all of this already; a part is finished if its sources were complete."""
        try:
            if self._part is not None:
                self._part = replace(self._part, finished=complete and not self._some_changed_meanwhile)
            self._counts["kept"] += len(self._still_outdated())
            is_other = any(self._counts[name] for name in ("added", "changed", "moved", "removed"))
            is_other_part = self._part is not None and (self._part, self._root) != (self._noted_part, self._noted_root)
            if self._is_new or self._options.root is not None or is_other or is_other_part:
                self._save()
        except KeyboardInterrupt:  # all has been hashed, and nothing of it may be on disk
            self._save()
            raise

    def summary(self, failures: list[DrhnError], seconds: float) -> HashSummary:
        """Return what was done."""
        return HashSummary(
            **self._counts,
            n_items=len(self._collection) + len(self._still_outdated()),
            failures=failures,
            seconds=seconds,
        )

    def _still_outdated(self) -> dict[bytes, _Noted]:
        hashed = self._collection.paths() if self._outdated else set()
        return {path: noted for path, noted in self._outdated.items() if path not in hashed}

    def _save(self) -> None:
        outdated = self._codes_of(self._still_outdated())
        self._collection.write(self._codes_path, self._root, self._weights, self._part, outdated)
        self._saved = True


def _moved_root(file: CodeFile, root: AnyPath) -> bytes:
    """Return the absolute new root, if any picture of the file is there: a wrong one would drop all codes."""
    absolute = absolute_folder(root)
    if file.n_items and not any(is_there(os.path.join(absolute, entry.path)) for entry in file):
        raise SourceError(
            "no picture of the code file is below this folder",
            path=root,
            expected=f"the folder that was {printable(file.root)}",
            hint="paths in a code file are relative to the root that drhn info shows",
        )
    return absolute


def _require_views(file: CodeFile, model: Model, views: int | None) -> None:
    if views not in (None, model.preprocessing.views):
        made, asked = ("without", "--tta") if views == 2 else ("with", "--no-tta")
        raise CodeFileError(
            f"the codes were made {made} --tta",
            path=file.path,
            hint=f"leave {asked} out, or hash again with --rebuild",
        )


def _require_length(file: CodeFile, n_bits: int | None) -> None:
    if n_bits is not None and file.n_bits != n_bits:
        raise CodeFileError(
            "the codes have another length",
            path=file.path,
            expected=f"{n_bits} bits",
            found=f"{file.n_bits} bits",
            hint="leave --bits out, or hash again with --rebuild",
        )
