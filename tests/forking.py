"""Programs that train, in processes forked from one that has loaded torch: loading takes longer than a tiny training.

    python -m tests.forking FD

Forks a process for each request that comes through this socket, until its other end is closed.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent

PATIENCE = 300
"""After so many seconds in which a process says nothing the test fails."""
_NUMBER = struct.Struct("i")


class Forked:
    """A process, with what tests use of ``subprocess.Popen``."""

    def __init__(self, stderr: socket.socket, status: socket.socket) -> None:
        for each in (stderr, status):
            each.settimeout(PATIENCE)
        self.stderr = stderr.makefile("rb")
        stderr.close()
        self._status = status
        self._pid = self._next_number()
        self.returncode: int | None = None

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self.communicate()
        self.stderr.close()

    def _next_number(self) -> int:
        return _NUMBER.unpack(self._status.recv(_NUMBER.size))[0]

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = self._next_number()
            self._status.close()
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
        self._requests, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forking", str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"},
                cwd=CHECKOUT,
                pass_fds=[theirs.fileno()],
            )

    def start(self, function: str, *arguments: object, **environment: str) -> Forked:
        """Call ``module:function`` with a list of arguments in a process whose status is what it returns."""
        request = {"function": function, "arguments": [*map(str, arguments)], "environment": environment}
        (err, its_err), (status, its_status) = socket.socketpair(), socket.socketpair()
        with its_err, its_status:
            socket.send_fds(self._requests, [json.dumps(request).encode()], [its_err.fileno(), its_status.fileno()])
            return Forked(err, status)

    def close(self) -> None:
        self._requests.close()
        self._process.wait()


def _run(request: dict[str, object], stderr: int) -> None:
    os.dup2(stderr, 2)
    os.environ.update(request["environment"])
    module, _, name = request["function"].partition(":")
    sys.exit(getattr(importlib.import_module(module), name)(request["arguments"]))


def _answer(request: dict[str, object], stderr: int, status: int) -> None:
    """Fork the process that was asked for, tell its number, and when it has ended its status."""
    process = multiprocessing.get_context("fork").Process(target=_run, args=(request, stderr))
    process.start()
    os.close(stderr)
    os.write(status, _NUMBER.pack(process.pid))
    process.join()
    os.write(status, _NUMBER.pack(process.exitcode))


def main() -> None:
    for name in ("torch.distributed.run", "drhn_cli.cli.app", "drhn_cli.training.train"):
        importlib.import_module(name)
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        while True:
            message, descriptors, *_ = socket.recv_fds(requests, 65536, 2)
            if not message:
                break
            if not os.fork():  # waits, so that this one need not
                requests.close()
                _answer(json.loads(message), *descriptors)
                os._exit(0)
            for descriptor in descriptors:
                os.close(descriptor)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


if __name__ == "__main__":
    main()
