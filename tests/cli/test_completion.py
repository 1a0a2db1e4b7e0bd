import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import CHECKOUT

HEAVY = {"torch", "torchvision", "numpy", "PIL"}

# A shell, and what makes it complete "drhn ha" with the script that drhn gives it.
SHELLS = {
    "bash": 'eval "$(drhn --show-completion)"; COMP_WORDS=(drhn ha) COMP_CWORD=1; _drhn_completion drhn; '
    "echo $COMPREPLY",
    "zsh": 'autoload -Uz compinit; compinit -D; eval "$(drhn --show-completion)"; words=(drhn ha); CURRENT=2; '
    "_arguments() { print -r -- $@ }; _drhn_completion",
    "fish": "drhn --show-completion | source; complete -C 'drhn ha'",
}


@pytest.fixture
def environment(tmp_path):
    """An environment in which ``drhn`` is a command, and the user's own set-up of the shell is not read."""
    script = tmp_path / "bin" / "drhn"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m drhn_cli "$@"\n')
    script.chmod(0o755)
    path = f"{script.parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(CHECKOUT), "HOME": str(tmp_path)}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_a_command(environment, shell):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    plain = {"zsh": ["-f"], "fish": ["--no-config"], "bash": ["--norc"]}[shell]
    done = subprocess.run([shell, *plain, "-c", SHELLS[shell]], env=environment, capture_output=True, check=True)
    assert "hash" in done.stdout.decode()
    assert "query" not in done.stdout.decode()


def complete(environment, shell, typed, action="get-args"):
    """Return what drhn answers to a shell, and the modules that it loads for that."""
    asked = {
        "_DRHN_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": typed,
        "_TYPER_COMPLETE_FISH_ACTION": action,
        "COMP_WORDS": typed,
        "COMP_CWORD": str(typed.count(" ")),
    }
    command = [sys.executable, "-X", "importtime", "-m", "drhn_cli"]
    done = subprocess.run(command, env={**environment, **asked}, capture_output=True, check=False)
    loaded = {line.split("|")[-1].strip() for line in done.stderr.decode().splitlines()}
    assert "drhn_cli.cli.app" in loaded
    return done.stdout.decode(), loaded & HEAVY


@pytest.mark.parametrize("shell", SHELLS)
def test_commands_and_options_are_completed_and_nothing_heavy_is_loaded(environment, shell):
    for typed, word in (("drhn ha", "hash"), ("drhn query --max", "--max-distance"), ("drhn train --rec", "--recipe")):
        answer, loaded = complete(environment, shell, typed)
        assert word in answer
        assert loaded == set()


def test_files_are_left_to_the_shell(environment):
    assert complete(environment, "bash", "drhn hash ph")[0].strip() == ""
    assert complete(environment, "zsh", "drhn hash ph")[0].strip() == "_files"


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("drhn query --weights pho", "photos"),
        ("drhn train --from cif", "cifar10"),
        ("drhn train --recipe fine", "fine-tune"),
        ("drhn hash --device cu", "cuda"),
        ("drhn query --order asym", "asymmetric"),
        ("drhn export --format pa", "parquet"),
        ("drhn query --word golden_r", "golden_retriever"),
    ],
)
def test_names_are_completed_and_nothing_heavy_is_loaded(environment, shell, typed, expected):
    answer, loaded = complete(environment, shell, typed)
    assert expected in answer.split("\n") or f'"{expected}"' in answer
    assert loaded == set()


def test_every_name_is_offered(environment):
    bundled = {path.stem for path in (CHECKOUT / "weights").glob("*.npz")}
    recipes = {path.stem for path in (CHECKOUT / "weights").glob("*.toml")}
    for typed, names in (("drhn eval --weights ", bundled), ("drhn train --recipe ", recipes)):
        assert set(complete(environment, "bash", typed)[0].split()) == names != set()


def test_files_are_left_to_the_shell_where_no_name_begins_so(environment):
    assert complete(environment, "bash", "drhn eval --weights ./mine")[0].strip() == ""
