"""What many tests need: untrained weights, a folder of pictures, the program in this process and in one of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from drhn_cli.cli.app import run
from drhn_cli.codes.reader import CodeFile
from drhn_cli.collection.plan import HashOptions
from drhn_cli.collection.update import HashSummary, update_collection
from drhn_cli.native.build import SOURCE, compile_library
from drhn_cli.network.model import save_model
from drhn_cli.progress import SILENT, Progress
from tests.drawing import write_class_folders
from tests.forking import Forking
from tests.networks import random_model, tiny_config

CHECKOUT = Path(__file__).parent.parent


class Result(NamedTuple):
    """What a run of the program did."""

    status: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.decode().splitlines()


class Terminal(io.TextIOWrapper):
    """A stream that takes itself for a terminal and remembers what was drawn."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def isatty(self) -> bool:
        return True

    @property
    def drawn(self) -> str:
        return self.buffer.getvalue().decode()


@pytest.fixture(scope="session")
def native_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library in C as its source is now, whatever there is in the package."""
    path = tmp_path_factory.mktemp("native") / "libscan.so"
    failure = compile_library(CHECKOUT / SOURCE, path)
    if failure:
        pytest.skip(f"no library in C: {failure}")
    return path


@pytest.fixture(scope="session")
def weights_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network of 64 bits, nested 12, 16 and 48."""
    path = tmp_path_factory.mktemp("weights") / "tiny.npz"
    save_model(path, random_model(tiny_config(bits=64, nested=(12, 16, 48)), name="tiny"))
    return path


@pytest.fixture(scope="session")
def other_weights_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another untrained network of the same shape."""
    path = tmp_path_factory.mktemp("weights") / "other.npz"
    save_model(path, random_model(tiny_config(bits=64, nested=(12, 16, 48)), seed=1, name="other"))
    return path


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight pictures, ``photos/KIND/0000.png`` and ``0001.png``, in the working directory; the path is relative."""
    monkeypatch.chdir(tmp_path)
    return write_class_folders("photos", n=2, size=16)


@pytest.fixture
def update(photos: Path, weights_path: Path) -> Callable[..., HashSummary]:
    """``update_collection`` of ``photos``, or other sources, into ``codes.bin`` with the untrained network."""

    def call(*sources: object, progress: Progress = SILENT, **options: object) -> HashSummary:
        options = {"weights": str(weights_path), "device": "cpu", "workers": 2, **options}
        return update_collection(sources or [photos], "codes.bin", HashOptions(**options), progress)

    return call


@pytest.fixture
def drhn(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The program in this process."""

    def call(*arguments: object, stdin: bytes = b"") -> Result:
        capfdbinary.readouterr()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = run([os.fsdecode(a) if isinstance(a, bytes | Path) else str(a) for a in arguments])
        out, err = capfdbinary.readouterr()
        return Result(int(status), out, err.decode())

    return call


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[bytes]]:
    """The program in a process of its own, with pipes."""

    def call(*arguments: object, script: str | None = None, **settings: object) -> subprocess.Popen[bytes]:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        path = {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | path
        command = [sys.executable, *([script] if script else ["-m", "drhn_cli"]), *map(str, arguments)]
        return subprocess.Popen(command, **{**pipes, "env": environment, **settings})

    return call


@pytest.fixture(scope="session")
def forking() -> Iterator[Forking]:
    """Processes that have loaded torch already."""
    if not hasattr(os, "fork"):
        pytest.skip("no processes are forked there")
    forking = Forking()
    yield forking
    forking.close()


# Forked with the program loaded, which every command begins with: to start Python and load it takes longer than most.
LOADED_BY = """
import os, shlex, sys
from drhn_cli.__main__ import main
import drhn_cli.cli.app

for line in sys.argv[1:]:
    child = os.fork()
    if not child:
        sys.argv = ["drhn", *shlex.split(line)]
        try:
            main()
        except SystemExit as done:
            assert done.code == 0, line
        print("\\nLOADED", *sys.modules, flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, line
"""


@pytest.fixture
def loaded_by() -> Callable[..., list[set[str]]]:
    """The modules that each command has loaded when it is done, in a process of its own; they run in this order."""
    if not hasattr(os, "fork"):
        pytest.skip("no processes are forked there")

    def call(*commands: str) -> list[set[str]]:
        done = subprocess.run(
            [sys.executable, "-c", LOADED_BY, *commands],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            check=True,
        )
        lines = [line.decode().split() for line in done.stdout.split(b"\n") if line.startswith(b"LOADED ")]
        assert len(lines) == len(commands)
        return [set(names) for _, *names in lines]

    return call


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[Terminal, Terminal]]:
    """Put terminals in the place of stdout and stderr, and return them."""

    def call() -> tuple[Terminal, Terminal]:
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setenv("TERM", "xterm")
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, Terminal())
        return sys.stdout, sys.stderr

    return call


@pytest.fixture
def query(drhn: Callable[..., Result], update: Callable[..., HashSummary], weights_path: Path) -> Callable[..., Result]:
    """``drhn query`` in a code file of ``photos``."""
    update()

    def call(*arguments: object, **settings: bytes) -> Result:
        return drhn("query", *arguments, "codes.bin", "--weights", weights_path, **settings)

    return call


@pytest.fixture
def file(update: Callable[..., HashSummary]) -> Iterator[CodeFile]:
    """An open code file of ``photos``."""
    update("photos")
    with CodeFile.open("codes.bin") as file:
        yield file
