"""Tar archives: the members, from headers alone. Nothing is unpacked, and nothing that a header says is trusted."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from drhn_cli.errors import SourceError

_BLOCK = tarfile.BLOCKSIZE
_MAX_EXTENSION_BYTES = 1 << 20  # of a long name or of pax records, which are held in memory
_AGAIN = "copy or download it again"
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.DIRTYPE: "a folder",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_WITHOUT_CONTENT = set(_KINDS) - {tarfile.GNUTYPE_SPARSE}
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_PAX = {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE}
_EXTENSIONS = {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, *_PAX}
_SPARSE = b"GNU.sparse."
_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=")


class TarMember(NamedTuple):
    """A member of an archive.

    Attributes:
        name: as it is stored: any bytes, perhaps absolute, perhaps with ``..`` in it.
        kind: "file", or what it is instead.
        offset: byte where its content begins.
        size: of its content, which is there in full.
    """

    name: bytes
    kind: str
    offset: int
    size: int

    @property
    def parts(self) -> list[bytes]:
        """The folders and the file that the name names."""
        return [part for part in self.name.split(b"/") if part not in (b"", b".")]


def read_members(stream: BinaryIO) -> Iterator[TarMember]:
    """Yield the members of a tar archive (v7, ustar, GNU, pax) in its order.

    Only headers are read. The formats are those of POSIX.1-2017 (pax) and of the manual of GNU tar. If it is damaged,
    the members before the damage are yielded, then a ``SourceError`` is raised, to which the caller adds the path.
    """
    return _Reader(stream).members()


class _Reader:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._n_bytes = stream.seek(0, os.SEEK_END)
        self._at = 0
        self._records: dict[bytes, bytes] = {}  # from the extension headers in front of the next member

    def members(self) -> Iterator[TarMember]:
        while (block := self._read(self._at, _BLOCK)) != bytes(_BLOCK):
            header = self._parse_header(block)
            self._at += _BLOCK
            if header.type == tarfile.GNUTYPE_SPARSE and block[482]:
                while self._at < self._n_bytes and self._read(self._at + 504, 1) != b"\0":  # the map of holes goes on
                    self._at += _BLOCK
                self._at += _BLOCK
            size = self._content_size(header)
            if header.type in _EXTENSIONS:
                self._read_extension(header.type, size)
            else:
                yield self._member(block, header, size)
                self._records = {}
            self._at += -(-size // _BLOCK) * _BLOCK

    def _read(self, offset: int, size: int) -> bytes:
        self._stream.seek(offset)
        return self._stream.read(size)

    def _parse_header(self, block: bytes) -> tarfile.TarInfo:
        try:
            return tarfile.TarInfo.frombuf(block, "latin-1", "strict")
        except tarfile.HeaderError as error:
            if block and self._at == 0:
                raise _not_an_archive(block) from error
            if len(block) < _BLOCK:
                raise self._cut_short(f"{self._n_bytes} bytes without an end mark") from error
            raise self._damaged(str(error)) from error

    def _content_size(self, header: tarfile.TarInfo) -> int:
        try:
            size = header.size if header.type in _EXTENSIONS else int(self._records.get(b"size", header.size))
        except ValueError as error:
            raise self._damaged("a size that is no number") from error
        if header.type in _WITHOUT_CONTENT:
            size = 0
        if size < 0:
            raise self._damaged("a negative size")
        if self._at + size > self._n_bytes:
            raise self._cut_short(f"{self._n_bytes} bytes where a member ends at {self._at + size}")
        return size

    def _read_extension(self, kind: bytes, size: int) -> None:
        """Note what an extension header says of the next member."""
        if size > _MAX_EXTENSION_BYTES:
            raise self._damaged(f"an extension header of {size} bytes")
        content = self._read(self._at, size)
        if kind == tarfile.GNUTYPE_LONGNAME:
            self._records[b"path"] = content.split(b"\0")[0]
        at = 0
        # A pax header is records "LENGTH KEY=VALUE", each with a newline at its end, of which few matter here.
        while kind in _PAX and at < len(content) and content[at]:
            match = _RECORD.match(content, at)
            end = at + int(match[1]) if match else 0
            if match is None or not match.end() < end <= len(content) or content[end - 1] != ord("\n"):
                raise self._damaged("a damaged pax header")
            if match[2] in (b"path", b"size") or match[2].startswith(_SPARSE):
                if kind == tarfile.XGLTYPE:
                    raise self._damaged("a name or size for all members")
                self._records[match[2]] = content[match.end() : end - 1]
            at = end

    def _member(self, block: bytes, header: tarfile.TarInfo, size: int) -> TarMember:
        short_name = header.name.encode("latin-1")
        if block[257:265] == tarfile.GNU_MAGIC:  # it has times where ustar has the beginning of a long name
            short_name = block[:100].split(b"\0")[0]
        name = self._records.get(_SPARSE + b"name", self._records.get(b"path", short_name))
        kind = _KINDS.get(header.type, "file" if header.isreg() else "of an unknown kind")
        if any(key.startswith(_SPARSE) for key in self._records):
            kind = "a sparse file"
        return TarMember(name, kind, self._at, size)

    def _damaged(self, found: str) -> SourceError:
        return SourceError("damaged archive", found=f"{found} at byte {self._at}", hint=_AGAIN)

    def _cut_short(self, found: str) -> SourceError:
        return SourceError("the archive is cut short", found=found, hint=_AGAIN)


def _not_an_archive(block: bytes) -> SourceError:
    for magic, name in _COMPRESSED.items():
        if block.startswith(magic):
            hint = "decompress it: pictures hardly shrink, and members could not be read one by one"
            return SourceError("a compressed archive", expected="a plain tar archive", found=name, hint=hint)
    return SourceError("no tar archive", found=f"bytes {block[:8].hex(' ')}")
