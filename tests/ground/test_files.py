import errno
import os
from pathlib import Path

import pytest

from drhn_cli.errors import DrhnError, ImageError
from drhn_cli.files import FileStamp, open_regular, os_errors, read_head, refuse_overwrite

PLACE = 7 << 32


def test_a_stamp_is_that_of_the_file_and_a_copy_is_the_same_content(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    os.utime(path, ns=(1, 2))
    stamp = FileStamp.of(path.stat())
    assert stamp == FileStamp(size=3, mtime_ns=2, inode=path.stat().st_ino)
    assert stamp.is_same_content(FileStamp(size=3, mtime_ns=2))
    assert not stamp.is_same_content(FileStamp(size=4, mtime_ns=2, inode=stamp.inode))
    assert not stamp.is_same_content(FileStamp(size=3, mtime_ns=1, inode=stamp.inode))


@pytest.mark.parametrize(("inode", "same"), [(PLACE | 1, True), (PLACE | 2, True), (1, False), (PLACE << 1 | 1, False)])
def test_a_member_is_the_same_only_at_its_place_in_the_archive(inode, same):
    stored = FileStamp(size=3, mtime_ns=2, inode=PLACE | 1)
    assert FileStamp(size=3, mtime_ns=2, inode=inode).is_same_content(stored, in_archive=True) == same


def test_errors_of_the_system_become_ours():
    with pytest.raises(ImageError) as caught, os_errors(ImageError, "bad", path="a", expected="e", hint="mend it"):
        raise OSError(errno.EIO, "Input/output error")
    assert caught.value.message == "a: bad (expected e, found Input/output error); mend it"
    with pytest.raises(ImageError, match=r"found no number"), os_errors(ImageError, "bad", path="a"):
        raise OSError("no number")


def test_what_is_absent_has_an_error_of_its_own_and_other_errors_pass():
    absent = DrhnError("no such file")
    with pytest.raises(DrhnError, match=r"^no such file$"), os_errors(ImageError, "bad", path="a", absent=absent):
        Path("/none/such").read_bytes()
    with pytest.raises(ImageError, match="bad"), os_errors(ImageError, "bad", path="a", absent=absent):
        raise PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(ZeroDivisionError), os_errors(ImageError, "bad", path="a", absent=absent):
        raise ZeroDivisionError


def test_only_what_is_ours_is_overwritten(tmp_path):
    path = tmp_path / "x.html"

    def is_ours(head):
        return head.startswith(b"ours")

    refuse_overwrite(path, "sheet", is_ours)
    path.touch()
    refuse_overwrite(path, "sheet", is_ours)
    path.write_bytes(b"ours" + bytes(5000))
    refuse_overwrite(path, "sheet", is_ours)
    path.write_bytes(b"a photograph")
    with pytest.raises(DrhnError, match=r"x.html: another file is in the place of the sheet; remove it, or choose"):
        refuse_overwrite(path, "sheet", is_ours)
    assert read_head(path, "sheet") == b"a photograph"
    with pytest.raises(DrhnError, match=r"cannot write the sheet .found no such folder.; make the folder first"):
        refuse_overwrite(tmp_path / "none" / "x.html", "sheet", is_ours)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFO")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert open_regular(tmp_path / "pipe") is None
    (tmp_path / "file").write_bytes(b"abc")
    with open_regular(tmp_path / "file") as stream:
        assert stream.read() == b"abc"
