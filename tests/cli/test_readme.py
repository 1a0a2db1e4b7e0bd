"""The documents: they say what the program does, their commands run, and their links lead somewhere."""

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
REFERENCE = (CHECKOUT / "drhn_cli/cli/README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    [CHECKOUT / "README.md", *(d for room in ("drhn_cli", "tests", "weights") for d in (CHECKOUT / room).rglob("*.md"))]
)
GROUP: Any = typer.main.get_command(app)
COMMANDS = {name: GROUP.get_command(None, name) for name in GROUP.list_commands(None)}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXAMPLES = [
    line.removeprefix("$ ")
    for document in (README, REFERENCE)
    for language, block in FENCED.findall(document)
    for line in block.splitlines()
    if language == "console" and line.startswith("$ ")
]


def section_of(command: str) -> str:
    return REFERENCE.split(f"\n## drhn {command}\n")[1].split("\n## ")[0]


def options_of(command: str) -> set[str]:
    parameters = COMMANDS[command].params
    names = {name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts)}
    return {name for name in names if name.startswith("-")} | {"--help", "-h"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_section_with_an_example(command: str) -> None:
    assert f"$ drhn {command}" in section_of(command)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_documented_with_its_command_and_exists(command: str) -> None:
    table = "\n".join(line for line in section_of(command).splitlines() if line.startswith("| `-"))
    assert set(re.findall(r"`(--?[a-z0-9-]+)", table)) == options_of(command)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_that_is_explained_exists(command: str) -> None:
    every = set().union(*map(options_of, COMMANDS), {"--install-completion", "--show-completion", "--version"})
    words = set(re.findall(r"`(--[a-z0-9-]+)[^`]*`", FENCED.sub("", section_of(command))))
    assert words <= every


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_page_begins_with_an_example(command: str) -> None:
    assert f"drhn {command}" in inspect.cleandoc(COMMANDS[command].help).split("\n\n")[1]


def test_the_help_of_train_fits_on_two_screens(drhn, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    page = drhn("train", "--help").lines
    assert len(page) <= 2 * 40
    assert max(map(len, page)) <= 80


def test_the_readme_is_short() -> None:
    commands = "".join(shell_after(README, f"<!-- {name} -->") for name in ("quick-start", "tests"))
    assert len(README.splitlines()) <= 220
    assert [line for line in README.splitlines() if len(line) > 120 and line not in commands] == []
    assert len(README.split()) <= 1500


def anchors_of(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", document.read_text(encoding="utf-8")), re.MULTILINE)
    slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return {slug if slug not in slugs[:i] else f"{slug}-{slugs[:i].count(slug)}" for i, slug in enumerate(slugs)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_every_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    text = FENCED.sub("", document.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)\s]+)", text)
    for link in links:
        if not link.startswith(("https://", "http://")):
            path, _, anchor = link.partition("#")
            target = document.parent / path if path else document
            assert target.exists(), link
            assert not anchor or anchor in anchors_of(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_every_command_of_a_document_exists_with_its_options(document: Path) -> None:
    blocks = [block for language, block in FENCED.findall(document.read_text(encoding="utf-8")) if language != "python"]
    for command, arguments in re.findall(r"\bdrhn ([a-z]+)\b([^|;&#()\n]*)", "\n".join(blocks)):
        assert set(re.findall(r"(?<=\s)--?[a-zA-Z0][a-z-]*", arguments)) <= options_of(command), (command, arguments)


def shell_after(document: str, mark: str) -> str:
    """Return the first block of shell commands after a line of a document."""
    found = re.search(rf"^{re.escape(mark)}$.*?^```sh\n(.*?)^```", document, flags=re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def test_every_example_runs(tmp_path: Path, forking: Forking) -> None:
    quick_start = shell_after(README, "<!-- quick-start -->")
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
    set_up = shell_after(REFERENCE, "## Running the examples")
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


def test_the_snippets_that_read_a_code_file_run(update, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    update()
    text = (CHECKOUT / "drhn_cli/codes/README.md").read_text(encoding="utf-8")
    faiss, numpy, struct, drhn = (block for language, block in FENCED.findall(text) if language == "python")
    checks = (
        "in_faiss = distances[0].tolist(), codes.tolist()",
        "assert in_faiss == (distances[rows].tolist(), codes.tolist())",
        "assert files[0] == os.path.join(os.getcwdb(), b'photos/checker/0000.png') and len(files) == 8",
        "assert first == (paths[0], codes[0].tobytes().hex())",
    )
    script = "\n".join(f"{block}\n{check}" for block, check in zip((faiss, numpy, struct, drhn), checks, strict=True))
    subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, check=True
    )
