import errno
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from drhn_cli.errors import DrhnError, ImageError
from drhn_cli.files import FileStamp, atomic_write, open_regular, os_errors, read_head, refuse_overwrite


def test_a_stamp_is_that_of_the_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    os.utime(path, ns=(1, 2))
    status = path.stat()
    expected = {"inode": status.st_ino, "ctime_ns": status.st_ctime_ns, "device": status.st_dev}
    assert FileStamp.of(status) == FileStamp(size=3, mtime_ns=2, **expected)


STAMP = FileStamp(size=3, mtime_ns=2, inode=7, ctime_ns=9, device=1)


def test_a_file_is_known_by_device_and_inode_or_not_at_all():
    assert STAMP.identity == (1, 7)
    assert STAMP._replace(inode=0).identity is STAMP._replace(device=0).identity is None


@pytest.mark.parametrize(
    ("change", "is_same", "may_be_same"),
    [
        ({}, True, True),
        ({"device": 2}, True, True),  # another number at every mount
        ({"inode": 0}, True, True),
        ({"ctime_ns": 0}, True, True),
        ({"inode": 8}, False, True),
        ({"ctime_ns": 10}, False, True),
        ({"size": 4}, False, False),
        ({"mtime_ns": 1}, False, False),
    ],
)
def test_what_stamps_say_of_a_file(change, is_same, may_be_same):
    other = STAMP._replace(**change)
    assert STAMP.is_same(other) == other.is_same(STAMP) == is_same
    assert STAMP.may_be_same(other) == may_be_same


@pytest.mark.parametrize("field", ["st_mtime_ns", "st_ctime_ns"])
@pytest.mark.parametrize(("seconds", "clamped"), [(-(10**11), -(2**63)), (10**11, 2**63 - 1), (-(10**9), None)])
def test_dates_that_64_bits_do_not_hold_are_clamped(field, seconds, clamped):
    values = {"st_size": 1, "st_mtime_ns": 5, "st_ctime_ns": 5, "st_ino": 2**64 + 3, "st_dev": 1}
    stamp = FileStamp.of(SimpleNamespace(**values | {field: seconds * 10**9}))
    expected = seconds * 10**9 if clamped is None else clamped
    assert stamp == FileStamp(1, 5, 3, 5, 1)._replace(**{field.removeprefix("st_"): expected})


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


@pytest.fixture
def no_umask():
    old = os.umask(0)
    yield
    os.umask(old)


@pytest.mark.skipif(os.name != "posix", reason="Windows has other permissions")
@pytest.mark.usefixtures("no_umask")
def test_a_file_that_is_replaced_is_never_open_to_more_people_and_runs_as_nobody_else(tmp_path):
    path = tmp_path / "c.bin"
    path.write_bytes(b"old")
    path.chmod(0o6640)
    with atomic_write(path) as stream:
        assert stat.S_IMODE(os.fstat(stream.fileno()).st_mode) == 0o640
        stream.write(b"new")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o640)


@pytest.mark.skipif(os.name != "posix", reason="Windows has other permissions")
def test_a_file_system_that_keeps_no_permissions_is_no_reason_to_fail(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "refused")

    path = tmp_path / "c.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(Path, "chmod", refuse)
    with atomic_write(path) as stream:
        stream.write(b"new")
    assert path.read_bytes() == b"new"
