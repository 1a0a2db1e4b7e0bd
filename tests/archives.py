"""Tar archives that tests make for themselves."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

from tests.drawing import KINDS, draw_picture


def encoded(kind: str, seed: int, suffix: str = ".png", size: int = 16, **settings: object) -> bytes:
    """Return a picture file."""
    stream = io.BytesIO()
    format_name = {".jpg": "JPEG", ".tif": "TIFF", ".jp2": "JPEG2000"}.get(suffix, suffix[1:].upper())
    draw_picture(kind, seed, size).save(stream, format_name, **settings)
    return stream.getvalue()


def write_tar(
    path: str | os.PathLike[str],
    members: Iterable[tuple[str | bytes | tarfile.TarInfo, bytes]],
    tar_format: int = tarfile.PAX_FORMAT,
) -> Path:
    """Write members, each a name or a header of any kind, and its content."""
    with tarfile.open(path, "w", format=tar_format) as archive:
        for header, content in members:
            if not isinstance(header, tarfile.TarInfo):
                header = tarfile.TarInfo(os.fsdecode(header))
                header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return Path(path)


def write_shards(n_shards: int, n: int, name: str = "photos-{:03}.tar") -> list[Path]:
    """Write shards as webdataset does, of n pictures each, a label beside each picture."""
    return [
        write_tar(
            name.format(shard),
            [
                member
                for i in range(n)
                for member in (
                    (f"{i:04}.png", encoded(KINDS[i % len(KINDS)], shard * 1000 + i)),
                    (f"{i:04}.cls", b"%d" % (i % len(KINDS))),
                )
            ],
        )
        for shard in range(n_shards)
    ]
