from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from drhn_cli.errors import ConfigError, SourceError
from drhn_cli.images import formats
from drhn_cli.images.find import FindResult, find_images
from drhn_cli.images.formats import FORMATS, SUFFIXES, picture_formats, picture_suffixes, readable_formats
from drhn_cli.images.globs import compile_excludes


def write(root: Path, *names: str | bytes) -> None:
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"x" * 7)


def relative(found: FindResult, root: Path) -> list[str]:
    return [os.fsdecode(os.path.relpath(file.path, os.fsencode(root))) for file in found.files]


def names(root: Path, **options: object) -> list[str]:
    found = find_images([root], **options)  # type: ignore[arg-type]
    assert found.failures == []
    assert found.missing == []
    return relative(found, root)


def test_finds_pictures_at_any_depth_sorted_by_path_bytes(tmp_path: Path) -> None:
    write(tmp_path, "b.jpg", "a/c.PNG", "a/b/c/d.JpEg", "a-1.webp", "B.gif", "notes.txt", "jpg", "x.jpg.part")
    assert names(tmp_path) == ["B.gif", "a-1.webp", "a/b/c/d.JpEg", "a/c.PNG", "b.jpg"]


def test_tells_size_time_and_inode(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg")
    os.utime(tmp_path / "a.jpg", ns=(1, 1_600_000_000_123_456_789))
    (file,) = find_images([tmp_path]).files
    status = (tmp_path / "a.jpg").stat()
    assert (file.path, file.stamp.size) == (os.fsencode(tmp_path / "a.jpg"), 7)
    assert (file.stamp.mtime_ns, file.stamp.inode) == (status.st_mtime_ns, status.st_ino)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_is_one_that_pillow_knows(suffix: str) -> None:
    Image.init()
    assert suffix == ".jpe" or Image.registered_extensions().get(suffix, "PNM" if suffix == ".pnm" else "") != ""


def test_heif_counts_only_with_a_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    assert {b".heic", b".heif", b".hif"} < picture_suffixes()  # pillow-heif is installed for the tests
    assert readable_formats() == (*FORMATS, "HEIF")  # as messages have it, whether or not it has been needed yet
    monkeypatch.setattr(formats, "find_spec", lambda _: None)
    assert b".heic" not in picture_suffixes()
    assert picture_formats() == readable_formats() == FORMATS
    monkeypatch.setitem(Image.OPEN, "HEIF", (lambda *_: None, None))
    assert {b".heic", b".heif"} < picture_suffixes()
    assert picture_formats() == (*FORMATS, "HEIF")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_any_name_survives(tmp_path: Path) -> None:
    hostile = [b"caf\xe9.jpg", b"new\nline.png", b"tab\t\r.gif", b"-rf.jpg", b" .jpg", b"\xff\xfe/\x80.bmp"]
    write(tmp_path, *hostile)
    assert [file.path for file in find_images([os.fsencode(tmp_path)]).files] == sorted(
        os.path.join(os.fsencode(tmp_path), name) for name in hostile
    )


def test_sources_are_normalised_and_each_file_is_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a/b/1.jpg", "a/2.jpg")
    monkeypatch.chdir(tmp_path)
    found = find_images(["a", "./a//b/../b", b"a/b/1.jpg", tmp_path / "a" / "2.jpg"])
    assert relative(found, tmp_path) == ["a/2.jpg", "a/b/1.jpg"]


def test_a_named_file_is_taken_whatever_its_name(tmp_path: Path) -> None:
    write(tmp_path, "picture", ".hidden.dat", ".dir/a.jpg")
    found = find_images([tmp_path / "picture", tmp_path / ".hidden.dat", tmp_path / ".dir"], exclude=["*"])
    assert relative(found, tmp_path) == [".hidden.dat", "picture"]
    assert relative(find_images([tmp_path / ".dir"]), tmp_path) == [".dir/a.jpg"]


def test_hidden_files_and_folders_need_the_flag(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", ".b.jpg", ".c/d.jpg", "e/.f/g.jpg")
    assert names(tmp_path) == ["a.jpg"]
    assert names(tmp_path, hidden=True) == [".b.jpg", ".c/d.jpg", "a.jpg", "e/.f/g.jpg"]


@pytest.mark.parametrize(
    ("pattern", "path", "is_folder", "excluded"),
    [
        ("*.png", "a.png", False, True),
        ("*.png", "a/b.png", False, True),
        ("*.png", "a.PNG", False, False),
        ("thumbs", "a/thumbs", True, True),
        ("thumbs", "a/thumbs2", True, False),
        ("thumbs/", "a/thumbs", True, True),
        ("thumbs/", "a/thumbs", False, False),
        ("a/b", "a/b", True, True),
        ("a/b", "c/a/b", True, False),
        ("/a", "a", True, True),
        ("/a", "b/a", True, False),
        ("./a", "a", True, True),
        ("./a/", "b/a", True, False),
        ("./a/*.jpg", "a/1.jpg", False, True),
        ("a/*.jpg", "a/1.jpg", False, True),
        ("a/*.jpg", "a/b/1.jpg", False, False),
        ("a/**/1.jpg", "a/1.jpg", False, True),
        ("a/**/1.jpg", "a/b/c/1.jpg", False, True),
        ("**/b", "a/b", True, True),
        ("**/b", "b", True, True),
        ("a/**", "a/b/c", False, True),
        ("a/**", "a", True, False),
        ("a**z", "a1z", False, True),
        ("?.jpg", "a.jpg", False, True),
        ("?.jpg", "ab.jpg", False, False),
        ("a?b", "a/b", False, False),
        ("[a-c].jpg", "b.jpg", False, True),
        ("[!a-c].jpg", "b.jpg", False, False),
        ("[!a-c].jpg", "d.jpg", False, True),
        ("[^a-c].jpg", "b.jpg", False, False),
        ("[^a-c].jpg", "d.jpg", False, True),
        ("[]].jpg", "].jpg", False, True),
        (r"photo\[1\].jpg", "photo[1].jpg", False, True),
        (r"\*.jpg", "a.jpg", False, False),
        ("a\\", "a\\", False, True),
        ("[^.jpg", "[^.jpg", False, True),
        ("[z-a].jpg", "[z-a].jpg", False, True),
        ("[[&&b].jpg", "&.jpg", False, True),
        ("a.jpg", "aXjpg", False, False),
        ("(a|b).jpg", "(a|b).jpg", False, True),
        ("new*line.jpg", "new\nline.jpg", False, True),
        (r"\!a.jpg", "!a.jpg", False, True),
        ("*a*a*a*a*ab", "a" * 119 + "b", False, True),
        ("*a*a*a*a*a*a*a*a*ab", "b/" + "a" * 250, False, False),
        ("***a***a***a***a***a***ab", "a" * 250, False, False),
        ("**/a/**/a/**/a/**/a/**/a/b", "a/" * 2000 + "c", False, False),
        ("**a**a**a**ab", "a" * 4000, False, False),
        ("[z-a]*[z-a]*?*?*?*x", "[z-a]1[z-a]234x", False, True),
        ("", "a", False, False),
        ("/", "a", True, False),
    ],
)
def test_exclude_globs(pattern: str, path: str, is_folder: bool, excluded: bool) -> None:
    began = time.process_time()
    assert compile_excludes([pattern])(path, is_folder) is excluded
    assert compile_excludes(["*.none", pattern])(path, is_folder) is excluded
    assert time.process_time() - began < 1


@pytest.mark.parametrize("pattern", ["!a.jpg", "!"])
def test_a_negation_is_an_error(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"no negation by !.*write \\+!"):
        compile_excludes(["*.png", pattern])


def test_a_folder_is_searched_once_however_many_links_lead_to_it(tmp_path: Path) -> None:
    folders = "abcdefghi"
    write(tmp_path, *(f"{name}/{name}.jpg" for name in folders), "ladder/x.jpg")
    for name in folders:
        for other in folders.replace(name, ""):
            (tmp_path / name / f"to-{other}").symlink_to(f"../{other}")
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    step = outside
    for _ in range(30):  # two ways from each step to the next: 2^30 to the last one
        step = step / "next"
        step.mkdir(parents=True)
        (step.parent / "also").symlink_to("next")
        (step / "p.jpg").touch()
    (tmp_path / "ladder" / "link").symlink_to(outside)
    found = find_images([tmp_path], follow=True)
    assert len(found.files) == len(folders) + 1 + 30
    assert found.failures == []
    assert [path for path in relative(found, tmp_path) if path[0] != "l"] == [f"{name}/{name}.jpg" for name in folders]
    assert relative(find_images([tmp_path], follow=True), tmp_path) == relative(found, tmp_path)


def test_an_archive_that_is_named_is_not_skipped(tmp_path: Path) -> None:
    write(tmp_path, "a.tar", "b.tar", "c.txt")
    assert find_images([tmp_path / "a.tar", tmp_path]).skipped == {"archive": 1, "other": 1}
    assert find_images([tmp_path]).skipped == {"archive": 2, "other": 1}


def test_what_lies_in_an_excluded_folder_is_excluded(tmp_path: Path) -> None:
    write(tmp_path, "a/thumbs/deep/1.jpg", "a/2.jpg", "b/3.jpg", "b/c/4.jpg", "5.gif")
    assert names(tmp_path, exclude=["thumbs", "b/c", "*.gif"]) == ["a/2.jpg", "b/3.jpg"]


def test_links_are_followed_on_demand_only(tmp_path: Path) -> None:
    write(tmp_path, "outside/1.jpg", "outside/2.txt", "in/3.jpg")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "outside")
    (tmp_path / "in" / "file.jpg").symlink_to(tmp_path / "outside" / "1.jpg")
    assert names(tmp_path / "in") == ["3.jpg"]
    assert names(tmp_path / "in", follow=True) == ["3.jpg", "file.jpg", "folder/1.jpg"]


def test_a_source_that_is_a_link_is_followed_and_keeps_its_name(tmp_path: Path) -> None:
    write(tmp_path, "real/1.jpg")
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "file").symlink_to("real/1.jpg")
    found = find_images([tmp_path / "folder", tmp_path / "file"])
    assert relative(found, tmp_path) == ["file", "folder/1.jpg"]


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    write(tmp_path, "a/b/1.jpg")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "b" / "self").symlink_to(".")
    found = find_images([tmp_path], follow=True)
    assert relative(found, tmp_path) == ["a/b/1.jpg"]
    assert sorted(Path(os.fsdecode(failure.path or "")).name for failure in found.failures) == ["self", "up"]
    assert found.missing == []


