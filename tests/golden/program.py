"""The program as users start it, in this process: the only place here that knows a module of the program."""

from __future__ import annotations

import io
import re
import shlex
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO
from unittest.mock import patch

from drhn_cli.__main__ import main

_VARYING = (
    (r"Usage: drhn .*\nTry .*\n\n", ""),  # typer's
    (r"(drhn_version\W+)[\w.+]+", r"\1VERSION"),
    (r"\bin \d+\.\d s\b", "in N s"),
    (r"(?m), \d+ s$", ", N s"),
    (r'("(?:seconds|hours|cpu_hours)": )[\d.]+', r"\1N"),
    (r'("hardware": )"[^"]*"', r"\1HARDWARE"),
)


class Session:
    """Runs of the program and what they wrote, as a text that is the same on every machine."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def __call__(self, line: str, *, stdin: bytes = b"", stderr: TextIO | None = None) -> int:
        """Run the program with the arguments on this line and return its exit status."""
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace") for _ in range(2))
        with (
            patch.object(sys, "argv", ["drhn", *shlex.split(line)]),
            patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
            redirect_stdout(out),
            redirect_stderr(stderr or err),
        ):
            try:
                main()
                status = 0
            except SystemExit as done:
                status = int(done.code or 0)
        text = f"$ drhn {line}\n"
        for name, stream in (("stdout", out), ("stderr", stderr or err)):
            stream.flush()
            written = stream.buffer.getvalue().decode("utf-8", "backslashreplace").replace("\0", "\\0\n")
            text += f"--- {name}\n{written}" if written else ""
        self._texts.append(f"{text}--- exit status {status}\n")
        return status

    def add(self, text: str) -> None:
        """Take this into the text, too."""
        self._texts.append(text)

    @property
    def text(self) -> str:
        """Everything so far, without the times and paths of this run."""
        text = "\n".join(self._texts).replace(str(Path.cwd()), "/HERE")
        for pattern, name in _VARYING:
            text = re.sub(pattern, name, text)
        return text
