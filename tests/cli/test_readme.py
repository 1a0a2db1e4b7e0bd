import inspect
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from drhn_cli.cli.app import app
from drhn_cli.network.bundled import find_weights
from tests.drawing import write_class_folders

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
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


def test_every_example_runs(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "photos", n=20)
    write_class_folders(tmp_path / "labelled" / "train", n=20)
    write_class_folders(tmp_path / "labelled" / "test", n=5, seed=1)
    shutil.copy(find_weights(None), tmp_path / "weights.npz")
    drhn = tmp_path / "bin" / "drhn"
    drhn.parent.mkdir()
    drhn.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m drhn_cli "$@"\n')
    drhn.chmod(drhn.stat().st_mode | stat.S_IXUSR)
    environment = {**os.environ, "PATH": f"{drhn.parent}:{os.environ['PATH']}"}
    assert len(EXAMPLES) > 10
    for example in EXAMPLES:
        ended = subprocess.run(
            ["/bin/bash", "-euo", "pipefail", "-c", example],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            check=False,
        )
        assert ended.returncode == 0, (example, ended.stderr)