def test_two_links_to_one_folder_are_no_loop(tmp_path: Path) -> None:
    write(tmp_path, "real/1.jpg")
    (tmp_path / "one").symlink_to("real")
    (tmp_path / "two").symlink_to("real")
    assert names(tmp_path, follow=True) == ["real/1.jpg"]
    (tmp_path / "real").rename(tmp_path.parent / f"{tmp_path.name}-real")
    for link in ("one", "two"):
        (tmp_path / link).unlink()
        (tmp_path / link).symlink_to(tmp_path.parent / f"{tmp_path.name}-real")
    assert names(tmp_path, follow=True) == ["one/1.jpg"]


def test_a_broken_link_may_lead_to_an_unplugged_drive(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to("/no/such/drive")
    (tmp_path / "round.jpg").symlink_to("round.jpg")
    assert names(tmp_path) == []
    found = find_images([tmp_path], follow=True)
    assert sorted(found.missing) == [os.fsencode(tmp_path / "gone.jpg"), os.fsencode(tmp_path / "round.jpg")]
    assert len(found.failures) == 2


def test_a_missing_source_is_told_and_stops_nothing(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg")
    found = find_images([tmp_path / "unplugged", tmp_path])
    assert relative(found, tmp_path) == ["1.jpg"]
    assert found.missing == [os.fsencode(tmp_path / "unplugged")]
    assert [failure.message for failure in found.failures] == [f"{tmp_path}/unplugged: no such file or folder"]
    assert isinstance(found.failures[0], SourceError)


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("https://example.org/a.jpg", "download it first"),
        ("file:///a.jpg", "leave file:// out"),
        ("-", "--files-from -"),
    ],
)
def test_what_is_no_path_is_called_as_it_was_and_told_the_way_out(source: str, hint: str) -> None:
    (failure,) = find_images([source]).failures
    assert failure.message.startswith(f"{source}: no such file or folder; ")
    assert hint in failure.message


