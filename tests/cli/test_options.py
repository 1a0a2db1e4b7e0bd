import codecs
import io

import pytest

from drhn_cli.cli import options
from drhn_cli.cli.options import read_path_list
from drhn_cli.errors import SourceError


@pytest.mark.parametrize(
    ("data", "null", "paths"),
    [
        (b"a\nb\n", False, [b"a", b"b"]),
        (b"a\n\n\nb", False, [b"a", b"b"]),
        (b"a\r\nb\r\r\n\r\n", False, [b"a", b"b\r"]),
        (b" a b \n\xff\n", False, [b" a b ", b"\xff"]),
        (b"a\0b\0", True, [b"a", b"b"]),
        (b"a\n\0\0b\r", True, [b"a\n", b"b\r"]),
        (b"", False, []),
        (b"", True, []),
        (b"x" * 100_000 + b"\0" + b"y" * 70_000 + b"\0z", True, [b"x" * 100_000, b"y" * 70_000, b"z"]),
    ],
)
def test_read_path_list(data, null, paths):
    assert list(read_path_list(io.BytesIO(data), null=null)) == paths


LISTED = "p/0.png\r\np/\u00e9\u4e2d.png\n\U0001f389.png"
PATHS = [line.encode() for line in LISTED.splitlines()]


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
@pytest.mark.parametrize("n_bytes", [1, 2, 3, 1 << 16])
def test_a_byte_order_mark_is_no_part_of_a_path(mark, encoding, n_bytes):
    stream = io.BytesIO(mark + LISTED.encode(encoding))
    read1 = stream.read1
    stream.read1 = lambda size: read1(min(size, n_bytes))
    assert list(read_path_list(stream, null=False)) == PATHS


def test_a_list_of_nothing_but_a_mark_is_empty():
    for mark in (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF32_BE):
        assert list(read_path_list(io.BytesIO(mark), null=False)) == []


def test_only_the_beginning_of_a_list_may_be_a_mark():
    assert list(read_path_list(io.BytesIO(b"\xff\xfd\n\xef\xbb\xbfa"), null=False)) == [b"\xff\xfd", b"\xef\xbb\xbfa"]
    assert list(read_path_list(io.BytesIO(b"\xef\xbb"), null=False)) == [b"\xef\xbb"]
    assert list(read_path_list(io.BytesIO(b"\xef\xbb\xbfa\0b"), null=True)) == [b"\xef\xbb\xbfa", b"b"]


@pytest.mark.parametrize("data", [b"\xff\xfea\0\n", b"\xff\xfe\0\xd8a\0"])
def test_damaged_utf_16_is_told(data):
    with pytest.raises(SourceError, match="UTF-16"):
        list(read_path_list(io.BytesIO(data), null=False))


class Endless(io.RawIOBase):
    def __init__(self, block):
        self.block = block

    def read1(self, size):
        return (self.block * size)[:size]


@pytest.mark.parametrize("null", [False, True])
def test_an_endless_entry_ends(null):
    with pytest.raises(SourceError, match="entries of at most"):
        list(read_path_list(Endless(b"x" if null else b"\0"), null=null))


def test_an_endless_list_ends(monkeypatch):
    monkeypatch.setattr(options, "_MAX_ENTRIES", 100_000)
    with pytest.raises(SourceError, match="at most 100,000 entries"):
        list(read_path_list(Endless(b"y\n"), null=False))
