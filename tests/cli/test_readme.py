import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from drhn_cli.cli.app import app
from tests.conftest import CHECKOUT
from tests.forking import Forking

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
GROUP: Any = typer.main.get_command(app)
COMMANDS = {name: GROUP.get_command(None, name) for name in GROUP.list_commands(None)}
EXAMPLES = [
    line.removeprefix("$ ")
    for block in re.findall(r"^```console\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]


def section_of(command: str) -> str:
    return README.split(f"### drhn {command}\n")[1].split("\n##")[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_section_with_an_example(command: str) -> None:
    assert f"$ drhn {command}" in section_of(command)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_documented_with_its_command(command: str) -> None:
    section = section_of(command)
    options = {name for parameter in COMMANDS[command].params for name in (*parameter.opts, *parameter.secondary_opts)}
    missing = {name for name in options if name.startswith("-") and f"`{name}" not in section}
    assert not missing - {"--help", "-h"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_in_a_section_exists(command: str) -> None:
    options = {name for parameter in COMMANDS[command].params for name in (*parameter.opts, *parameter.secondary_opts)}
    table = "\n".join(line for line in section_of(command).splitlines() if line.startswith("|"))
    assert set(re.findall(r"`(--?[a-z0-9-]+)", table)) <= options


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_page_begins_with_an_example(command: str) -> None:
    assert f"drhn {command}" in inspect.cleandoc(COMMANDS[command].help).split("\n\n")[1]


def shell_after(mark: str) -> str:
    """Return the first block of shell commands after a line of the README."""
    found = re.search(rf"^{re.escape(mark)}$.*?^```sh\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def test_every_example_runs(tmp_path: Path, forking: Forking) -> None:
    quick_start = shell_after("<!-- quick-start -->")
    installing = "python3 -m venv .venv && .venv/bin/pip install --quiet . && "
    assert quick_start.startswith(installing)
    programs = tmp_path / ".venv" / "bin"  # as installing leaves them
    programs.mkdir(parents=True)
    few = "5"  # pictures of a kind, instead of 50
    for name, arguments in (
        ("python", f'"$@" {few}'),
        ("drhn", f'-m tests.forking run "{forking.path}" -m drhn_cli "$@"'),
    ):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}\n')
        (programs / name).chmod(0o755)
    (programs / "activate").write_text(f'PATH="{programs}:$PATH"\n')
    (tmp_path / "weights").symlink_to(CHECKOUT / "weights")
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    set_up = shell_after("## Commands")
    assert set_up.startswith(". .venv/bin/activate && ")
    assert len(EXAMPLES) > 10
    for commands in (quick_start.removeprefix(installing), set_up, *EXAMPLES):
        ended = subprocess.run(
            ["/bin/bash", "-euo", "pipefail", "-c", commands],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            check=False,
        )
        assert ended.returncode == 0, (commands, ended.stderr)
        environment["PATH"] = f"{programs}:{os.environ['PATH']}"  # what activate does to the shell of the set-up
