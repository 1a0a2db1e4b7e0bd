import json
import subprocess
import sys

import pytest

from tests.conftest import CHECKOUT

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells of memory and open files")


@LINUX
def test_damaged_pictures_of_every_format_are_hashed_or_reported():
    command = [sys.executable, "-m", "tests.benchmarks.fuzz", "--size", "500"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stderr.decode()
    result = json.loads(done.stdout)
    assert result["hashed"] + result["reported"] == 500
    assert min(result["hashed"], result["reported"]) > 50
