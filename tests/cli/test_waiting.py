import numpy as np
import pytest

from tests.clickhouse.test_table import write
from tests.locking import lock_code_file

WAITING = "drhn: codes.bin: waiting for another drhn, which is writing it\n"
REFUSAL = "drhn: codes.bin: another drhn is writing this code file; wait for it to end, or name another file with -o\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("merge", "a.bin", "-o", "codes.bin"),
        ("import", "codes.npy", "--files-from", "-", "-o", "codes.bin"),
    ],
)
def test_commands_that_write_a_code_file_tell_whom_they_wait_for(drhn, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    write("a.bin", {b"a.jpg": 1})
    write("codes.bin", {b"b.jpg": 2})
    np.save("codes.npy", np.zeros((1, 2), np.uint8))
    monkeypatch.setattr("drhn_cli.codes.writer.LOCK_TIMEOUT_SECONDS", 0.1)
    with lock_code_file("codes.bin"):
        assert drhn(*arguments, stdin=b"c.jpg\n") == (2, b"", WAITING + REFUSAL)
        assert drhn(*arguments, "--quiet", stdin=b"c.jpg\n") == (2, b"", REFUSAL)
    assert drhn(*arguments, "--quiet", stdin=b"c.jpg\n") == (0, b"", "")
