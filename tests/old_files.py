"""Code files of the first version, as earlier releases wrote them."""

import json
import struct
import zlib
from pathlib import Path

from drhn_cli.codes.reader import CodeFile


def make_version_1(path):
    """Write a code file again as version 1, which has no copy codes and less of each entry."""
    with CodeFile.open(path) as file:
        header, codes = file._map[:33], file.codes.tobytes()
        entries, table = b"", b""
        for block in file.blocks():
            stamps, offsets = block.entries.stamps, block.entries.offsets.astype("<u4")
            columns = [stamps[name].tobytes() for name in ("size", "mtime_ns", "inode")]
            packed = b"".join([*columns, offsets.tobytes(), block.entries.blob])
            entries += packed
            table += struct.pack("<QI", len(entries), zlib.crc32(packed))
        values = json.loads(file.manifest.to_json(n_items=file.n_items, format_version=1))
    values = {name: value for name, value in values.items() if name not in ("copy_codes", "sources", "options")}
    manifest = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
    ends = [33 + len(codes), 33 + len(codes) + len(entries), 33 + len(codes) + len(entries) + len(table)]
    crcs = [zlib.crc32(part) for part in (header, codes, table, manifest)]
    trailer = struct.pack("<QQQIIIIIII", *ends, 4096, *crcs, 64, 1)
    parts = (header, codes, entries, table, manifest, trailer, struct.pack("<I8s", zlib.crc32(trailer), b"DRHNCODE"))
    Path(path).write_bytes(b"".join(parts))
