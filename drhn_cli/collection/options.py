"""What ``drhn hash`` can be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from drhn_cli.codes.manifest import Shard
from drhn_cli.errors import AnyPath


@dataclass(frozen=True, kw_only=True)
class HashOptions:
    """How pictures are found and hashed.

    Attributes:
        exclude: globs of files and folders to leave out.
        hidden: take files and folders whose names begin with a dot.
        follow: follow symbolic links.
        shard: only the pictures of this shard. None: all.
        weights: a bundled model's name or a weights file. None: the code file's, or the default.
        n_bits: length of the codes. None: that of the code file, or the network's.
        views: of each picture, 1 or 2, that activations are averaged of. None: as the code file has it, and a new one
            as the model does.
        rebuild: hash everything anew and forget what the code file held.
        keep_missing: keep the codes of files that are gone.
        root: where the folder that the code file's paths are relative to has been moved. None: it is where it was.
        device: auto, cuda, mps or cpu.
        batch_size: pictures at a time.
        workers: threads that decode, and as many that run the network on the CPU. None: one for each processor.
        max_pixels: larger pictures are refused. None: ``MAX_PIXELS``.
    """

    exclude: Sequence[str] = ()
    hidden: bool = False
    follow: bool = False
    shard: Shard | None = None
    weights: str | None = None
    n_bits: int | None = None
    views: int | None = None
    rebuild: bool = False
    keep_missing: bool = False
    root: AnyPath | None = None
    device: str = "auto"
    batch_size: int = 256
    workers: int | None = None
    max_pixels: int | None = None
