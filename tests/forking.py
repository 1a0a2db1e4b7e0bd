"""Programs in processes that are forked from one that has loaded torch: that takes longer than most trainings here.

    python -m tests.forking serve SOCKET

serves until its stdin ends, and

    python -m tests.forking run SOCKET -m MODULE ARGUMENT...

is ``python -m MODULE ARGUMENT...`` in such a process.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

PATIENCE = 300
"""After so many seconds in which a process says nothing the test fails."""
_NUMBER = struct.Struct("i")


class Forked:
    """A process, with what tests use of ``subprocess.Popen``."""

    def __init__(self, connection: socket.socket, stderr: socket.socket) -> None:
        self._connection = connection
        for each in (connection, stderr):
            each.settimeout(PATIENCE)
        self.stderr = stderr.makefile("rb")
        stderr.close()
        self._pid = _read_number(connection)
        self.returncode: int | None = None

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self.communicate()
        self.stderr.close()

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = _read_number(self._connection)
            self._connection.close()
        return self.returncode

    def communicate(self) -> tuple[None, bytes]:
        """Return what stderr has left when the process has ended."""
        err = self.stderr.read()
        self.wait()
        return None, err

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self._pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forking:
    """A process that has loaded torch, and what trains, and forks others."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="drhn-")  # as a socket's path has to be short
        self.path = Path(self._folder.name) / "socket"
        checkout = Path(__file__).parent.parent
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.forking", "serve", self.path],
            env={**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
            cwd=checkout,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._server.stdout.readline()

    def start(self, *arguments: object, **environment: str) -> Forked:
        """Do what ``python`` does with these arguments: ``-m MODULE ARGUMENT...`` or ``SCRIPT ARGUMENT...``."""
        err, its_err = socket.socketpair()
        with its_err, open(os.devnull, "r+b") as null:
            streams = (null.fileno(), null.fileno(), its_err.fileno())
            return Forked(_ask(self.path, [*map(str, arguments)], streams, environment), err)

    def close(self) -> None:
        self._server.communicate()
        self._folder.cleanup()


def _ask(path: Path, arguments: Sequence[str], streams: Sequence[int], environment: dict[str, str]) -> socket.socket:
    """Ask for a process, which gets these three streams; its number and its exit status come from this socket."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    request = {"arguments": arguments, "environment": environment, "folder": os.getcwd()}
    socket.send_fds(connection, [json.dumps(request).encode()], streams)
    return connection


def _read_number(connection: socket.socket) -> int:
    return _NUMBER.unpack(connection.recv(_NUMBER.size))[0]


def _run(request: dict[str, object], streams: Sequence[int]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    is_module = request["arguments"][0] == "-m"
    sys.argv = request["arguments"][is_module:]
    run = runpy.run_module if is_module else runpy.run_path
    run(sys.argv[0], run_name="__main__", **({"alter_sys": True} if is_module else {}))


def _answer(connection: socket.socket) -> None:
    """Fork the process that is asked for, tell its number, and when it has ended its status."""
    message, streams, *_ = socket.recv_fds(connection, 65536, 3)
    process = multiprocessing.get_context("fork").Process(target=_run, args=(json.loads(message), streams))
    process.start()
    for stream in streams:
        os.close(stream)
    with contextlib.suppress(BrokenPipeError):
        connection.send(_NUMBER.pack(process.pid))
    process.join()
    with contextlib.suppress(BrokenPipeError):
        connection.send(_NUMBER.pack(process.exitcode))


def serve(path: str) -> None:
    """Fork a process for each request."""
    for name in ("torch.distributed.launcher.api", "drhn_cli.cli.app", "drhn_cli.training.train"):
        importlib.import_module(name)
    gc.freeze()  # what collects garbage in the others would copy these pages
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            with connection:
                if not os.fork():  # waits, so that this one need not
                    listener.close()
                    _answer(connection)
                    os._exit(0)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


if __name__ == "__main__":
    what, where, *arguments = sys.argv[1:]
    if what == "serve":
        serve(where)
    else:
        asked = _ask(Path(where), arguments, (0, 1, 2), dict(os.environ))
        _read_number(asked)
        sys.exit(_read_number(asked))
