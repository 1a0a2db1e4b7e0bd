"""The bytes of a code file, each of which is a value compared here, a checksum, or an offset."""

import json
import os
import struct
import zlib
from itertools import pairwise
from pathlib import Path

import pytest

from tests.golden.pictures import TIME_NS


def describe_code_file(path):
    """Return the parts of a code file of one block as text, less what is this machine's: its root and inodes."""
    raw = Path(path).read_bytes()
    trailer = raw[-64:]
    entries_at, table_at, manifest_at, block_rows, *crcs, length, version, crc, magic = struct.unpack(
        "<QQQIIIIIIII8s", trailer
    )
    assert (length, magic, crc) == (64, b"DRHNCODE", zlib.crc32(trailer[:-12]))
    bounds = [0, 33, entries_at, table_at, manifest_at, len(raw) - 64]
    header, codes, entries, table, manifest = (raw[a:b] for a, b in pairwise(bounds))
    assert crcs == [zlib.crc32(part) for part in (header, codes, table, manifest)]
    assert struct.unpack("<QI", table) == (len(entries), zlib.crc32(entries))
    name, n_bits, code_size, n, *rest = struct.unpack("<4siiqBiQ", header)
    assert (n_bits, rest) == (8 * code_size, [1, 1, len(codes)])
    sizes, times, inodes = (struct.unpack_from(f"<{n}{kind}", entries, 8 * n * i) for i, kind in enumerate("qqQ"))
    offsets = struct.unpack_from(f"<{n + 1}I", entries, 24 * n)
    names = entries[24 * n + 4 * (n + 1) :]
    assert offsets[-1] == len(names)
    values = json.loads(manifest)
    root = os.fsencode(values["root"])
    assert manifest == json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
    values |= {"root": os.path.relpath(root).decode(), "drhn_version": "VERSION"}
    lines = [f"{name.decode()} code_size={code_size} n={n} block_rows={block_rows} version={version}"]
    lines += [f"{key}: {json.dumps(value)}" for key, value in values.items()]
    lines += ["code, size, change, inode, path"]
    for i in range(n):
        relative = names[offsets[i] : offsets[i + 1]]
        archive, is_member, _ = relative.partition(b".tar/")
        inode = os.stat(os.path.join(root, archive + b".tar" if is_member else relative)).st_ino
        if is_member:  # the upper half is the place in the archive
            assert inodes[i] & 0xFFFFFFFF == zlib.crc32(b"%d" % inode)
        else:
            assert inodes[i] == inode
        place = f"{inodes[i] >> 32:08x}" if is_member else "own"
        code = codes[i * code_size : (i + 1) * code_size].hex()
        lines += [f"{code} {sizes[i]} +{times[i] - TIME_NS} {place} {relative.decode('utf-8', 'backslashreplace')}"]
    return "\n".join(lines) + "\n"


@pytest.mark.usefixtures("hashed")
def test_bytes(golden):
    golden.check_text("code_file.txt", describe_code_file("codes.bin"))


def test_bytes_of_short_codes_of_two_views_of_a_shard(session, golden):
    sources = "hash pictures pictures/packed.tar --hidden"
    assert session(f"{sources} -o codes.bin --weights tiny.npz --bits 12 --tta --shard 2/3 --workers 1") == 0
    golden.check_text("code_file_of_a_shard.txt", describe_code_file("codes-00002-of-00003.bin"))


def test_bytes_do_not_depend_on_how_the_work_is_divided(hashed):
    expected = describe_code_file("codes.bin")
    assert hashed("hash pictures pictures/packed.tar -o again.bin --weights tiny.npz --workers 2 --batch-size 3") == 0
    assert describe_code_file("again.bin") == expected
    assert hashed("hash pictures/circle pictures pictures/packed.tar -o codes.bin --rebuild --weights tiny.npz") == 0
    assert describe_code_file("codes.bin") == expected
    for shard in (1, 2):
        assert hashed(f"hash pictures pictures/packed.tar -o part.bin --shard {shard}/2 --weights tiny.npz") == 0
    assert hashed("merge part-00001-of-00002.bin part-00002-of-00002.bin -o merged.bin") == 0
    assert describe_code_file("merged.bin") == expected
