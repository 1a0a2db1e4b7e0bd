import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from drhn_cli.codes import layout
from drhn_cli.codes.entries import CONTENT_DTYPE, NOT_READ, Entries
from drhn_cli.codes.manifest import CodeManifest, CopyCodes, LastRun, Shard
from drhn_cli.codes.reader import CodeFile
from drhn_cli.codes.writer import write_code_file
from drhn_cli.collection.merge import merge_codes
from drhn_cli.errors import CodeFileError, DrhnError
from tests.entries import entries_of
from tests.locking import lock_code_file
from tests.old_files import make_version_1


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


def write_with_copy_codes(path, names, copy_codes, *, sources=None, options=None, **settings):
    """Write a code file whose pictures were read, with copy codes of this kind."""
    n, run = len(names), options and LastRun(sources=sources, options=options)
    contents = np.full(n, NOT_READ, CONTENT_DTYPE)
    contents["digest"], contents["width"] = [name.ljust(16, b"x") for name in names], [len(name) for name in names]
    entries = entries_of(names, range(n), range(n))
    entries = Entries.from_stamps(names, entries.stamps, contents)
    manifest = CodeManifest(
        root="/photos", n_bits=8, model="fast", fingerprint="f" * 64, copy_codes=copy_codes, last_run=run, **settings
    )
    rows = np.array([list(name.ljust(64, b"y"))[: copy_codes.size] for name in names], np.uint8)
    write_code_file(path, np.zeros((n, 1), np.uint8), entries, manifest, rows)


@pytest.mark.parametrize("kind", [CopyCodes(dct=1), CopyCodes(dct=2, head="a" * 64)])
def test_copy_codes_and_contents_are_joined(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    write_with_copy_codes("1.bin", [b"a", b"c"], kind)
    write_with_copy_codes("2.bin", [b"b"], kind)
    write_with_copy_codes("whole.bin", [b"a", b"b", b"c"], kind)
    merge_codes(["1.bin", "2.bin"], "merged.bin")
    with CodeFile.open("merged.bin") as merged, CodeFile.open("whole.bin") as whole:
        merged.verify()
        assert merged.manifest == whole.manifest
        assert merged.copy_codes.tolist() == whole.copy_codes.tolist()
        assert [(entry.digest, entry.width) for entry in merged] == [(entry.digest, entry.width) for entry in whole]


def test_what_a_part_of_an_older_version_does_not_know_stays_unknown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_with_copy_codes("1.bin", [b"b"], CopyCodes(dct=1))
    write("2.bin", [b"a", b"c"], n_bits=8, model="fast")
    make_version_1("2.bin")
    manifest_of = {"preprocessing": {"size": 8}}
    write_with_copy_codes("1.bin", [b"b"], CopyCodes(dct=1), **manifest_of)
    for parts in (["1.bin", "2.bin"], ["2.bin", "1.bin"]):
        merge_codes(parts, "merged.bin")
        with CodeFile.open("merged.bin") as merged:
            merged.verify()
            assert merged.manifest.copy_codes == CopyCodes(dct=1)
            assert merged.entries().are_read().tolist() == [False, True, False]
            assert [any(row) for row in merged.copy_codes.tolist()] == [False, True, False]


@pytest.mark.parametrize("other", [CopyCodes(dct=2), CopyCodes(dct=1, head="a" * 64)])
def test_copy_codes_of_different_kinds_are_refused(tmp_path, monkeypatch, other):
    monkeypatch.chdir(tmp_path)
    write_with_copy_codes("1.bin", [b"a"], CopyCodes(dct=1))
    write_with_copy_codes("2.bin", [b"b"], other)
    with pytest.raises(CodeFileError, match=r"2.bin: copy codes of another kind .expected version 1, no head, found"):
        merge_codes(["1.bin", "2.bin"], "merged.bin")


def test_the_run_that_would_make_the_whole_is_noted_if_options_are_equal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def merged_run(*runs):
        for number, (sources, options) in enumerate(runs):
            write_with_copy_codes(f"{number}.bin", [b"%d" % number], CopyCodes(dct=1), sources=sources, options=options)
        merge_codes([f"{number}.bin" for number in range(len(runs))], "merged.bin")
        with CodeFile.open("merged.bin") as file:
            return file.manifest.last_run

    one, other = {"hidden": True}, {"hidden": False}
    assert merged_run((["/a", "/b"], one), (["/b", "/c"], one)) == LastRun(sources=["/a", "/b", "/c"], options=one)
    assert merged_run((["/a"], one), (["/b"], other)) is None
    assert merged_run((["/a"], one), (None, one)) is None
    assert merged_run((["/a"], one), (None, None)) is None


def test_a_part_that_says_it_is_one_of_many_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("part.bin", [b"a"], shard=Shard(number=1, count=10**9))
    with pytest.raises(CodeFileError, match=r"all 1000000000 of /photos, found 1, without 2, 3, .*, 11, \.\.\."):
        merge_codes(["part.bin"], "merged.bin")


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
