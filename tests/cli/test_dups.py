import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from drhn_cli.cli.app import run
from drhn_cli.codes.manifest import CodeManifest
from drhn_cli.codes.writer import write_code_file
from tests.drawing import write_class_folders
from tests.entries import entries_of

SIZES = {"a/1.jpg": 10, "a/2.jpg": 30, "a/in/3.jpg": 30, "b/4.jpg": 5, "b/5.jpg": 50, "c/6.jpg": 7}
CODES = [0b0000, 0b0001, 0b0000, 0b1111, 0b1111, 0b0111_0000]


@pytest.fixture
def codes(tmp_path, monkeypatch):
    """Groups {1, 3} and {4, 5} of equal codes; 2 is one bit from the first; 6 is alone."""
    monkeypatch.chdir(tmp_path)
    entries = entries_of([os.fsencode(path) for path in SIZES], list(SIZES.values()), [0] * 6)
    manifest = CodeManifest(root=str(tmp_path), n_bits=8, model="none", fingerprint="0" * 64)
    write_code_file("codes.bin", np.array(CODES, dtype=np.uint8)[:, np.newaxis], entries, manifest)
    return "codes.bin"


def test_one_bit_of_64_apart_by_default(similar, drhn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    codes = np.zeros((3, 16), np.uint8)
    codes[1, 0], codes[2, 15] = 0b0011, 0b0111  # 2, 3 and 5 bits from one another
    entries = entries_of([b"0.jpg", b"1.jpg", b"2.jpg"], [3, 2, 1], [0] * 3)
    write_code_file(
        "codes.bin", codes, entries, CodeManifest(root=str(tmp_path), n_bits=128, model="none", fingerprint="0" * 64)
    )
    assert similar("codes.bin").lines == ["0.jpg", "1.jpg"]
    assert drhn("dups", "codes.bin", "--max-distance", "1").status == 1


@pytest.fixture
def similar(drhn):
    """Groups of what the network finds alike."""
    return lambda *arguments: drhn("dups", *arguments, "--like", "similar")


def test_few_bits_are_grouped_when_they_are_equal_the_largest_first(similar, codes):
    result = similar(codes)
    assert (result.status, result.err) == (0, "")
    assert result.lines == ["a/in/3.jpg", "a/1.jpg", "", "b/5.jpg", "b/4.jpg"]


def test_equal_sizes_come_in_the_order_of_paths(similar, codes):
    assert similar(codes, "--max-distance", "1").lines[:3] == [
        "a/2.jpg",
        "a/in/3.jpg",
        "a/1.jpg",
    ]


def test_groups_end_up_as_one_when_the_distance_links_them(similar, codes):
    assert len(similar(codes, "--max-distance", "8").lines) == 6


def test_nul_ends_paths_and_an_empty_entry_stands_between_groups(similar, codes):
    assert similar(codes, "-0").out == b"a/in/3.jpg\0a/1.jpg\0\0b/5.jpg\0b/4.jpg\0"


def test_as_json_with_sizes_and_distances_from_the_first(similar, codes):
    groups = [json.loads(line) for line in similar(codes, "--max-distance", "1", "--json").lines]
    assert groups[0] == {
        "pictures": [
            {"path": "a/2.jpg", "size": 30, "distance": 0},
            {"path": "a/in/3.jpg", "size": 30, "distance": 1},
            {"path": "a/1.jpg", "size": 10, "distance": 1},
        ]
    }
    assert len(groups) == 2


def test_across_the_folders_of_pictures(similar, codes):
    assert similar(codes, "--across").lines == ["a/in/3.jpg", "a/1.jpg"]


def test_across_the_folders_that_are_named(similar, codes):
    assert similar(codes, "--across", "--under", "a", "--under", "b").status == 1
    nested = similar(codes, "--across", "--under", "a", "--under", "a/in", "--under", "b")
    assert nested.lines == ["a/in/3.jpg", "a/1.jpg"]
    assert similar(codes, "--across", "--under", "a").lines == nested.lines


def test_under_leaves_the_other_pictures_out(similar, codes):
    assert similar(codes, "--under", "b").lines == ["b/5.jpg", "b/4.jpg"]
    assert similar(codes, "--under", "a/in").status == 1
    assert similar(codes, "--under", "..").lines == similar(codes).lines
    outside = similar(codes, "--under", "/elsewhere")
    assert (outside.status, "outside of the code file" in outside.err) == (2, True)


def test_exclude_leaves_pictures_and_folders_out(similar, drhn, codes):
    assert similar(codes, "--exclude", "in").lines == ["b/5.jpg", "b/4.jpg"]
    assert similar(codes, "--exclude", "b/4.jpg", "--exclude", "/a/1.jpg").status == 1
    assert drhn(
        "dups", codes, "--like", "similar", "--max-distance", "1", "--under", "a", "--exclude", "1.jpg"
    ).lines == [
        "a/2.jpg",
        "a/in/3.jpg",
    ]


def test_nothing_found_is_status_1(similar, codes):
    result = similar(codes, "--under", "c", "--max-distance", "7")
    assert (result.status, result.out, result.err) == (1, b"", "drhn: nothing found\n")
    assert similar(codes, "--under", "c", "--max-distance", "7", "--quiet") == (1, b"", "")


def test_a_terminal_gets_no_escape_sequences(tmp_path, terminal, codes):  # noqa: ARG001
    manifest = CodeManifest(root=str(tmp_path), n_bits=8, model="none", fingerprint="0" * 64)
    entries = entries_of([b"\x1b[31m.jpg", b"b.jpg"], [2, 1], [0, 0])
    write_code_file("odd.bin", np.zeros((2, 1), np.uint8), entries, manifest)
    stdout, _ = terminal()
    assert run(["dups", "odd.bin", "--like", "similar"]) == 0
    assert stdout.drawn == "\\x1b[31m.jpg\nb.jpg\n"


def test_pictures_that_are_alike_are_found_in_a_folder(similar, update):
    Path("photos/copy").mkdir()
    Path("photos/copy/0.png").write_bytes(Path("photos/circle/0000.png").read_bytes())
    update()
    groups = [json.loads(line)["pictures"] for line in similar("codes.bin", "--across", "--json").lines]
    assert {"photos/copy/0.png", "photos/circle/0000.png"} <= {one["path"] for group in groups for one in group}


def test_hard_links_are_one_picture(similar, drhn, tmp_path, monkeypatch, weights_path):
    monkeypatch.chdir(tmp_path)
    write_class_folders(tmp_path / "all", n=1)
    (first, *_) = sorted(Path("all").rglob("*.png"))
    for path in Path("all").rglob("*.png"):
        if path != first:
            path.unlink()
    os.link(first, "all/link.png")
    assert drhn("hash", "all", "-o", "linked.bin", "--weights", weights_path).status == 0
    assert similar("linked.bin").status == 1
    shutil.copy(first, "all/copy.png")
    assert drhn("hash", "all", "-o", "linked.bin", "--weights", weights_path).status == 0
    assert similar("linked.bin").lines == [str(first), "all/copy.png"]
