import os
from pathlib import Path

import pytest

from drhn_cli.errors import DrhnError, SourceError
from drhn_cli.paths import absolute_folder, absolute_path, common_folder, is_below, with_folders

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links as POSIX has them")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with ``inner``, and ``link`` to ``elsewhere/inner``."""
    here = tmp_path / "here"
    (here / "inner").mkdir(parents=True)
    (tmp_path / "elsewhere" / "inner").mkdir(parents=True)
    (here / "link").symlink_to(tmp_path / "elsewhere" / "inner")
    monkeypatch.chdir(here)
    return here


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.png", "here/a.png"),
        ("./inner//a.png", "here/inner/a.png"),
        ("link/a.png", "here/link/a.png"),
        ("inner/../a.png", "here/a.png"),
        ("../a.png", "a.png"),
        ("link/../a.png", "elsewhere/a.png"),
        ("link/../inner/./a.png", "elsewhere/inner/a.png"),
        ("link/..", "elsewhere"),
        ("nowhere/../a.png", "here/a.png"),
        ("", "here"),
    ],
)
def test_a_path_is_that_of_the_file_that_the_system_opens(here, tmp_path, path, expected):  # noqa: ARG001
    assert absolute_path(path) == absolute_path(os.fsencode(path)) == os.fsencode(tmp_path / expected)


def test_a_null_byte_is_left_to_who_opens_the_path(here):
    assert absolute_path("../a\0b") == os.fsencode(here.parent / "a\0b")


def test_an_empty_name_is_no_folder(here):
    assert absolute_folder("inner") == os.fsencode(here / "inner")
    with pytest.raises(SourceError, match=r"not a path .*found an empty name"):
        absolute_folder("")


def test_the_deepest_folder_of_all_and_none_across_drives():
    assert common_folder([b"/a/b/c", b"/a/b", b"/a/bc"]) == b"/a"
    with pytest.raises(SourceError, match="the sources have no folder in common; make a code file for each drive"):
        common_folder([b"/a", b"D:"])
    with pytest.raises(DrhnError, match=r"^apart$"):
        common_folder([b"/a", b"D:"], DrhnError("apart"))


def test_what_is_below_a_folder():
    assert [is_below(path, {b"/a/b"}) for path in (b"/a/b", b"/a/b/c/d", b"/a", b"/a/bc")] == [True, True, False, False]
    assert is_below(b"/a", {b"/"})


def test_a_query_is_the_picture_that_was_named_and_not_one_that_looks_so(drhn, update):
    update()
    Path("elsewhere/circle").mkdir(parents=True)
    Path("elsewhere/0000.png").write_bytes(Path("photos/stripes/0000.png").read_bytes())
    Path("photos/circle/link").symlink_to(Path("elsewhere/circle").absolute())
    result = drhn("query", "photos/circle/link/../0000.png", "codes.bin", "--top", "1")
    assert result.status == 2  # not stored, and its model is not bundled
    assert "the codes were made with another model" in result.err
    assert drhn("query", "photos/circle/../circle/0000.png", "codes.bin", "--top", "1").status == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("query", "--code", "00" * 8, "codes.bin", "--under", ""),
        ("hash", "photos", "-o", "codes.bin", "--weights", "{weights}", "--root", ""),
    ],
)
def test_an_empty_name_is_not_the_working_directory(drhn, update, weights_path, arguments):
    update()
    result = drhn(*(word.format(weights=weights_path) for word in arguments))
    assert (result.status, "not a path (expected a folder, found an empty name)" in result.err) == (2, True)


def test_paths_with_the_folders_above_them():
    folders = {b"/", b"/photos", b"/photos/a"}
    assert with_folders(path for path in (b"/photos/a/1.png", b"/photos/2.png")) == {
        *folders,
        b"/photos/a/1.png",
        b"/photos/2.png",
    }
    assert with_folders([b"/photos/a", b"/"]) == folders
    assert with_folders([]) == set()
