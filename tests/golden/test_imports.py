"""Which of the large libraries each command loads: what it takes to start is most of the time of most commands."""

import shutil
from pathlib import Path

import pytest

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
def test_imports(golden, loaded_by):
    for part in ("train", "test"):
        for kind in ("circle", "stripes"):
            shutil.copytree(f"pictures/{kind}", f"data/{part}/{kind}")
    Path("list.txt").write_text("".join(f"/away/{i}.png\n" for i in range(17)))
    commands = [line.strip() for line in COMMANDS.split("\n")[1:-1]]
    text = ""
    for command, loaded in zip(commands, loaded_by(*commands), strict=True):
        text += f"{command}: {' '.join(name for name in LIBRARIES if name in loaded)}\n"
    golden.check_text("imports.txt", text)
