"""Which of the large libraries each command loads: what it takes to start is most of the time of most commands."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.golden.program import START

LIBRARIES = (
    "PIL",
    "chdb",
    "clickhouse_connect",
    "matplotlib",
    "numpy",
    "pyarrow",
    "rich",
    "torch",
    "torchvision",
    "typer",
)
COMMANDS = """
    --version
    --help
    hash --help
    hash pictures -o codes.bin --weights tiny.npz
    hash pictures -o new.bin --weights tiny.npz
    query pictures/circle/0.png codes.bin
    query --code ffffffffffffffff codes.bin
    query new.png codes.bin --weights tiny.npz
    dups codes.bin --max-distance 8
    dups codes.bin --no-cache
    compare new.png pictures/circle/0.png --max-distance 64 --weights tiny.npz
    compare new.png new.png
    info codes.bin
    info tiny.npz
    export codes.bin
    export codes.bin -o codes.npy
    import codes.npy --files-from list.txt -o imported.bin
    merge codes.bin -o merged.bin
    eval data --weights tiny.npz
    weights
    train data/train -o w.npz --recipe tiny --epochs 1
"""
"""Run in this order."""


@pytest.mark.usefixtures("hashed")
def test_imports(golden):
    for part in ("train", "test"):
        for kind in ("circle", "stripes"):
            shutil.copytree(f"pictures/{kind}", f"data/{part}/{kind}")
    Path("list.txt").write_text("".join(f"/away/{i}.png\n" for i in range(17)))
    script = f"import atexit, sys; {START}; sys.argv[0] = 'drhn'; "
    script += "atexit.register(lambda: print('LOADED', *sys.modules)); main()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    text = ""
    for line in COMMANDS.split("\n")[1:-1]:
        command = [sys.executable, "-c", script, *shlex.split(line)]
        done = subprocess.run(command, env=environment, capture_output=True, check=True)
        loaded = set(done.stdout.rsplit(b"LOADED", 1)[1].decode().split())
        text += f"{line.strip()}: {' '.join(name for name in LIBRARIES if name in loaded)}\n"
    golden.check_text("imports.txt", text)
