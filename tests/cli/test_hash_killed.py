import json
import os
import subprocess
import sys

import pytest

from tests.conftest import CHECKOUT


@pytest.mark.skipif(os.name != "posix", reason="POSIX only")
def test_a_run_killed_at_any_moment_loses_nothing_that_was_saved():
    command = [sys.executable, "-m", "tests.benchmarks.kills", "--kills", "6"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stderr.decode()
    result = json.loads(done.stdout)
    assert result["killed"] == 6
    assert result["saved_by_killed_runs"] > 0
