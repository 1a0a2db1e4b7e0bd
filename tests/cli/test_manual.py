"""The command reference and the man pages are what the program says of itself, and document its JSON."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from drhn_cli.cli import manual
from drhn_cli.cli.app import ExitStatus
from tests.cli.test_readme import COMMANDS, section_of


def test_the_reference_is_as_generated():
    text = manual.REFERENCE.read_text(encoding="utf-8")
    assert text == manual.reference(text), "run python -m drhn_cli.cli.manual"
    marked = re.findall(r"<!-- generated: (\S+) -->", text)
    assert marked == ["drhn", "statuses", *COMMANDS]


def test_the_man_pages_are_as_generated():
    written = {path.name: path.read_text(encoding="utf-8") for path in manual.MAN_FOLDER.iterdir()}
    assert written == manual.man_pages(), "run python -m drhn_cli.cli.manual"
    assert written.keys() == {"drhn.1", *(f"drhn-{command}.1" for command in COMMANDS)}


def test_writing_brings_changed_files_up_to_date(monkeypatch, tmp_path):
    text = manual.REFERENCE.read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(text.replace("Hash pictures into a code file.", "Old words."))
    monkeypatch.setattr(manual, "REFERENCE", tmp_path / "README.md")
    monkeypatch.setattr(manual, "MAN_FOLDER", tmp_path)
    manual.main()
    assert (tmp_path / "README.md").read_text() == text
    assert (tmp_path / "drhn-hash.1").read_text() == manual.man_pages()["drhn-hash.1"]


@pytest.mark.parametrize("name", ["drhn", *COMMANDS])
def test_a_man_page_has_no_warnings_and_every_option(name):
    mandoc = shutil.which("mandoc")
    if not mandoc:
        pytest.skip("mandoc is not installed")
    page = manual.MAN_FOLDER / ("drhn.1" if name == "drhn" else f"drhn-{name}.1")
    lint = subprocess.run([mandoc, "-T", "lint", "-W", "warning", page], capture_output=True, check=False)
    assert (lint.returncode, lint.stdout) == (0, b"")
    shown = subprocess.run([mandoc, "-T", "ascii", "-O", "width=1000", page], capture_output=True, check=True)
    text = re.sub(r".\x08", "", shown.stdout.decode())
    for option in manual.helps()[name].options:
        names = f"{', '.join(option.names)} {option.value}".strip()
        assert re.search(rf"^ *{re.escape(names)}( |$)", text, re.MULTILINE)
        assert option.about.replace("  ", " ") in re.sub(r"\s+", " ", text)
    assert all(example in text for example in manual.helps()[name].examples)
    for status in ExitStatus:
        assert re.search(rf"^ *{status.value} +{status.about}", text, re.IGNORECASE | re.MULTILINE)


def documented_fields(command):
    """Return the fields in the tables of a command's section."""
    tables = re.findall(r"^\| field \| meaning \|\n.*\n((?:\|.*\n)*)", section_of(command) + "\n", re.MULTILINE)
    return {
        name for table in tables for row in table.splitlines() for name in re.findall(r"`(.+?)`", row.split("|")[1])
    }


def fields(value):
    """Yield the fields of an object, and of the objects in its lists."""
    for name, inner in value.items():
        yield name
        if isinstance(inner, list):
            yield from (f"{name}[].{each}" for one in inner if isinstance(one, dict) for each in one)


@pytest.fixture
def printed(drhn, update, weights_path):
    """The fields of all JSON objects that command lines print."""

    def call(*command_lines):
        shutil.copy("photos/circle/0000.png", "photos/circle/again.png")
        update()
        Path("photos/broken.png").write_text("no picture")
        for folder in ("labelled/train", "labelled/test"):
            shutil.copytree("photos", folder, ignore=shutil.ignore_patterns("broken.png"))
        found = set()
        for line in command_lines:
            words = line.replace("WEIGHTS", str(weights_path)).split()
            result = drhn(*words, "--json")
            found.update(*(fields(json.loads(printed)) for printed in result.lines))
        return found

    return call


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        ("hash", ["photos -o new.bin --weights WEIGHTS"]),
        (
            "query",
            [
                "photos/circle/0000.png codes.bin --weights WEIGHTS --order asymmetric",
                "photos/gone.png codes.bin --weights WEIGHTS",
                "--word class_2 codes.bin --weights WEIGHTS",
            ],
        ),
        ("words", ["class --weights WEIGHTS"]),
        ("label", ["codes.bin --weights WEIGHTS --min-probability 0"]),
        ("dups", ["codes.bin --max-distance 64", "codes.bin --like file --quiet"]),
        (
            "compare",
            [
                "photos/circle/0000.png photos/circle/0001.png --weights WEIGHTS",
                "photos/circle/0000.png photos/circle/0001.png",
            ],
        ),
        ("export", ["codes.bin", "codes.bin -o codes.npy"]),
        ("eval", ["labelled --weights WEIGHTS --order asymmetric"]),
    ],
)
def test_fields_of_json_are_those_that_are_documented(printed, command, lines):
    assert printed(*(f"{command} {line}" for line in lines)) == documented_fields(command)


def test_fields_of_merge_and_import_are_those_that_are_documented(printed, drhn):
    assert printed("merge codes.bin -o merged.bin") == documented_fields("merge")
    drhn("export", "codes.bin", "-o", "codes.npy")
    Path("list").write_text("".join(f"{i}.png\n" for i in range(9)))
    assert set(json.loads(drhn("import", "codes.npy", "--files-from", "list", "-o", "i.bin", "--json").out)) == (
        documented_fields("import")
    )


def test_fields_of_training_weights_and_their_description(printed, drhn):
    line = "train labelled -o w.npz --recipe tiny --epochs 1 --device cpu"
    assert printed(line) == documented_fields("eval") - {"mAP_asymmetric"}
    assert documented_fields("train") == set()  # they are those of eval
    described = set(fields(json.loads(drhn("info", "w.npz", "--json").out)))
    codes = set(json.loads(drhn("info", "codes.bin", "--json").out))
    assert codes | described | {"files"} == documented_fields("info")
    listed = set().union(*(set(json.loads(line)) for line in drhn("weights", "--json").lines))
    assert listed == {name for name in described if "[]" not in name} | documented_fields("weights")


def test_fields_of_a_push_and_of_a_table_are_those_that_are_documented(printed):
    pytest.importorskip("chdb")
    assert printed("push codes.bin chdb:./table") == documented_fields("push")