@pytest.mark.parametrize(
    "name", ["a.zip", "a.7z", "a.RAR", "a.tar.gz", "a.TGZ", "a.tar.zst", "a.tar.xz", "a.tbz2", "a.txz", "a.jpg.gz"]
)
def test_what_is_compressed_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, "1.jpg")
    found = find_images([tmp_path / name, tmp_path])
    assert relative(found, tmp_path) == ["1.jpg"]
    assert found.missing == [os.fsencode(tmp_path / name)]
    assert "compressed (expected a folder, a picture or a plain tar archive); unpack it first" in str(found.failures[0])


@pytest.mark.parametrize("source", ["", "a\0b"])
def test_what_is_no_path_is_a_failure(source: str) -> None:
    found = find_images([source])
    assert (found.files, found.missing, len(found.failures)) == ([], [], 1)
    assert ("-0" in found.failures[0].message) is (source != "")


def test_an_unreadable_folder_is_told_and_protects_what_lies_under_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a/1.jpg", "locked/2.jpg")
    scandir = os.scandir

    def refuse(path: bytes) -> object:
        if path.endswith(b"locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find_images([tmp_path])
    assert relative(found, tmp_path) == ["a/1.jpg"]
    assert found.missing == [os.fsencode(tmp_path / "locked")]
    assert "Permission denied" in found.failures[0].message
    assert "permissions" in found.failures[0].message


def test_a_file_that_vanishes_is_a_failure_and_unknown_rather_than_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "1.jpg", "2.jpg")
    scandir = os.scandir

    class Vanishing:
        def __init__(self, path: bytes) -> None:
            with scandir(path) as entries:
                self.entries = list(entries)
            (tmp_path / "1.jpg").unlink()

        def __enter__(self) -> list[os.DirEntry[bytes]]:
            return self.entries

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Vanishing)
    found = find_images([tmp_path])
    assert relative(found, tmp_path) == ["2.jpg"]
    assert [failure.path for failure in found.failures] == [os.fsencode(tmp_path / "1.jpg")]
    assert (found.missing, found.some_vanished) == ([os.fsencode(tmp_path / "1.jpg")], True)


