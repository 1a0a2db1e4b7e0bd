import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drhn_cli.cli.app import run
from drhn_cli.codes.manifest import CodeManifest
from drhn_cli.codes.writer import write_code_file
from tests.entries import entries_of
from tests.scenes import draw_scene, write_codes

SHELL = "/bin/sh"
DAY = 24 * 3600
FIRST = 1_700_000_000


def save(path, image, day, **options):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    os.utime(path, (FIRST + day * DAY,) * 2)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Four scenes, and copies of the first in ``copies``, made later."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in range(4):
        save(f"photos/{number}.jpg", draw_scene(number), number, quality=92)
    first = Image.open("photos/0.jpg")
    os.mkdir("photos/copies")
    shutil.copy("photos/0.jpg", "photos/copies/renamed.jpg")
    os.utime("photos/copies/renamed.jpg", (FIRST + 10 * DAY,) * 2)
    save("photos/copies/0.png", first, 11)
    save("photos/copies/again.jpg", first, 12, quality=50)
    save("photos/copies/cropped.jpg", first.crop((30, 20, 290, 220)), 13, quality=90)
    save("photos/copies/turned.jpg", first.transpose(Image.Transpose.ROTATE_90), 14, quality=90)
    save("photos/copies/half.jpg", first.resize((160, 120)), 15, quality=90)
    os.link("photos/0.jpg", "photos/copies/hard.jpg")
    os.symlink("../0.jpg", "photos/copies/soft.jpg")
    return Path("photos")


COPIES = {"renamed.jpg", "0.png", "again.jpg", "cropped.jpg", "turned.jpg", "half.jpg"}
WORDS = {
    "photos/copies/renamed.jpg": "same file",
    "photos/copies/0.png": "same pixels",
    "photos/copies/again.jpg": "recompressed",
    "photos/copies/turned.jpg": "turned",
    "photos/copies/half.jpg": "resized",
    "photos/copies/cropped.jpg": "cropped to 68 %",
}


def names(result):
    return {os.path.basename(line) for line in result.lines}


def test_copies_are_named_and_the_original_comes_first(drhn, folder):
    result = drhn("dups", write_codes(folder), "--json", "-q")
    (group,) = [json.loads(line)["pictures"] for line in result.lines]
    assert (result.status, result.err) == (0, "")
    assert group[0] == {
        "path": "photos/0.jpg",
        "size": os.path.getsize("photos/0.jpg"),
        "width": 320,
        "height": 240,
        "verdict": None,
        "may_go": False,
    }
    assert {one["path"]: one["verdict"] for one in group[1:]} == WORDS
    assert all(one["may_go"] for one in group[1:])


def test_the_script_removes_copies_and_neither_an_original_nor_a_link_to_it(drhn, folder):
    before = {path: path.read_bytes() for path in folder.glob("*.jpg")}
    result = drhn("dups", write_codes(folder), "--script", "remove.sh")
    assert "read remove.sh before you run it" in result.err
    assert sorted(folder.rglob("*")) == sorted([*before, *(folder / "copies").iterdir(), folder / "copies"])
    subprocess.run([SHELL, "remove.sh"], check=False)
    assert {path: path.read_bytes() for path in folder.glob("*.jpg")} == before
    assert {path.name for path in (folder / "copies").iterdir()} == {"hard.jpg", "soft.jpg"}
    assert (folder / "copies" / "soft.jpg").read_bytes() == before[folder / "0.jpg"]
    assert drhn("dups", write_codes(folder)).status == 1


def test_omit_first_prints_what_may_go(drhn, folder):
    result = drhn("dups", write_codes(folder), "--omit-first", "-0", "-q")
    assert {os.path.basename(path) for path in result.out.decode().split("\0")[:-1]} == COPIES


@pytest.mark.parametrize("keep", ["largest", "oldest", "newest", "shortest-path"])
@pytest.mark.parametrize("oldest_first", [True, False])
def test_no_only_copy_goes_whatever_is_kept_and_however_old(drhn, folder, keep, oldest_first):
    if not oldest_first:
        for number, path in enumerate(sorted(folder.rglob("*.*"), reverse=True)):
            os.utime(path, (FIRST + number * DAY,) * 2)
    drhn("dups", write_codes(folder), "--keep", keep, "--script", "remove.sh")
    subprocess.run([SHELL, "remove.sh"], check=False)
    left = [path for path in folder.rglob("*.*") if path.is_file()]
    assert {f"{number}.jpg" for number in (1, 2, 3)} <= {path.name for path in left}
    whole = {"0.jpg", "renamed.jpg", "0.png", "again.jpg", "turned.jpg", "half.jpg"}
    assert whole & {path.name for path in left}  # not only the crop
    if keep == "largest":
        assert {"0.jpg", "renamed.jpg", "0.png", "again.jpg", "turned.jpg"} & {path.name for path in left}


