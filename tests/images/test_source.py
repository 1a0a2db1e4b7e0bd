import io
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drhn_cli.errors import ImageError, SourceError
from drhn_cli.images import source as source_module
from drhn_cli.images.decode import decode_image
from drhn_cli.images.find import FindResult, find_images, find_members
from drhn_cli.images.source import archive_of, is_there, locate
from tests.archives import encoded, write_tar


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def link(name, kind=tarfile.SYMTYPE, **fields):
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info, b""


def find(members, **options):
    path = os.fsencode(write_tar("a.tar", members).absolute())
    found = find_members(path, **options)
    return [os.path.relpath(file.path, path).decode("utf-8", "surrogateescape") for file in found.files], found


def test_pictures_are_found_in_the_order_of_the_archive():
    names, found = find([(name, b"x") for name in ("b.JPG", "b.cls", "./d//e.png", "a.webp", "jpg", "x.jpg.part")])
    assert names == ["b.JPG", "d/e.png", "a.webp"]
    assert (found.failures, found.missing) == ([], [])


def test_hidden_and_excluded_members_are_passed_over_as_in_a_folder():
    members = [(name, b"x") for name in ("a.jpg", ".b.jpg", "._a.jpg", ".c/d.jpg", "t/e.jpg", "t/u/f.png")]
    assert find(members)[0] == ["a.jpg", "t/e.jpg", "t/u/f.png"]
    assert find(members, hidden=True)[0] == ["a.jpg", ".b.jpg", "._a.jpg", ".c/d.jpg", "t/e.jpg", "t/u/f.png"]
    assert find(members, exclude=["t/u/"])[0] == ["a.jpg", "t/e.jpg"]
    assert find(members, exclude=["*.jpg"])[0] == ["t/u/f.png"]
    assert find(members, exclude=["t"])[0] == ["a.jpg"]


@pytest.mark.parametrize(
    ("member", "problem"),
    [
        (link("a.jpg", linkname="/etc/passwd"), "a symbolic link in an archive"),
        (link("a.jpg", tarfile.LNKTYPE, linkname="b.jpg"), "a hard link in an archive"),
        (link("a.jpg", tarfile.CHRTYPE), "a device in an archive"),
        (link("a.jpg", tarfile.BLKTYPE), "a device in an archive"),
        (link("a.jpg", tarfile.FIFOTYPE), "a FIFO in an archive"),
        (link("a.jpg", tarfile.GNUTYPE_SPARSE), "a sparse file in an archive"),
        (("/etc/a.jpg", b"x"), "a name that leads out of its archive"),
        (("../a.jpg", b"x"), "a name that leads out of its archive"),
        (("b/../../a.jpg", b"x"), "a name that leads out of its archive"),
        (("long/" * 1000 + "a.jpg", b"x"), "a name that no file has"),
    ],
)
def test_what_is_no_regular_file_below_the_archive_is_a_counted_failure(member, problem):
    names, found = find([("first.jpg", b"x"), member, ("last.jpg", b"x")])
    assert names == ["first.jpg", "last.jpg"]
    (failure,) = found.failures
    assert failure.message.startswith(os.fsdecode(os.path.abspath("a.tar")) + "/")
    assert f": {problem} (expected a regular file below the archive)" in failure.message
    assert found.missing == []


def test_links_and_devices_without_the_name_of_a_picture_are_none_of_ours():
    assert find([link("a"), link("b", tarfile.CHRTYPE), link("d.jpg", tarfile.DIRTYPE)])[1].failures == []


def test_a_name_with_a_nul_is_a_failure_and_one_of_other_bytes_is_not():
    info = tarfile.TarInfo("b.jpg")
    info.pax_headers = {"path": "a\0b.jpg"}
    names, found = find([("caf\udce9\n.jpg", b"x"), (info, b"")])
    assert names == ["caf\udce9\n.jpg"]
    assert "a name that no file has" in found.failures[0].message


def test_what_comes_before_the_damage_is_found_and_the_rest_unknown():
    find([("a.jpg", b"x" * 600), ("b.jpg", b"x" * 600)])
    with open("a.tar", "r+b") as stream:
        stream.truncate(512 + 1024 + 700)
    path = os.path.abspath(b"a.tar")
    found = find_members(path)
    assert [file.path for file in found.files] == [path + b"/a.jpg"]
    assert ("cut short" in found.failures[0].message, found.missing) == (True, [path])


def test_archives_are_sources_and_not_looked_for_in_folders():
    write_tar("d.tar", [("a.jpg", b"x")])
    os.makedirs("d")
    os.makedirs("folder.tar")
    shutil.copy("d.tar", "d/e.TAR")
    for sources in (["d", "folder.tar"], ["d"], []):
        roots = {os.path.abspath(os.fsencode(source)) for source in sources}
        assert find_images(sources) == FindResult(roots=roots)
    found = find_images(["d.tar", "d/e.TAR", "./d.tar"])
    assert found.archives == [os.path.abspath(name) for name in (b"d.tar", b"d/e.TAR")]


def test_the_stamp_of_a_member_tells_of_its_place_and_of_the_archive():
    _, found = find([("a.jpg", b"x"), ("b.jpg", b"x")])
    first, second = found.files
    status = os.stat("a.tar")
    assert first.stamp[1::2] == (status.st_mtime_ns, status.st_ctime_ns)
    assert (first.stamp.size, first.stamp.device) == (1, status.st_dev)
    assert first.stamp.inode != second.stamp.inode  # another place
    shutil.copy("a.tar", "c.tar")
    os.utime("c.tar", ns=(0, status.st_mtime_ns))
    (copy, _) = find_members(os.path.abspath(b"c.tar")).files
    assert copy.stamp.inode >> 32 == first.stamp.inode >> 32
    assert not copy.stamp.is_same(first.stamp)
    assert copy.stamp.may_be_same(first.stamp)
    with open("c.tar", "ab") as stream:
        stream.write(bytes(512))
    assert find_members(os.path.abspath(b"c.tar")).files[0].stamp.inode >> 32 != first.stamp.inode >> 32


