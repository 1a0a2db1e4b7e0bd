import json
import os
import sys
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet
import pytest

from drhn_cli.cli.app import run
from drhn_cli.codes.manifest import CodeManifest
from drhn_cli.codes.pack import format_hex, pack_bits
from drhn_cli.codes.reader import CodeFile
from drhn_cli.codes.writer import write_code_file
from tests.entries import entries_of

ODD = b"a\tb\nc\xff.jpg"


@pytest.fixture
def rows(update):
    """``codes.bin`` of ``photos``, as (code, size, mtime_ns, path)."""
    update()
    with CodeFile.open("codes.bin") as file:
        return [
            (format_hex(code), entry.stamp.size, entry.stamp.mtime_ns, f"photos/{os.fsdecode(entry.path)}")
            for code, entry in zip(file.codes, file, strict=True)
        ]


def write_odd(root):
    manifest = CodeManifest(root=str(root), n_bits=12, model="none", fingerprint="1" * 64)
    entries = entries_of([b"z.jpg", ODD], [1, 2], [3, 4])
    write_code_file("odd.bin", np.array([[1, 2], [3, 4]], np.uint8), entries, manifest)


def test_tsv_on_stdout(drhn, rows):
    result = drhn("export", "codes.bin")
    assert (result.status, result.err) == (0, "")
    assert result.lines == ["\t".join(map(str, row)) for row in rows]
    assert len(rows) == 8


def test_a_terminal_gets_no_escape_sequences(tmp_path, terminal, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_odd(tmp_path)
    stdout, _ = terminal()
    assert run(["export", "odd.bin"]) == 0
    assert stdout.drawn.splitlines()[0].split("\t", 3)[3] == r"a\tb\nc\udcff.jpg"


def test_ndjson_in_a_file_and_on_stdout(drhn, rows):
    result = drhn("export", "codes.bin", "-o", "codes.ndjson")
    assert (result.status, result.out, result.err) == (0, b"", "drhn: codes.ndjson: 8 codes\n")
    objects = [json.loads(line) for line in Path("codes.ndjson").read_text().splitlines()]
    assert objects == [dict(zip(("code", "size", "mtime_ns", "path"), row, strict=True)) for row in rows]
    assert drhn("export", "codes.bin", "--format", "ndjson").out == Path("codes.ndjson").read_bytes()


def test_npy_has_the_packed_codes(drhn, rows):
    assert drhn("export", "codes.bin", "-o", "codes.npy", "-q").err == ""
    codes = np.load("codes.npy", allow_pickle=False)
    assert (codes.dtype, [format_hex(code) for code in codes]) == (np.uint8, [row[0] for row in rows])


def test_npz_has_copy_codes_paths_and_sizes_too(drhn, rows):
    assert drhn("export", "codes.bin", "-o", "codes.npz").status == 0
    with np.load("codes.npz", allow_pickle=False) as arrays, CodeFile.open("codes.bin") as file:
        assert sorted(arrays) == ["codes", "copy_codes", "height", "paths", "width"]
        assert [format_hex(code) for code in arrays["codes"]] == [row[0] for row in rows]
        assert arrays["copy_codes"].tolist() == file.copy_codes.tolist()
        assert arrays["copy_codes"].shape == (8, 32)
        assert [os.fsdecode(path) for path in arrays["paths"]] == [row[3] for row in rows]
        assert arrays["width"].tolist() == arrays["height"].tolist() == [16] * 8


def test_npz_of_codes_from_elsewhere_has_no_copy_codes(drhn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_odd(tmp_path)
    assert drhn("export", "odd.bin", "-o", "odd.npz").status == 0
    with np.load("odd.npz", allow_pickle=False) as arrays:
        assert arrays["copy_codes"].shape == (2, 0)
        assert arrays["paths"].tolist() == [ODD, b"z.jpg"]
        assert arrays["width"].tolist() == [0, 0]


def test_parquet_has_the_same_columns(drhn, rows, monkeypatch):
    monkeypatch.setattr("drhn_cli.collection.exchange._PARQUET_ROWS", 3)
    assert drhn("export", "codes.bin", "-o", "codes.parquet").status == 0
    table = pyarrow.parquet.read_table("codes.parquet")
    assert [(row["code"].hex(), row["size"], row["mtime_ns"], row["path"]) for row in table.to_pylist()] == rows
    assert table.schema.metadata[b"drhn.bits"] == b"64"


def test_parquet_without_pyarrow_names_the_extra(drhn, rows, monkeypatch):  # noqa: ARG001
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = drhn("export", "codes.bin", "-o", "codes.parquet")
    assert (result.status, "pip install 'drhn[parquet]'" in result.err) == (2, True)
    assert not Path("codes.parquet").exists()


def test_any_name_survives_text_but_not_parquet(drhn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_odd(tmp_path)
    assert drhn("export", "odd.bin", "-0").out == b"0304\t2\t4\t" + ODD + b"\x000102\t1\t3\tz.jpg\0"
    (first, _) = (json.loads(line) for line in drhn("export", "odd.bin", "--format", "ndjson").lines)
    assert os.fsencode(first["path"]) == ODD
    result = drhn("export", "odd.bin", "-o", "odd.parquet")
    assert (result.status, "not UTF-8" in result.err, Path("odd.parquet").exists()) == (2, True, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "codes.csv"), "expected npy or npz or tsv or ndjson or parquet, found csv"),
        (("-o", "codes"), "found no suffix"),
        (("--format", "npy"), "write to a file with -o"),
        (("-o", "codes.bin", "--format", "tsv"), "would replace the code file"),
        (("-o", "nowhere/codes.tsv"), "cannot write the export"),
    ],
)
def test_what_cannot_be_is_refused(drhn, rows, arguments, message):  # noqa: ARG001
    before = Path("codes.bin").read_bytes()
    result = drhn("export", "codes.bin", *arguments)
    assert (result.status, message in result.err) == (2, True)
    assert Path("codes.bin").read_bytes() == before


