import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from drhn_cli.codes import layout
from drhn_cli.codes.manifest import CodeManifest, Shard
from drhn_cli.codes.reader import CodeFile
from drhn_cli.codes.writer import write_code_file
from drhn_cli.collection.merge import merge_codes
from drhn_cli.errors import CodeFileError, DrhnError
from tests.entries import entries_of
from tests.locking import lock_code_file


def write(path, names, *, root="/photos", n_bits=12, fingerprint="f" * 64, model="fast", shard=None):
    """Write a code file of these paths, whose rows follow from the names alone."""
    entries = entries_of(names, [len(n) for n in names], [hash_of(n) for n in names], range(len(names)))
    numbers = np.array([hash_of(name) % (1 << n_bits) for name in names], dtype="<u8")
    codes = numbers[:, np.newaxis].view(np.uint8)[:, : (n_bits + 7) // 8]
    made_by = {"model": model, "fingerprint": fingerprint, "preprocessing": {"size": 8}}
    manifest = CodeManifest(root=root, n_bits=n_bits, shard=shard, **made_by)
    write_code_file(path, codes, entries, manifest)


def hash_of(name):
    return int.from_bytes(name[-8:]) * 2654435761 % (1 << 40)


def split(names, n_parts, seed=0):
    owners = np.random.default_rng(seed).integers(0, n_parts, len(names)).tolist()
    return [[name for name, owner in zip(names, owners, strict=True) if owner == part] for part in range(n_parts)]


def rows_of(path):
    with CodeFile.open(path) as file:
        file.verify()
        return {
            os.path.join(os.fsencode(file.root), entry.path): bytes(c)
            for entry, c in zip(file, file.codes, strict=True)
        }


@pytest.mark.parametrize("n_bits", [12, 48])
@pytest.mark.parametrize("n_items", [0, 1, 5, 4096, 8192, 20_001])
@pytest.mark.parametrize("n_parts", [1, 3])
def test_parts_however_they_interleave_give_the_bytes_of_the_whole(tmp_path, monkeypatch, n_items, n_parts, n_bits):
    monkeypatch.chdir(tmp_path)
    names = [b"%d/%d.jpg" % (i % 7, i) for i in range(n_items)]
    write("whole.bin", names, n_bits=n_bits)
    with CodeFile.open("whole.bin") as whole:
        rank = {entry.path: entry.stamp.inode for entry in whole}
    parts = split(names, n_parts)
    for i, part in enumerate(parts):
        write(f"{i}.bin", part, n_bits=n_bits)
        # Inodes are numbered by place; the merged file has those of its parts.
        rank.update({name: inode for inode, name in enumerate(part)})
    summary = merge_codes([f"{i}.bin" for i in range(n_parts)], "merged.bin")
    assert (summary.n_parts, summary.n_items, summary.root) == (n_parts, n_items, "/photos")
    entries = entries_of(names, [len(n) for n in names], [hash_of(n) for n in names], [rank[n] for n in names])
    with CodeFile.open("whole.bin") as whole:
        order = {entry.path: row for row, entry in enumerate(whole)}
        write_code_file("whole.bin", whole.codes[[order[name] for name in names]], entries, whole.manifest)
    assert Path("merged.bin").read_bytes() == Path("whole.bin").read_bytes()


def test_contiguous_parts_give_the_bytes_of_the_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(layout, "BLOCK_ROWS", 4)
    monkeypatch.setattr("drhn_cli.collection.merge.BLOCK_ROWS", 4)
    names = [b"%03d" % i for i in range(50)]
    for path, part in (("a.bin", names[30:]), ("b.bin", names[:13]), ("c.bin", names[13:30])):
        write(path, part)
    merge_codes(["a.bin", "b.bin", "c.bin"], "merged.bin")
    with CodeFile.open("merged.bin") as file:
        file.verify()
        assert [entry.path for entry in file] == names
        assert [int.from_bytes(code, "little") for code in file.codes.tolist()] == [hash_of(n) % 4096 for n in names]


def test_paths_of_other_roots_become_relative_to_the_common_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("a.bin", [b"x", b"y/z"], root="/photos/2024")
    write("b.bin", [b"x", b"2024-x"], root="/photos")
    write("c.bin", [b"x"], root="/photos/trips/far")
    expected = rows_of("a.bin") | rows_of("b.bin") | rows_of("c.bin")
    merge_codes(["a.bin", "b.bin", "c.bin"], "merged.bin")
    with CodeFile.open("merged.bin") as file:
        assert file.root == "/photos"
        assert [entry.path for entry in file] == [b"2024-x", b"2024/x", b"2024/y/z", b"trips/far/x", b"x"]
    assert rows_of("merged.bin") == expected
    write("d.bin", [b"x"], root="/elsewhere")
    merge_codes(["merged.bin", "d.bin"], "all.bin")
    assert rows_of("all.bin") == expected | rows_of("d.bin")


def test_the_same_picture_in_two_parts_is_refused_naming_both(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("a.bin", [b"2024/%d" % i for i in range(9000)])
    write("b.bin", [b"00", b"8999"], root="/photos/2024")
    Path("merged.bin").touch()
    with pytest.raises(CodeFileError, match=r"^(a|b)\.bin: two parts .*2024/8999, also in (a|b)\.bin"):
        merge_codes(["a.bin", "b.bin"], "merged.bin")
    assert sorted(os.listdir()) == [".merged.bin.lock", "a.bin", "b.bin", "merged.bin"]
    assert Path("merged.bin").read_bytes() == b""
    with pytest.raises(CodeFileError, match="same picture"):
        merge_codes(["a.bin", "a.bin"], "merged.bin")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"fingerprint": "e" * 64, "model": "mine"},
            r"b\.bin: not of .*expected fast \(ffffffffffff\), 12 bits, found mine \(e",
        ),
        ({"n_bits": 16}, r"b\.bin: not of .*12 bits, found fast \(ffffffffffff\), 16 bits.*--bits"),
    ],
)
def test_parts_of_another_model_or_length_are_refused(tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    write("a.bin", [b"a"])
    write("b.bin", [b"b"], **settings)
    with pytest.raises(CodeFileError, match=message):
        merge_codes(["a.bin", "b.bin"], "merged.bin")
    assert not Path("merged.bin").exists()


def test_missing_parts_are_refused_and_named_unless_that_is_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in (1, 3, 4):
        write(f"{number}.bin", [b"%d" % number], shard=Shard(number=number, count=4))
    with pytest.raises(
        CodeFileError, match=r"parts are missing \(expected all 4 of /photos, found 2, without 2, 3\).*--p"
    ):
        merge_codes(["1.bin", "4.bin"], "merged.bin")
    merge_codes(["1.bin", "4.bin"], "some.bin", partial=True)
    with CodeFile.open("some.bin") as file:
        assert (len(file), file.manifest.shard) == (2, None)
    write("2.bin", [b"2"], root="/other", shard=Shard(number=2, count=4))  # of another collection
    with pytest.raises(CodeFileError, match=r"expected all 4 of /photos, found 3, without 2"):
        merge_codes([f"{number}.bin" for number in range(1, 5)], "merged.bin")
    write("2.bin", [], shard=Shard(number=2, count=4))
    assert merge_codes([f"{number}.bin" for number in range(1, 5)], "merged.bin").n_items == 3
    write("1.bin", [b"a"], shard=Shard(number=1, count=99))
    with pytest.raises(CodeFileError, match=r"found 1, without 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, \.\.\."):
        merge_codes(["1.bin"], "merged.bin")


@pytest.mark.parametrize("place", [34, -100])
def test_a_damaged_part_is_refused(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    write("a.bin", [b"a"])
    write("b.bin", [b"b", b"c"])
    content = bytearray(Path("b.bin").read_bytes())
    content[place] ^= 1
    Path("b.bin").write_bytes(content)
    with pytest.raises(CodeFileError, match=r"b\.bin: damaged"):
        merge_codes(["a.bin", "b.bin"], "merged.bin")


def test_the_output_may_be_a_part(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("a.bin", [b"a", b"c"])
    write("b.bin", [b"b"])
    expected = rows_of("a.bin") | rows_of("b.bin")
    merge_codes(["a.bin", "b.bin"], "a.bin")
    assert rows_of("a.bin") == expected


def test_what_is_no_code_file_is_not_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("a.bin", [b"a"])
    Path("letter").write_text("Dear reader")
    with pytest.raises(CodeFileError, match="would be overwritten"):
        merge_codes(["a.bin"], "letter")
    assert Path("letter").read_text() == "Dear reader"


def test_nothing_and_missing_parts_are_errors(tmp_path):
    with pytest.raises(DrhnError, match="nothing to merge"):
        merge_codes([], tmp_path / "merged.bin")
    with pytest.raises(CodeFileError, match="no such code file"):
        merge_codes([tmp_path / "a.bin"], tmp_path / "merged.bin")


def test_parts_on_different_drives_are_refused(tmp_path, monkeypatch):
    def refuse(_):
        raise ValueError("Paths don't have the same drive")

    write(tmp_path / "a.bin", [b"a"])
    monkeypatch.setattr(os.path, "commonpath", refuse)
    with pytest.raises(CodeFileError, match="no folder in common"):
        merge_codes([tmp_path / "a.bin"], tmp_path / "merged.bin")


def test_another_writer_of_the_output_is_not_disturbed(tmp_path, monkeypatch):
    write(tmp_path / "a.bin", [b"a"])
    monkeypatch.setattr("drhn_cli.codes.writer.LOCK_TIMEOUT_SECONDS", 0)
    with lock_code_file(tmp_path / "merged.bin"), pytest.raises(CodeFileError, match="another drhn"):
        merge_codes([tmp_path / "a.bin"], tmp_path / "merged.bin")


def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    peaks = []
    for n_items in (40_000, 160_000):
        for i, names in enumerate(split([b"%09d.jpg" % i for i in range(n_items)], 2)):
            write(f"{i}.bin", names)
        tracemalloc.start()
        merge_codes(["0.bin", "1.bin"], "merged.bin")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_the_command(drhn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("a.bin", [b"a"])
    write("b.bin", [b"b"])
    result = drhn("merge", "a.bin", "b.bin", "-o", "merged.bin")
    assert (result.status, result.out) == (0, b"")
    assert result.err.startswith("drhn: merged.bin: 2 pictures of 2 code files in ")
    result = drhn("merge", "a.bin", "b.bin", "-o", "merged.bin", "--json")
    assert b'{"n_parts": 2, "n_items": 2, "root": "/photos", "seconds": 0.' in result.out
    assert drhn("merge", "a.bin", "b.bin", "-o", "merged.bin", "-q") == (0, b"", "")
    assert drhn("merge", "a.bin", "a.bin", "-o", "merged.bin").status == 2
    write("b.bin", [b"b"], shard=Shard(number=2, count=2))
    assert drhn("merge", "a.bin", "b.bin", "-o", "merged.bin").status == 2
    assert drhn("merge", "a.bin", "b.bin", "-o", "merged.bin", "--partial").status == 0
