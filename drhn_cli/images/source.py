"""What is known of a picture file that was found."""

from __future__ import annotations

import os
from dataclasses import dataclass

from drhn_cli.files import FileStamp


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundFile:
    """A file, as it was when it was found.

    Attributes:
        path: absolute path; a symbolic link keeps its own name.
        size: bytes.
        mtime_ns: time of the last change, nanoseconds since 1970.
        inode: the file's number on its device.
    """

    path: bytes
    size: int
    mtime_ns: int
    inode: int

    @property
    def source(self) -> bytes | PackedFile:
        """What ``open_picture`` takes."""
        return self.path

    @property
    def stamp(self) -> FileStamp:
        """What it is known by."""
        return FileStamp(size=self.size, mtime_ns=self.mtime_ns, inode=self.inode)

    def is_as(self, stamp: FileStamp) -> bool:
        """Tell whether this is what had this stamp when it was hashed: the same content, as far as can be seen."""
        return self.stamp.is_same_content(stamp)

    def is_unchanged(self) -> bool:
        """Tell whether the file is there still, as it was when it was found."""
        return _size_and_time(self.path) == (self.size, self.mtime_ns)


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedFile(FoundFile):
    """A file in a tar archive.

    Attributes:
        path: of the archive, a slash, and the name inside it.
        size: its own.
        mtime_ns: the archive's.
        inode: the upper half tells its place in the archive and the archive's size, the lower half the archive's inode.
        archive: absolute path.
        archive_size: bytes.
        offset: of its content in the archive.
    """

    archive: bytes
    archive_size: int
    offset: int

    @property
    def source(self) -> bytes | PackedFile:
        """What ``open_picture`` takes."""
        return self

    def is_as(self, stamp: FileStamp) -> bool:
        """Tell whether this is what had this stamp when it was hashed; a copy of the archive is the same archive."""
        return self.stamp.is_same_content(stamp, in_archive=True)

    def is_unchanged(self) -> bool:
        """Tell whether the archive is there still, as it was when the file was found in it."""
        return _size_and_time(self.archive) == (self.archive_size, self.mtime_ns)


def _size_and_time(path: bytes) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