def test_a_member_whose_path_is_too_long_for_a_code_file_is_a_failure():
    name = "long/" * 810 + "a.jpg"  # the name is short enough, but not below this folder
    _, found = find([(name, b"x"), ("b.jpg", b"x")])
    assert [os.path.basename(file.path) for file in found.files] == [b"b.jpg"]
    assert "a name that no file has" in found.failures[0].message
    assert found.failures[0].path == os.path.abspath(b"a.tar")


FORMATS = {
    "a.png": {},
    "a.jpg": {},
    "a.webp": {},
    "a.gif": {},
    "a.bmp": {},
    "a.avif": {},
    "a.jp2": {},
    "a.tif": {},
    "lzw.tif": {"compression": "tiff_lzw"},
    "a.ppm": {},
}


def test_a_picture_of_any_format_is_decoded_as_from_a_file_by_its_path_or_as_it_was_found():
    contents = {name: encoded("circle", 1, Path(name).suffix, 40, **how) for name, how in FORMATS.items()}
    _, found = find([("t/" + name, content) for name, content in contents.items()])
    assert len(found.files) == len(FORMATS)
    for file, (name, content) in zip(found.files, contents.items(), strict=True):
        Path(name).write_bytes(content)
        expected = np.asarray(decode_image(name))
        for source in (file, file.path, f"a.tar/t/{name}", f"./a.tar/t/../t/{name}"):
            assert np.array_equal(np.asarray(decode_image(source)), expected)
    assert sorted(os.listdir()) == sorted(["a.tar", *FORMATS])  # nothing was unpacked


def test_of_a_name_that_is_there_twice_the_last_one_counts():
    _, found = find([("a.png", encoded("circle", 1)), ("b.png", b"x"), ("./a.png", encoded("square", 2))])
    assert len(found.files) == 2
    expected = np.asarray(Image.open(io.BytesIO(encoded("square", 2))))
    for source in (found.files[0], "a.tar/a.png"):
        assert np.array_equal(np.asarray(decode_image(source)), expected)


@pytest.mark.parametrize("content", [b"", b"a letter", encoded("circle", 1)[:100], encoded("circle", 1) + b"x"])
def test_a_member_is_read_to_its_end_and_no_further(content):
    _, found = find([("a.png", content), ("b.png", encoded("square", 1))])
    Path("a.png").write_bytes(content)
    messages = []
    for source in ("a.png", found.files[0]):
        try:
            decode_image(source)
            messages.append("decoded")
        except ImageError as error:
            messages.append(error.reason)
    assert messages[0] == messages[1]


def test_a_path_into_an_archive_that_holds_no_such_file_is_an_error():
    find([("a.png", encoded("circle", 1)), link("b.png")])
    for name in ("b.png", "c.png", "a.png/a.png"):
        with pytest.raises(ImageError, match=rf"a\.tar/{name}: not in its archive, or no file there; check the path"):
            decode_image(f"a.tar/{name}")
    Path("letter.tar").write_text("Dear reader")
    with pytest.raises(ImageError, match=r"a\.png: not in its archive.*found no tar archive"):
        decode_image("letter.tar/a.png")
    with pytest.raises(ImageError, match="no such file"):
        decode_image("none.tar/a.png")


def test_an_archive_that_has_changed_since_is_an_error_and_not_another_picture():
    _, found = find([("a.png", encoded("circle", 1)), ("b.png", encoded("square", 1))])
    find([("b.png", encoded("square", 1)), ("a.png", encoded("circle", 1))])
    os.utime("a.tar", ns=(0, found.files[0].stamp.mtime_ns + 1))
    with pytest.raises(ImageError, match=r"a\.tar/a\.png: its archive has changed meanwhile"):
        decode_image(found.files[0])
    os.remove("a.tar")
    with pytest.raises(ImageError, match=r"a\.tar: no such file"):
        decode_image(found.files[0])


def test_an_archive_is_listed_once_for_many_paths(monkeypatch):
    find([(f"{i}.png", encoded("circle", i)) for i in range(5)])
    calls = []

    def listed(archive, list_archive=source_module.list_archive):
        calls.append(archive)
        return list_archive(archive)

    monkeypatch.setattr(source_module, "list_archive", listed)
    assert [locate(f"a.tar/{i}.png").stamp.size for i in range(5)]
    assert len(calls) == 1


def test_an_archive_that_cannot_be_read_is_a_failure(monkeypatch):
    find([("a.png", b"x")])

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    found = find_members(os.path.abspath(b"a.tar"))
    assert isinstance(found.failures[0], SourceError)
    assert found.failures[0].message.endswith("a.tar: cannot be read (found Permission denied)")
    assert found.missing == [os.path.abspath(b"a.tar")]


def test_the_archive_of_a_path():
    find([("a.png", b"x")])
    os.makedirs("d.tar")
    shutil.copy("a.tar", "d.tar/e.TAR")
    assert archive_of(b"a.tar/x/y.png") == b"a.tar"
    assert archive_of(b"d.tar/e.TAR/a.png") == b"d.tar/e.TAR"
    assert [archive_of(path) for path in (b"a.tar", b"d.tar/a.png", b"none.tar/a.png", b"a.tarx/a.png")] == [None] * 4
    assert is_there(b"a.tar/a.png")
    assert is_there(b"a.tar")
    assert not is_there(b"none.tar/a.png")
