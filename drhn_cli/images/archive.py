"""What a tar archive holds, read from its headers alone: nothing is unpacked, and nothing that it says is trusted."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from drhn_cli.errors import AnyPath, SourceError

_BLOCK = tarfile.BLOCKSIZE
_MAX_EXTENSION_BYTES = 1 << 20  # of a long name or of pax records, which are held in memory
_AGAIN = "copy or download it again"
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
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
_EXTENSIONS = {
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.XGLTYPE,
}
_GNU_MAGIC = b"ustar  \0"
_SPARSE = b"GNU.sparse."
_SPARSE_NAME = b"GNU.sparse.name"
_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=")


class TarMember(NamedTuple):
    """A member of an archive.

    Attributes:
        name: as it stands there: any bytes, perhaps absolute, perhaps with ``..`` in it.
        kind: "file", or what it is instead.
        offset: byte where its content begins.
        size: of its content, which is there in full.
    """

    name: bytes
    kind: str
    offset: int
    size: int


def read_members(stream: BinaryIO, n_bytes: int, path: AnyPath) -> Iterator[TarMember]:
    """Yield the members of a tar archive (v7, ustar, GNU, pax) in its order.

    Args:
        stream: of the archive; only its headers are read.
        n_bytes: its length.
        path: what errors call it.

    Raises:
        SourceError: it is no tar archive, compressed, damaged or cut short; the members before that have been yielded.
        OSError: it cannot be read.

    Source: POSIX.1-2017 (pax), the manual of GNU tar (its extensions).
    """

    def damaged(found: str) -> SourceError:
        return SourceError("damaged archive", path=path, found=f"{found} at byte {at}", hint=_AGAIN)

    def cut_short(found: str) -> SourceError:
        return SourceError("the archive is cut short", path=path, found=found, hint=_AGAIN)

    def read(offset: int, size: int) -> bytes:
        stream.seek(offset)
        return stream.read(size)

    at = 0
    records: dict[bytes, bytes] = {}  # of the extension headers of the next member
    while True:
        block = read(at, _BLOCK)
        if len(block) < _BLOCK and (at or not block):
            raise cut_short(f"{n_bytes} bytes without an end mark")
        if block == bytes(_BLOCK):
            return
        try:
            header = tarfile.TarInfo.frombuf(block, "latin-1", "strict")
        except tarfile.HeaderError as error:
            if at == 0:
                raise _refusal(block, path) from error
            raise damaged(str(error)) from error
        kind = block[156:157]
        short_name = header.name.encode("latin-1")
        if block[257:265] == _GNU_MAGIC:  # which has times where others have the beginning of a long name
            short_name = block[:100].split(b"\0")[0]
        at += _BLOCK
        if kind == tarfile.GNUTYPE_SPARSE and block[482]:
            while at < n_bytes and read(at + 504, 1) != b"\0":
                at += _BLOCK
            at += _BLOCK
        try:
            size = header.size if kind in _EXTENSIONS else int(records.get(b"size", header.size))
        except ValueError as error:
            raise damaged("a size that is no number") from error
        if header.type in _WITHOUT_CONTENT:
            size = 0
        if size < 0:
            raise damaged("a negative size")
        if at + size > n_bytes:
            raise cut_short(f"{n_bytes} bytes where a member ends at {at + size}")
        if kind in _EXTENSIONS:
            if size > _MAX_EXTENSION_BYTES:
                raise damaged(f"an extension header of {size} bytes")
            content = read(at, size)
            if kind == tarfile.GNUTYPE_LONGNAME:
                records[b"path"] = content.split(b"\0")[0]
            elif kind != tarfile.GNUTYPE_LONGLINK:
                try:
                    more = _parse_records(content)
                except ValueError as error:
                    raise damaged(str(error)) from error
                if kind == tarfile.XGLTYPE and more:
                    raise damaged("a name or size for all members")
                records |= more
        else:
            name = records.get(_SPARSE_NAME, records.get(b"path", short_name))
            what = "file" if header.type in _REGULAR else _KINDS.get(header.type, "of an unknown kind")
            yield TarMember(name, "a sparse file" if _SPARSE in records else what, at, size)
            records = {}
        at += -(-size // _BLOCK) * _BLOCK


def _parse_records(content: bytes) -> dict[bytes, bytes]:
    """Return what matters here of a pax header's records, ``LENGTH KEY=VALUE`` and a newline each.

    Raises:
        ValueError: they are not of that form.
    """
    records = {}
    at = 0
    while at < len(content) and content[at]:
        match = _RECORD.match(content, at)
        end = at + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(content) or content[end - 1] != ord("\n"):
            raise ValueError("a damaged pax header")
        if match[2] in (b"path", b"size", _SPARSE_NAME):
            records[match[2]] = content[match.end() : end - 1]
        if match[2].startswith(_SPARSE):
            records[_SPARSE] = b""
        at = end
    return records


def _refusal(block: bytes, path: AnyPath) -> SourceError:
    for magic, name in _COMPRESSED.items():
        if block.startswith(magic):
            hint = "decompress it: pictures hardly shrink, and members could not be read one by one"
            return SourceError("a compressed archive", path=path, expected="a plain tar archive", found=name, hint=hint)
    return SourceError("no tar archive", path=path, found=f"bytes {block[:8].hex(' ')}" if block else "nothing")