def test_an_entry_that_cannot_be_looked_at_at_all_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "2.jpg")
    scandir = os.scandir

    class Unknown:
        """An entry as of a file system that does not tell what its entries are, and then fails to."""

        name, path = b"1.jpg", os.fsencode(tmp_path / "1.jpg")

        def is_symlink(self) -> bool:
            raise OSError(5, "Input/output error")

    @contextmanager
    def with_unknown(path: bytes) -> Iterator[list[object]]:
        with scandir(path) as entries:
            yield [Unknown(), *entries]

    monkeypatch.setattr(os, "scandir", with_unknown)
    found = find_images([tmp_path])
    assert relative(found, tmp_path) == ["2.jpg"]
    assert found.missing == [Unknown.path]
    assert "Input/output error" in found.failures[0].message


def test_fifos_and_sockets_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "1.jpg")
    os.mkfifo(tmp_path / "fifo.jpg")
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
        assert names(tmp_path) == ["1.jpg"]
        found = find_images([tmp_path / "fifo.jpg", "socket.jpg", "/dev/null"])
    assert found.files == []
    assert [failure.problem for failure in found.failures] == ["not a regular file"] * 3


def test_folders_may_nest_deeper_than_python_recurses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    depth = 1500
    monkeypatch.chdir(tmp_path)
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    Path("1.jpg").touch()
    found = find_images([tmp_path])
    Path("1.jpg").unlink()
    for _ in range(depth):  # pytest's own clean-up recurses
        os.chdir("..")
        os.rmdir("d")
    assert [file.path.count(b"d/") for file in found.files] == [depth]
    assert found.failures == []


def test_no_sources_no_files() -> None:
    assert find_images([]) == FindResult()
