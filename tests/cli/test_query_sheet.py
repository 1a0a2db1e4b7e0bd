import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from PIL import Image

IMAGE = "photos/circle/0000.png"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DARK = ("--force-dark-mode", "--blink-settings=preferredColorScheme=0")
QUIET = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")


def test_the_answer_on_stdout_is_the_same(query):
    assert query(IMAGE, "nowhere.jpg", "--sheet", "found.html") == query(IMAGE, "nowhere.jpg")
    assert Path("found.html").read_bytes().count(b"<section") == 2


def test_a_contact_sheet(query):
    assert query(IMAGE, "--sheet", "found.png") == query(IMAGE)
    with Image.open("found.png") as image:
        assert image.size[0] < image.size[1] * 2


def test_a_list_that_needs_a_null_is_told_so_and_drawn(query):
    result = query("--files-from", "-", "--sheet", "found.html", stdin=b"photos/a.png\0photos/b.png\0")
    assert (result.status, "use -0 if the list of files is NUL-separated" in result.err) == (2, True)
    assert Path("found.html").read_bytes().count(b"<section") == 1


def test_a_picture_on_stdin_is_drawn(query):
    assert query("-", "--sheet", "found.html", stdin=Path(IMAGE).read_bytes()).status == 0
    assert Path("found.html").read_bytes().count(b"<img") == 9


def test_nothing_found_is_drawn_too(query):
    assert query(IMAGE, "--exclude", "*", "--sheet", "found.html").status == 1
    assert b"nothing found" in Path("found.html").read_bytes()


def test_a_wrong_suffix_is_an_error_before_anything_is_answered(query):
    result = query(IMAGE, "--sheet", "found.pdf")
    assert (result.status, result.out, len(result.err.splitlines())) == (2, b"", 1)
    assert "found.pdf: no kind of sheet" in result.err


def test_a_photograph_is_never_replaced(query):
    Path("photo.html").write_bytes(Path(IMAGE).read_bytes())
    result = query(IMAGE, "--sheet", "photo.html")
    assert (result.status, result.out, "another file is in the place" in result.err) == (2, b"", True)
    assert Path("photo.html").read_bytes() == Path(IMAGE).read_bytes()


@pytest.fixture
def browse(tmp_path):
    """Open a page in headless Chromium, and return what it prints."""
    if CHROMIUM is None:
        pytest.skip("no chromium here")

    def call(address, *options):
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *QUIET, profile, *options, address]
        return subprocess.run(command, check=True, capture_output=True, timeout=120)

    return call


@pytest.mark.skipif(os.name != "posix", reason="names of any bytes")
def test_a_browser_shows_the_pictures_runs_nothing_and_opens_the_links(query, update, browse, tmp_path):
    names = [b"<script>document.title=1<b>\"'.png", b"new\nline \xff 100%25#?.png"]
    for name, colour in zip(names, ("#ff0000", "#00ff00"), strict=True):
        Image.new("RGB", (64, 48), colour).save(last := tmp_path / "photos" / os.fsdecode(name))
    update()
    assert query(last, "--sheet", "found.html", "--top", 20).status == 0
    page = (tmp_path / "found.html").as_uri()
    done = browse(page, "--dump-dom", "--enable-logging=stderr")
    dom = done.stdout.decode()
    assert "<title>Found in codes.bin</title>" in dom
    assert not re.search(rb"CONSOLE.*(Refused|violates|Content Security Policy)", done.stderr)
    links = {unquote_to_bytes(link).rpartition(b"/")[2] for link in re.findall(r'href="file://([^"]*)"', dom)}
    assert set(names) <= links
    shot = tmp_path / "shot.png"
    browse(page, f"--screenshot={shot}", "--window-size=1200,1600", "--hide-scrollbars")
    with Image.open(shot) as image:
        colours = {
            colour for count, colour in image.convert("RGB").quantize(256).convert("RGB").getcolors() if count > 500
        }
    assert any(near(colour, (255, 0, 0)) for colour in colours)
    assert any(near(colour, (0, 255, 0)) for colour in colours)
    assert any(near(colour, (0xF7, 0xF6, 0xF3)) for colour in colours)  # the style is in force
    browse(page, f"--screenshot={shot}", "--window-size=1200,800", "--hide-scrollbars", *DARK)
    with Image.open(shot) as image:
        assert max(image.convert("RGB").getpixel((2, 2))) < 48
    browse(next(link for link in re.findall(r'href="([^"]*)"', dom) if "%FF" in link), f"--screenshot={shot}")
    with Image.open(shot) as image:
        assert any(near(colour, (0, 255, 0)) for _, colour in image.convert("RGB").getcolors(1 << 20))


def near(colour, wanted):
    return max(abs(a - b) for a, b in zip(colour, wanted, strict=True)) < 12