def test_a_crop_without_its_original_stays(drhn, folder):
    os.remove(folder / "0.jpg")
    for path in (folder / "copies").iterdir():
        if path.name not in ("cropped.jpg", "half.jpg"):
            path.unlink()
    result = drhn("dups", write_codes(folder), "--json")
    assert [[one["may_go"] for one in json.loads(line)["pictures"]] for line in result.lines] == [[False, False]]
    result = drhn("dups", "codes.bin", "--omit-first")
    assert (result.status, result.out) == (1, b"")
    assert drhn("dups", "codes.bin", "--omit-first", "--json").out == b""


def test_an_original_stays_where_a_framed_copy_has_more_pixels(drhn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scene = draw_scene(5)
    framed = Image.new("RGB", (400, 320), "white")
    framed.paste(scene, (40, 40))
    save("photos/framed.png", framed, 1)
    save("photos/original.png", scene, 0)
    (group,) = [json.loads(line)["pictures"] for line in drhn("dups", write_codes(Path("photos")), "--json").lines]
    told = {one["path"]: (one["verdict"], one["may_go"]) for one in group}
    assert told == {"photos/original.png": (None, False), "photos/framed.png": ("framed", True)}
    drhn("dups", "codes.bin", "--keep", "newest", "--script", "remove.sh")
    assert "rm" not in Path("remove.sh").read_text()


def test_a_margin_that_was_cut_away_is_not_taken_for_a_frame(drhn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    product = Image.new("RGB", (400, 320), "white")
    product.paste(draw_scene(5), (40, 40))
    save("photos/original.png", product, 0)
    save("photos/tight.png", product.crop((20, 20, 380, 300)), 1)
    save("photos/again.jpg", product, 2, quality=20)
    group = json.loads(drhn("dups", write_codes(Path("photos")), "--json").lines[0])["pictures"]
    assert group[0]["path"] == "photos/original.png"
    assert {one["path"]: one["may_go"] for one in group[1:]} == {"photos/tight.png": False, "photos/again.jpg": True}


def test_keep_in_protects_a_folder_and_what_is_linked_into_it(drhn, folder):
    write_codes(folder)
    everything = drhn("dups", "codes.bin", "--keep-in", "photos/copies", "--omit-first")
    assert everything.out == b""  # a link of the original is there, too
    (folder / "best").mkdir()
    (folder / "copies" / "again.jpg").rename(folder / "best" / "again.jpg")
    write_codes(folder)
    assert drhn("dups", "codes.bin", "--keep-in", "photos/best", "-q").lines[0] == "photos/best/again.jpg"
    going = names(drhn("dups", "codes.bin", "--keep-in", "photos/best", "--omit-first"))
    assert going == (COPIES | {"0.jpg", "hard.jpg", "soft.jpg"}) - {"again.jpg"}


def test_what_is_gone_or_changed_is_never_kept(drhn, folder):
    codes = write_codes(folder)
    os.remove(folder / "0.jpg")
    os.remove(folder / "copies" / "hard.jpg")
    (folder / "copies" / "renamed.jpg").write_bytes((folder / "1.jpg").read_bytes())
    result = drhn("dups", codes, "--json")
    (group,) = [json.loads(line)["pictures"] for line in result.lines]
    assert {os.path.basename(one["path"]) for one in group} == {
        "0.png",
        "again.jpg",
        "cropped.jpg",
        "turned.jpg",
        "half.jpg",
    }
    assert "4 pictures are gone or have changed and are left out" in result.err


def test_a_file_of_the_same_size_and_time_is_read_again(drhn, folder):
    path = folder / "copies" / "renamed.jpg"
    codes, stamp = write_codes(folder), path.stat()
    data = bytearray(path.read_bytes())
    data[-30] ^= 1
    path.unlink()
    path.write_bytes(data)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert path.name not in names(drhn("dups", codes, "--like", "file"))


def test_links_alone_are_no_copies(drhn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("photos/a.jpg", draw_scene(1), 0)
    os.link("photos/a.jpg", "photos/b.jpg")
    os.symlink("a.jpg", "photos/c.jpg")
    for like in ("file", "pixels", "copy"):
        assert drhn("dups", write_codes(Path("photos")), "--like", like).status == 1


def test_levels_of_likeness(drhn, folder):
    codes = write_codes(folder)
    assert names(drhn("dups", codes, "--like", "file")) == {"0.jpg", "renamed.jpg"}
    assert names(drhn("dups", codes, "--like", "pixels")) == {"0.jpg", "renamed.jpg", "0.png"}
    unopened = drhn("dups", codes, "--no-open", "--json").lines
    (group,) = [json.loads(line)["pictures"] for line in unopened]
    assert {one["verdict"] for one in group[1:]} == {"same file", "not opened"}
    assert not any(one["may_go"] for one in group)  # the one to keep may be gone


def test_similar_needs_no_copy_codes_and_takes_no_options_of_copies(drhn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest = CodeManifest(root=str(tmp_path), n_bits=8, model="none", fingerprint="0" * 64)
    write_code_file("old.bin", np.zeros((2, 1), np.uint8), entries_of([b"a", b"b"], [2, 1], [0, 0]), manifest)
    result = drhn("dups", "old.bin")
    assert result.status == 2
    assert "has no copy codes" in result.err
    assert "drhn hash" in result.err
    assert "--like similar" in result.err
    assert drhn("dups", "old.bin", "--max-distance", "0").lines == ["a", "b"]
    assert drhn("dups", "old.bin", "--like", "similar", "--omit-first").status == 2
    assert drhn("dups", "old.bin", "--like", "copy", "--max-distance", "0").status == 2


def test_strict_groups_have_a_reference_and_chains_hang_together(drhn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scene = draw_scene(3, (480, 240))
    # The first is a crop of the second and the third of the fourth, but the second shares little with the fourth.
    save("photos/a.png", scene.crop((0, 0, 300, 240)), 0)
    save("photos/b.png", scene.crop((0, 0, 390, 240)), 1)
    save("photos/c.png", scene.crop((290, 0, 480, 240)), 2)
    save("photos/d.png", scene.crop((270, 0, 480, 240)), 3)
    groups = drhn("dups", write_codes(Path("photos")), "-q").out.decode().split("\n\n")
    assert [set(group.split()) for group in groups] == [
        {"photos/a.png", "photos/b.png"},
        {"photos/c.png", "photos/d.png"},
    ]


def test_paths_of_any_bytes_are_quoted(drhn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("photos/first.png", draw_scene(1), 0)
    for odd in (b"it's; touch bad", b"-rf", b"$(touch bad)", b"new\nline", b"\xff\xfe"):
        path = os.path.join(b"photos", odd + b".png")
        shutil.copy("photos/first.png", path)
        os.utime(path, (FIRST + DAY,) * 2)
    drhn("dups", write_codes(Path("photos")), "--script", "remove.sh")
    subprocess.run([SHELL, "remove.sh"], check=True)
    assert os.listdir("photos") == ["first.png"]
    assert not Path("bad").exists()


def test_a_script_replaces_nothing_but_a_script(drhn, folder):
    codes = write_codes(folder)
    Path("note.txt").write_text("mine")
    assert drhn("dups", codes, "--script", "note.txt").status == 2
    assert Path("note.txt").read_text() == "mine"
    assert [drhn("dups", codes, "--script", "remove.sh").status for _ in range(2)] == [0, 0]


def test_a_removal_waits_for_the_one_that_is_kept(drhn, folder):
    drhn("dups", write_codes(folder), "--script", "remove.sh")
    os.remove(folder / "0.jpg")
    subprocess.run([SHELL, "remove.sh"], check=False)
    assert {path.name for path in (folder / "copies").iterdir()} >= COPIES


def test_a_second_run_opens_nothing(drhn, folder, monkeypatch):
    codes = write_codes(folder)
    first = drhn("dups", codes)
    monkeypatch.setattr("drhn_cli.retrieval.pairs.open_picture", None)
    assert drhn("dups", codes) == first
    with pytest.raises(TypeError):
        drhn("dups", codes, "--no-cache")


def test_without_a_cache_folder_nothing_is_kept(drhn, folder, monkeypatch):
    Path("a-file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", "a-file")
    codes = write_codes(folder)
    assert [drhn("dups", codes).status for _ in range(2)] == [0, 0]


def test_a_picture_that_cannot_be_read_is_reported_and_left_out(drhn, folder, monkeypatch):
    codes = write_codes(folder)
    from drhn_cli.retrieval import pairs

    opening = pairs.open_picture

    def fail(source):
        if source.endswith(b"half.jpg"):
            raise pairs.ImageError("damaged", path=source)
        return opening(source)

    monkeypatch.setattr(pairs, "open_picture", fail)
    result = drhn("dups", codes)
    assert "half.jpg: damaged" in result.err
    assert names(result) == (COPIES | {"0.jpg"}) - {"half.jpg"}


def test_a_terminal_gets_a_table(folder, terminal):
    codes = write_codes(folder)
    stdout, stderr = terminal()
    assert run(["dups", codes]) == 0
    lines = re.sub(r"\x1b\[\d*m", "", stdout.drawn).splitlines()
    assert lines[0].split() == ["pixels", "size", "changed", "how", "it", "was", "made", "path"]
    assert lines[1].split()[:2] == ["keep", "320x240"]
    assert any(line.split()[:2] == ["may", "go"] and "cropped to 68 %" in line for line in lines)
    assert "1 group of 7 pictures; 6 files may go" in stderr.drawn


def test_across_folders(drhn, folder):
    assert drhn("dups", write_codes(folder), "--across").status == 0
    assert drhn("dups", "codes.bin", "--across", "--under", "photos/copies").status == 1
