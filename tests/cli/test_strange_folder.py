"""A folder of everything that is no plain picture under a plain name, in a process of its own."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from PIL import Image

from drhn_cli.codes.reader import CodeFile
from tests.damage import png_of_size
from tests.drawing import draw_picture

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")

DEPTH = 60
FAILURES = {
    b"empty.jpg": "empty (expected a picture, found 0 bytes)",
    b"cut\nshort.png": "damaged or cut short",
    b"text.jpg": "not a picture",
    b"bomb.png": "too many pixels (expected at most 300,000,000, found 60,000 x 60,000)",
}


@pytest.fixture
def strange(tmp_path, monkeypatch):
    """Draw the folder ``strange`` in the working directory, and return the paths below it that can be hashed."""
    monkeypatch.chdir(tmp_path)
    folder = Path("strange")
    deep = folder.joinpath(*["deep"] * DEPTH)
    deep.mkdir(parents=True)
    picture = draw_picture("circle", 1, 48)
    good = [
        b"new\nline.png",
        b"\xff\xfe.png",
        b"-dash.png",
        b"tab\t.png",
        b"{1..3} [a].png",
        b"<b>&.png",
        b"\x1b[31m.png",
    ]
    for name in good:
        picture.save(folder / os.fsdecode(name))
    Image.linear_gradient("L").convert("I;16").save(folder / "16-bit.png")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.convert("P").save(folder / "palette.gif")
    picture.convert("RGBA").save(folder / "alpha.png")
    picture.resize((1, 1)).save(folder / "1x1.png")
    picture.resize((60_000, 1)).save(folder / "60000x1.png")
    picture.save(folder / "animated.webp", save_all=True, append_images=[picture.rotate(90)])
    picture.save(folder / "photo.avif")
    picture.save(folder / "in truth a png.jpg", "PNG")
    picture.save(deep / "bottom.PNG")
    good += [b"16-bit.png", b"cmyk.jpg", b"palette.gif", b"alpha.png", b"1x1.png", b"60000x1.png", b"animated.webp"]
    good += [b"photo.avif", b"in truth a png.jpg", os.fsencode((deep / "bottom.PNG").relative_to(folder))]
    (folder / "empty.jpg").touch()
    picture.save(folder / "cut\nshort.png")
    with open(folder / "cut\nshort.png", "r+b") as stream:
        stream.truncate(200)
    (folder / "text.jpg").write_text("<html>")
    (folder / "bomb.png").write_bytes(png_of_size(60_000, 60_000))
    (folder / "raw.nef").write_bytes(b"II*\0" + bytes(100))
    (folder / "notes.txt").touch()
    os.mkfifo(folder / "fifo.jpg")
    (folder / "loop").symlink_to(".")
    (folder / "round.jpg").symlink_to("round.jpg")
    (folder / "nowhere.jpg").symlink_to("no such file")
    return sorted(good)


def test_each_file_is_hashed_or_reported_on_one_line_and_can_be_looked_up(start, strange, weights_path):
    hash_ = ("hash", "strange", "-o", "codes.bin", "--weights", weights_path, "--json")
    process = start(*hash_)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    *failures, summary = map(json.loads, out.splitlines())
    told = {os.fsencode(failure["path"]).removeprefix(b"strange/"): failure["error"] for failure in failures}
    assert told.keys() == FAILURES.keys()
    assert all(told[name].startswith(reason) for name, reason in FAILURES.items())
    lines = err.decode().splitlines()
    assert len(lines) == len(FAILURES)
    assert all(line.startswith("drhn: strange/") and line.isprintable() for line in lines)
    assert (summary["total"], summary["failed"]) == (len(strange), len(FAILURES))
    with CodeFile.open("codes.bin") as file:
        assert [entry.path for entry in file] == strange

    paths = b"".join(b"strange/%s\0" % name for name in strange)
    process = start("query", "-0", "--files-from", "-", "codes.bin", "--max-distance", "0")
    out, err = process.communicate(paths, timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert {b"strange/%s\t0\tstrange/%s" % (name, name) for name in strange} <= set(out.split(b"\0"))

    following = start(*hash_, "--follow")
    out, _ = following.communicate(timeout=60)
    assert following.returncode == 0
    *failures, summary = map(json.loads, out.splitlines())
    links = {failure["path"].removeprefix("strange/") for failure in failures} & {"loop", "round.jpg", "nowhere.jpg"}
    assert (len(links), summary["total"], summary["unchanged"]) == (3, len(strange), len(strange))


def test_ctrl_c_while_queries_are_answered_leaves_the_old_sheet_and_no_traceback(start, update):
    update()
    query = ("query", "--files-from", "-", "codes.bin", "--top", "1", "--sheet", "found.html")
    process = start(*query)
    assert process.communicate(b"photos/circle/0000.png\n", timeout=60)[1] == b""
    before = Path("found.html").read_bytes()
    process = start(*query)
    process.stdin.write(b"photos/square/0000.png\n")
    process.stdin.flush()
    assert process.stdout.readline().startswith(b"photos/square/0000.png\t0\t")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == 130
    assert Path("found.html").read_bytes() == before
    assert {path.name for path in Path().iterdir()} <= {"photos", "codes.bin", ".codes.bin.lock", "found.html"}
