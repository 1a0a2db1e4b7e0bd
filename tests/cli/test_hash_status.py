"""How ``drhn hash`` ends, and what it says of files that it does not look at."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.archives import encoded, write_tar
from tests.drawing import draw_picture


@pytest.fixture
def hash_(drhn, weights_path, tmp_path, monkeypatch):
    """``drhn hash`` of ``good``, which holds a picture, and of other sources into ``codes.bin``."""
    monkeypatch.chdir(tmp_path)
    Path("good").mkdir()
    draw_picture("circle", 1, 32).save("good/0.png")

    def call(*sources, **settings):
        return drhn("hash", *sources, "-o", "codes.bin", "--weights", weights_path, **settings)

    return call


def spoil(*paths):
    for path in paths:
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))


def test_a_named_source_that_gives_nothing_is_an_error_though_others_go_well(hash_):
    spoil("broken.png", "broken/0.png", "broken/1.png", "good/bad.png")
    write_tar("broken.tar", [("0.png", b"no picture")])
    Path("no.tar").write_bytes(b"no archive")
    for source in ("absent", "broken.png", "broken", "broken.tar", "no.tar", ""):
        result = hash_("good", source, "--rebuild")
        assert (result.status, "Traceback" in result.err) == (2, False), source
        assert "1 picture (1 added" in result.err
    assert hash_("good").status == 0  # a picture of it is damaged
    assert hash_("good", "--strict").status == 2


def test_what_was_read_before_and_is_damaged_now_is_an_error(hash_):
    assert hash_("good").status == 0
    spoil("good/0.png")
    assert hash_("good").status == 2


def test_sources_without_pictures_are_no_error_and_nothing_is_done(hash_):
    Path("empty").mkdir()
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("no picture")
    write_tar("texts.tar", [("a.txt", b"x")])
    for source in ("empty", "texts", "texts.tar"):
        result = hash_(source)
        assert result.status == 1, source
        assert "no pictures: " in result.err
    assert hash_("empty", "good").status == 0
    assert hash_("good").status == 0  # nothing is new
    Path("good/0.png").unlink()
    Path("good/a.txt").touch()
    assert hash_("good").status == 1


def test_an_entry_of_a_list_that_is_gone_is_a_counted_failure(hash_):
    Path("list").write_text("good/0.png\nabsent.png\n")
    result = hash_("--files-from", "list", "--json")
    assert (result.status, json.loads(result.lines[-1])["failed"]) == (0, 1)
    assert hash_("--files-from", "list", "absent").status == 2
    assert hash_("--files-from", "list", "--strict").status == 2


def test_a_part_that_holds_nothing_of_a_source_is_no_error(hash_):
    for part in ("1/3", "2/3", "3/3"):
        assert hash_("good", "--shard", part).status == 0
    assert hash_("good", "absent", "--shard", "1/3").status == 2


def fill_card():
    Path("card/deep").mkdir(parents=True)
    draw_picture("circle", 1, 32).save("card/0.png")
    for name in ("a.nef", "b.CR3", "c.mp4", "deep/d.txt", "deep/e", "f.heic", "g.jxl", "h.zip", "deep/i.tar", ".j.txt"):
        Path("card", name).write_bytes(b"x")
    Path("card/link.mp4").symlink_to("c.mp4")


def test_files_that_are_not_looked_at_are_counted(hash_, monkeypatch):
    fill_card()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setattr("drhn_cli.images.formats.find_spec", lambda _: None)
    result = hash_("card")
    assert result.status == 0
    assert result.err.splitlines()[-1] == (
        "drhn: skipped 1 HEIC (pip install 'drhn[heif]' reads them), 2 RAW (--raw takes their previews), "
        "1 JPEG XL (not decoded), 2 archives (name a tar to look into it), 3 other"
    )
    summary = json.loads(hash_("card", "--json", "--exclude", "deep").lines[-1])
    assert summary["skipped"] == {"HEIC": 1, "RAW": 2, "JPEG XL": 1, "archive": 1, "other": 1}
    assert hash_("card", "-q").err == ""
    write_tar("a.tar", [("0.png", encoded("circle", 1)), ("a.nef", b"x"), ("b.txt", b"x")])
    assert json.loads(hash_("a.tar", "--json").lines[-1])["skipped"] == {"RAW": 1, "other": 1}


def test_raw_files_are_looked_for_when_asked(hash_):
    fill_card()
    result = hash_("card", "--raw", "--json")
    failed = sorted(json.loads(line)["path"] for line in result.lines[:-1])
    assert [path for path in failed if path.endswith(("nef", "CR3"))] == ["card/a.nef", "card/b.CR3"]
    assert "RAW" not in json.loads(result.lines[-1])["skipped"]


def test_what_pictures_hold_besides_the_first_is_counted(hash_):
    Path("phone").mkdir()
    jpeg = encoded("circle", 1, ".jpg")
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta GCamera:MotionPhoto="1"/>'
    app1 = b"\xff\xe1" + (len(xmp) + 2).to_bytes(2, "big") + xmp
    Path("phone/plain.jpg").write_bytes(jpeg)
    Path("phone/google.jpg").write_bytes(jpeg[:2] + app1 + jpeg[2:] + b"\0\0\0\x18ftypmp42")
    Path("phone/samsung.jpg").write_bytes(jpeg + b"MotionPhoto_Data" + b"\0\0\0\x18ftypmp42" + bytes(100) + b"SEFT")
    picture = draw_picture("circle", 1, 32)
    picture.save("phone/stereo.mpo", save_all=True, append_images=[picture])
    result = hash_("phone")
    assert result.status == 0
    told = "drhn: skipped 2 films (behind photographs), 1 further picture (in MPO and HEIC)"
    assert result.err.splitlines()[-1] == told
    assert json.loads(hash_("phone", "--json", "--rebuild").lines[-1])["skipped"] == {"film": 2, "further picture": 1}