@pytest.mark.usefixtures("rows")
def test_pictures_and_other_code_files_are_not_replaced(drhn):
    Path("other.bin").write_bytes(Path("codes.bin").read_bytes())
    Path("holiday.JPG").write_bytes(b"a picture")
    Path("codes.txt").write_bytes(b"an earlier export")
    before = {name: Path(name).read_bytes() for name in ("other.bin", "holiday.JPG")}
    for name, message in (("other.bin", "replace another code file"), ("holiday.JPG", "replace a picture")):
        result = drhn("export", "codes.bin", "-o", name, "--format", "tsv")
        assert (result.status, f"would {message}; give it another name" in result.err) == (2, True)
    assert {name: Path(name).read_bytes() for name in before} == before
    assert drhn("export", "codes.bin", "-o", "codes.txt", "--format", "tsv").status == 0
    assert Path("codes.txt").read_bytes() == drhn("export", "codes.bin", "--format", "tsv").out


def test_what_may_not_be_read_is_one_clear_line_and_stays(drhn, rows, monkeypatch):  # noqa: ARG001
    Path("old.tsv").write_bytes(b"old")

    def refuse(path, *arguments, open_=open, **settings):
        if str(path) == "old.tsv":
            raise PermissionError(13, "Permission denied")
        return open_(path, *arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refuse)
        result = drhn("export", "codes.bin", "-o", "old.tsv")
    assert (result.status, result.err) == (2, "drhn: old.tsv: cannot write the export (found Permission denied)\n")
    assert Path("old.tsv").read_bytes() == b"old"


@pytest.mark.parametrize("rows", ["9" * 22, "4" + "0" * 18])
def test_an_array_of_more_rows_than_there_can_be_is_refused(drhn, tmp_path, monkeypatch, rows):
    monkeypatch.chdir(tmp_path)
    np.save("huge.npy", np.zeros((0, 4), np.uint8))
    content = Path("huge.npy").read_bytes()
    Path("huge.npy").write_bytes(content.replace(b"(0, 4), }" + b" " * (len(rows) - 1), f"({rows}, 4), }}".encode()))
    result = drhn("import", "huge.npy", "--files-from", os.devnull, "-o", "x.bin")
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert "huge.npy: cannot read the codes" in result.err


def test_export_and_import_give_the_same_answers(drhn, rows):
    drhn("export", "codes.bin", "-o", "codes.npy")
    Path("paths.txt").write_text("".join(f"{row[3]}\n" for row in rows))
    result = drhn("import", "codes.npy", "--files-from", "paths.txt", "-o", "new.bin", "--bits", "64")
    assert (result.status, result.err) == (0, "drhn: new.bin: 8 codes of 64 bits\n")
    for query in ([rows[0][3]], ["--code", rows[1][0]]):
        assert drhn("query", *query, "new.bin").out == drhn("query", *query, "codes.bin").out != b""
    assert "model: imported" in drhn("info", "new.bin", "--verify").lines
    assert faiss.read_index_binary("new.bin").ntotal == 8
    drhn("export", "new.bin", "-o", "again.npy")
    assert Path("again.npy").read_bytes() == Path("codes.npy").read_bytes()


@pytest.mark.parametrize("command", ["query", "hash"])
def test_pictures_have_no_code_in_an_imported_file(drhn, rows, command):  # noqa: ARG001
    np.save("codes.npy", np.zeros((1, 8), np.uint8))
    drhn("import", "codes.npy", "--files-from", "-", "-o", "new.bin", stdin=b"gone.png\n")
    assert drhn("query", "gone.png", "new.bin").lines == ["0\tgone.png"]
    picture = "photos/circle/0000.png"
    result = drhn(*((command, picture, "new.bin") if command == "query" else (command, picture, "-o", "new.bin")))
    assert (result.status, "no network made these codes" in result.err) == (2, True)


