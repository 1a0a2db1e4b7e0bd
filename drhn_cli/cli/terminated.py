"""SIGTERM, by which systemd, Slurm, torchrun, ``timeout`` and ``kill`` stop a program, as another Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import typer

from drhn_cli.cli.status import ExitStatus


class Terminated(KeyboardInterrupt):
    """SIGTERM has come. What saves its work on Ctrl-C saves it now, too."""


@contextlib.contextmanager
def saving_on_sigterm() -> Iterator[None]:
    """Raise ``Terminated`` in the block when SIGTERM comes, and end the program with its status then."""
    before = signal.getsignal(signal.SIGTERM)
    if before == signal.SIG_DFL:  # whoever started the program may have it ignored
        signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        yield
    except Terminated:
        raise typer.Exit(ExitStatus.TERMINATED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise_terminated(*_: object) -> None:
    # Once: timeout sends it twice, and the second must not stop the saving.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated
