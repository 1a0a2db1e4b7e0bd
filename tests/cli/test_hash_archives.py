import json
import os
from pathlib import Path

import pytest
from PIL import Image

from tests.archives import encoded, write_shards, write_tar


def shards(n):
    return [f"photos-{number:03}.tar" for number in range(n)]


@pytest.fixture
def hashed(drhn, tmp_path, monkeypatch, weights_path):
    """Three shards of four pictures, in ``codes.bin``."""
    monkeypatch.chdir(tmp_path)
    write_shards(3, 4)
    result = drhn("hash", *shards(3), "-o", "codes.bin", "--weights", weights_path, "--json")
    assert (result.status, json.loads(result.out)["added"]) == (0, 12)


@pytest.mark.usefixtures("hashed")
def test_shards_of_which_some_are_missing_are_told_and_the_rest_is_hashed(drhn, weights_path):
    settings = ("-o", "codes.bin", "--weights", weights_path)
    result = drhn("hash", *shards(4), *settings)
    assert result.status == 2
    assert "photos-003.tar: no such file or folder\n" in result.err
    assert "12 pictures (12 unchanged, 1 failed)" in result.err
    assert drhn("hash", *shards(3), *settings).status == 0


@pytest.mark.usefixtures("hashed")
def test_a_stored_member_is_looked_up_by_its_path_without_the_network(drhn):
    result = drhn("query", "photos-001.tar/0002.png", "codes.bin", "--top", "1")
    assert result.lines == ["0\tphotos-001.tar/0002.png"]
    result = drhn(
        "query", "photos-001.tar/./0002.png", "codes.bin", "--top", "3", "--under", "photos-001.tar", "--not-self"
    )
    assert len(result.lines) == 3
    assert all(line.split("\t")[1].startswith("photos-001.tar/") for line in result.lines)
    os.remove("photos-001.tar")
    assert drhn("query", "photos-001.tar/0002.png", "codes.bin", "--top", "1").lines[0].startswith("0\t")


@pytest.mark.usefixtures("hashed")
def test_a_member_that_has_changed_is_decoded_anew(drhn, weights_path):
    write_tar("photos-001.tar", [("0002.png", encoded("checker", 77))])
    settings = ("codes.bin", "--top", "12", "--weights", weights_path)
    found = drhn("query", "photos-001.tar/0002.png", *settings).out
    Path("loose.png").write_bytes(encoded("checker", 77))
    assert found == drhn("query", "loose.png", *settings).out
    assert found == drhn("query", "-", *settings, stdin=encoded("checker", 77)).out


@pytest.mark.usefixtures("hashed")
def test_sheets_show_members(drhn, weights_path):
    settings = ("codes.bin", "--top", "5", "--order", "asymmetric", "--weights", weights_path)
    assert drhn("query", "photos-001.tar/0002.png", *settings, "--sheet", "found.html").status == 0
    page = Path("found.html").read_text()
    assert page.count("<img ") == 6
    assert 'class="missing"' not in page
    assert "photos-001.tar" in page
    assert "<a " not in page  # no browser opens what is in an archive
    assert drhn("query", "photos-001.tar/0002.png", *settings, "--sheet", "found.png").status == 0
    with Image.open("found.png") as sheet:
        assert sheet.width > 1000
    os.remove("photos-000.tar")
    os.remove("photos-002.tar")
    drhn("query", "photos-001.tar/0002.png", "codes.bin", "--top", "12", "--sheet", "found.html")
    page = Path("found.html").read_text()
    assert (page.count("<img "), page.count('class="missing"')) == (5, 8)


@pytest.mark.usefixtures("hashed")
def test_members_can_be_compared_and_found_as_duplicates(drhn, weights_path):
    names = ("photos-001.tar/0002.png", "photos-001.tar/0002.png")
    assert drhn("compare", *names, "--weights", weights_path).lines == ["0"]
    write_shards(1, 4, "copy-{:03}.tar")
    drhn("hash", "copy-000.tar", "-o", "codes.bin", "--weights", weights_path)
    result = drhn("dups", "codes.bin", "--across", "--like", "similar")
    assert {"copy-000.tar/0001.png", "photos-000.tar/0001.png"} <= set(result.lines)


def test_a_hostile_archive_is_told_of_in_lines_and_nothing_leaves_it(drhn, tmp_path, monkeypatch, weights_path):
    monkeypatch.chdir(tmp_path)
    picture = encoded("circle", 1)
    Path("in").mkdir()
    names = ["../out.png", str(tmp_path / "out.png"), "a\n\x1b[31m.png", "good.png"]
    write_tar("in/a.tar", [(name, picture) for name in names])
    content = Path("in/a.tar").read_bytes().rstrip(b"\0")
    Path("in/a.tar").write_bytes(content.ljust(-(-len(content) // 512) * 512, b"\0"))  # no end mark
    result = drhn("hash", "in/a.tar", "-o", "codes.bin", "--weights", weights_path)
    assert result.status == 0
    assert len(result.err.splitlines()) == 4
    assert "\x1b" not in result.err
    assert "2 pictures (2 added, 3 failed)" in result.err
    assert sorted(name for name in os.listdir() if not name.startswith(".")) == ["codes.bin", "in"]
    assert os.listdir("in") == ["a.tar"]
