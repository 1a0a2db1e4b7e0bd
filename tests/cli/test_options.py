import io

import pytest

from drhn_cli.cli.options import read_path_list


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
