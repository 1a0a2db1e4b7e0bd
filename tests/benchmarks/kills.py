"""Kill ``drhn hash`` at random moments, and hold it to it that no work that was saved is lost.

    python -m tests.benchmarks.kills --kills 200

After every kill the code file is the old one or a newer one, whole by its checksums, and every code in it is that of an
undisturbed run. A run that gets through does only what was left to do, and after it pictures come, change and go. So
that kills hit writes, too, the program saves itself all the time, and the disk is slow.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from drhn_cli.codes.reader import CodeFile
from drhn_cli.files import FileStamp
from drhn_cli.network.model import save_model
from tests.drawing import KINDS, draw_picture
from tests.networks import random_model

N_PICTURES = 300

# ``drhn hash``, saving every 10 ms, and slow enough to be hit at any place. It tells when it has been loaded.
SCRIPT = """
import os, sys, time
from drhn_cli.cli.app import run
from drhn_cli.images import load
from drhn_cli.collection import update as hash

def load_slowly(*arguments, decode=load.decode_reduced, **settings):
    time.sleep(0.002)
    return decode(*arguments, **settings)

def sync_slowly(descriptor, fsync=os.fsync):
    time.sleep(0.02)
    fsync(descriptor)

os.fsync = sync_slowly
hash.SAVE_EVERY_SECONDS = 0.01
load.decode_reduced = load_slowly
print("loaded", flush=True)
sys.exit(run(sys.argv[1:]))
"""


class Folder:
    """Pictures that come, change and go, and what is right of them in a code file."""

    def __init__(self, place: Path, rng: np.random.Generator) -> None:
        self.path, self._rng, self._n_drawn = place / "pictures", rng, 0
        self.path.mkdir()
        for _ in range(N_PICTURES):
            self._draw(f"{self._n_drawn:05d}.png")

    def change(self) -> None:
        """Change a third of the pictures, remove some, and add as many."""
        names = self._rng.permutation(sorted(os.listdir(self.path))).tolist()
        for name in names[: N_PICTURES // 3]:
            self._draw(name)
        for name in names[-20:]:
            (self.path / name).unlink()
            self._draw(f"{self._n_drawn:05d}.png")

    def _draw(self, name: str) -> None:
        kind = KINDS[int(self._rng.integers(len(KINDS)))]
        draw_picture(kind, self._n_drawn, 16).save(self.path / name)
        self._n_drawn += 1

    def current(self, codes: Path) -> dict[bytes, bytes]:
        """Return the code of each picture that a code file has as it is now; none if there is no code file.

        Raises:
            CodeFileError: the code file is damaged.
        """
        if not codes.exists():
            return {}
        status = {os.fsencode(entry.name): entry.stat() for entry in os.scandir(self.path)}
        with CodeFile.open(codes) as file:
            file.verify()
            return {
                entry.path: code.tobytes()
                for entry, code in zip(file, file.codes, strict=True)
                if entry.path in status and entry.stamp.may_be_same(FileStamp.of(status[entry.path]))
            }


def kill_runs(n_kills: int, seed: int, place: Path) -> dict[str, float]:
    """Kill runs until ``n_kills`` were killed; return what came of it.

    Raises:
        AssertionError: work was lost, or a code was wrong.
        CodeFileError: a kill left a damaged code file.
    """
    rng = np.random.default_rng(seed)
    folder, codes, reference = Folder(place, rng), place / "codes.bin", place / "reference.bin"
    weights, script = place / "weights.npz", place / "slow_hash.py"
    save_model(weights, random_model())
    script.write_text(SCRIPT)
    slow = [sys.executable, script, "hash", folder.path, "--weights", weights, "--batch-size", "8", "--workers", "1"]
    slow += ["--json", "-o"]
    counts = dict.fromkeys(("killed", "completed", "saved_by_killed_runs", "killed_while_writing"), 0)
    seconds, expected, done = 0.0, {}, {}
    while counts["killed"] < n_kills:
        if not expected:
            reference.unlink(missing_ok=True)
            started = time.monotonic()
            subprocess.run([*slow, reference], check=True, stdout=subprocess.DEVNULL)
            seconds = time.monotonic() - started
            expected, done = folder.current(reference), folder.current(codes)
        with subprocess.Popen([*slow, codes], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"loaded\n"
            try:
                out, _ = process.communicate(timeout=rng.uniform(0, seconds / 2))
            except subprocess.TimeoutExpired:
                process.kill()
                out, _ = process.communicate()
        left = list(place.glob(".drhn-*.tmp"))
        now = folder.current(codes)
        assert now.keys() >= done.keys(), "work was lost"
        assert all(expected[path] == code for path, code in now.items()), "a code is wrong"
        if process.returncode == 0:
            counts["completed"] += 1
            summary = json.loads(out)
            assert summary["unchanged"] + summary["moved"] == len(done), (summary, len(done))
            assert now == expected
            assert not left, left
            folder.change()
            expected = {}
        else:
            assert process.returncode == -9, process.returncode
            counts["killed"] += 1
            counts["saved_by_killed_runs"] += now != done
            counts["killed_while_writing"] += bool(left)
        done = now
    subprocess.run([*slow, codes], check=True, stdout=subprocess.DEVNULL)
    assert not expected or folder.current(codes) == expected
    assert not list(place.glob(".drhn-*.tmp"))
    return counts


def main() -> None:
    """Parse the command line and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="drhn-kills-") as place:
        print(json.dumps(kill_runs(options.kills, options.seed, Path(place))))


if __name__ == "__main__":
    main()