def test_bits_and_bytes_are_the_same_codes_sorted_by_path(drhn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bits = np.random.default_rng(0).random((3, 12)) < 0.5
    np.save("bits.npy", bits)
    np.save("bytes.npy", pack_bits(bits))
    names = b"z\0" + ODD + b"\0m/n\0"
    told = drhn("import", "bits.npy", "--files-from", "-", "-0", "-o", "1.bin", "--json", stdin=names)
    assert json.loads(told.out) == {"n_items": 3, "n_bits": 12}
    list_ = ("--files-from", "-", "-0")
    assert drhn("import", "bytes.npy", *list_, "-o", "2.bin", "--bits", "12", stdin=names).status == 0
    assert Path("1.bin").read_bytes() == Path("2.bin").read_bytes()
    with CodeFile.open("1.bin") as file:
        assert [entry.path for entry in file] == [ODD, b"m/n", b"z"]
        assert np.array_equal(file.codes, pack_bits(bits)[[1, 2, 0]])


def test_nothing_can_be_imported(drhn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("codes.npy", np.zeros((0, 2), np.uint8))
    assert drhn("import", "codes.npy", "--files-from", "-", "-o", "1.bin").err == "drhn: 1.bin: 0 codes of 16 bits\n"


@pytest.mark.parametrize(
    ("array", "paths", "bits", "message"),
    [
        (np.zeros((2, 2), np.uint8), b"a\n", (), "expected 2, found 1 paths"),
        (np.zeros((2, 2), np.uint8), b"a\n./a\n", (), "two entries have the same path (found a)"),
        (np.zeros((2, 2), np.uint8), b"a\n/\n", (), "/: no picture has this path; remove it from the list"),
        (np.zeros((1, 2), np.uint8), b"a\n", ("--bits", "17"), "17 bits, 2 columns of uint8"),
        (np.zeros((1, 2), np.bool_), b"a\n", ("--bits", "3"), "3 bits, 2 columns of bool"),
        (np.zeros((1, 0), np.uint8), b"a\n", (), "0 bits, 0 columns"),
        (np.full((1, 2), 255, np.uint8), b"a\n", ("--bits", "12"), "bits set beyond their length"),
        (np.zeros(2, np.uint8), b"a\n", (), "found shape (2,) uint8"),
        (np.zeros((1, 2)), b"a\n", (), "found shape (1, 2) float64"),
        (np.array([[{}]], dtype=object), b"a\n", (), "cannot read the codes"),
    ],
)
def test_what_does_not_fit_is_refused(drhn, tmp_path, monkeypatch, array, paths, bits, message):
    monkeypatch.chdir(tmp_path)
    np.save("codes.npy", array)
    result = drhn("import", "codes.npy", "--files-from", "-", "-o", "new.bin", *bits, stdin=paths)
    assert (result.status, message in result.err) == (2, True), result.err
    assert not Path("new.bin").exists()


def test_other_files_are_no_arrays_and_are_not_replaced(drhn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("codes.npz", codes=np.zeros((1, 2), np.uint8))
    Path("empty.npy").touch()
    Path("codes.bin").write_bytes(b"IBxF")
    foreign = dict.fromkeys(("codes.npz", "codes.bin", "empty.npy"), "expected a .npy file")
    for name, told in {**foreign, "none.npy": "No such file"}.items():
        result = drhn("import", name, "--files-from", "-", "-o", "new.bin", stdin=b"a\n")
        assert (result.status, told in result.err, "pickle" in result.err) == (2, True, False), result.err
    np.save("codes.npy", np.zeros((1, 2), np.uint8))
    Path("letter.txt").write_text("Dear")
    assert drhn("import", "codes.npy", "--files-from", "-", "-o", "letter.txt", stdin=b"a\n").status == 2
    assert Path("letter.txt").read_text() == "Dear"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX only")
def test_a_pipe_is_no_array_and_nobody_waits_for_its_writer(start, tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    process = start("import", "pipe.npy", "--files-from", "-", "-o", "new.bin", cwd=tmp_path)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.decode()) == (
        2,
        "drhn: pipe.npy: cannot read the codes (expected a .npy file, found a folder, pipe or device); "
        "write it to a file first: it is mapped, not read\n",
    )


@pytest.mark.usefixtures("rows")
def test_json_is_rows_on_stdout_and_what_was_done_with_a_file(drhn):
    lines = drhn("export", "codes.bin", "--json")
    assert (lines.status, lines) == (0, drhn("export", "codes.bin", "--format", "ndjson"))
    result = drhn("export", "codes.bin", "-o", "codes.npy", "--json")
    assert (result.status, result.err) == (0, "")
    assert json.loads(result.out) == {"n_items": 8, "format": "npy"}
    wrong = drhn("export", "codes.bin", "--json", "--format", "tsv")
    problem = "no such format for stdout (expected ndjson, found tsv)"
    assert (wrong.status, [json.loads(line)["error"].startswith(problem) for line in wrong.lines]) == (2, [True])
    assert problem in wrong.err
