"""The bytes of a code file, each of which is a value compared here, a checksum, or an offset."""

import hashlib
import json
import os
import struct
import tarfile
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
    name, n_bits, code_size, n, *rest = struct.unpack("<4siiqBiQ", raw[:33])
    assert (n_bits, rest) == (8 * code_size, [1, 1, n * code_size])
    bounds = [0, 33, 33 + n * code_size, entries_at, table_at, manifest_at, len(raw) - 64]
    header, codes, copy_codes, entries, table, manifest = (raw[a:b] for a, b in pairwise(bounds))
    assert crcs == [zlib.crc32(part) for part in (header, codes, table, manifest)]
    assert struct.unpack("<QII", table) == (len(entries), zlib.crc32(entries), zlib.crc32(copy_codes))
    sizes, times, inodes = (struct.unpack_from(f"<{n}{kind}", entries, 8 * n * i) for i, kind in enumerate("qqQ"))
    offsets = struct.unpack_from(f"<{n + 1}I", entries, 24 * n)
    after = 24 * n + 4 * (n + 1) + offsets[-1]
    names = entries[24 * n + 4 * (n + 1) : after]
    ctimes, devices = (struct.unpack_from(f"<{n}{kind}", entries, after + 8 * n * i) for i, kind in enumerate("qQ"))
    digests = entries[after + 16 * n : after + 32 * n]
    widths, heights = (struct.unpack_from(f"<{n}I", entries, after + 4 * n * i) for i in (8, 9))
    taken = struct.unpack_from(f"<{n}q", entries, after + 40 * n)
    assert after + 48 * n == len(entries)
    values = json.loads(manifest)
    root = os.fsencode(values["root"])
    assert manifest == json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
    assert len(copy_codes) == 32 * n
    here = {"root": os.path.relpath(root).decode(), "sources": [os.path.relpath(path) for path in values["sources"]]}
    lines = [f"{name.decode()} code_size={code_size} n={n} block_rows={block_rows} version={version}"]
    lines += [f"{key}: {json.dumps(value)}" for key, value in (values | here | {"drhn_version": "VERSION"}).items()]
    lines += ["code, size, change, inode, path", "  copy code, width x height, taken"]
    for i in range(n):
        relative = names[offsets[i] : offsets[i + 1]]
        archive, is_member, member = relative.partition(b".tar/")
        path = os.path.join(root, archive + b".tar" if is_member else relative)
        status = os.stat(path)
        assert (ctimes[i], devices[i]) == (status.st_ctime_ns, status.st_dev)
        if is_member:  # the upper half is the place in the archive
            assert inodes[i] & 0xFFFFFFFF == zlib.crc32(b"%d" % status.st_ino)
            with tarfile.open(path) as packed:
                content = packed.extractfile(member.decode()).read()
        else:
            assert inodes[i] == status.st_ino
            content = Path(os.fsdecode(path)).read_bytes()
        assert digests[16 * i : 16 * (i + 1)] == hashlib.sha256(content).digest()[:16]
        place = f"{inodes[i] >> 32:08x}" if is_member else "own"
        code = codes[i * code_size : (i + 1) * code_size].hex()
        lines += [f"{code} {sizes[i]} +{times[i] - TIME_NS} {place} {relative.decode('utf-8', 'backslashreplace')}"]
        lines += [f"  {copy_codes[32 * i : 32 * (i + 1)].hex()} {widths[i]} x {heights[i]} {taken[i]}"]
    return "\n".join(lines) + "\n"


@pytest.mark.usefixtures("hashed")
def test_bytes(golden):
    golden.check_text("code_file.txt", describe_code_file("codes.bin"))


def test_bytes_of_short_codes_of_two_views_of_a_shard(session, golden):
    sources = "hash pictures pictures/packed.tar --hidden"
    assert session(f"{sources} -o codes.bin --weights tiny.npz --bits 12 --tta --shard 2/3 --workers 1") == 0
    golden.check_text("code_file_of_a_shard.txt", describe_code_file("codes-00002-of-00003.bin"))


def without_sources(text):
    return [line for line in text.splitlines() if not line.startswith("sources: ")]


def test_bytes_do_not_depend_on_how_the_work_is_divided(hashed):
    expected = without_sources(describe_code_file("codes.bin"))
    assert hashed("hash pictures pictures/packed.tar -o again.bin --weights tiny.npz --workers 2 --batch-size 3") == 0
    assert without_sources(describe_code_file("again.bin")) == expected
    assert hashed("hash pictures/circle pictures pictures/packed.tar -o codes.bin --rebuild --weights tiny.npz") == 0
    assert without_sources(describe_code_file("codes.bin")) == expected
    for shard in (1, 2):
        assert hashed(f"hash pictures pictures/packed.tar -o part.bin --shard {shard}/2 --weights tiny.npz") == 0
    assert hashed("merge part-00001-of-00002.bin part-00002-of-00002.bin -o merged.bin") == 0
    assert without_sources(describe_code_file("merged.bin")) == expected
