import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from drhn_cli import __main__, __version__
from drhn_cli.cli import app as app_module
from drhn_cli.codes.reader import CodeFile

COMMANDS = sorted(typer.main.get_command(app_module.app).list_commands(None))
POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX only")


def test_version(drhn):
    assert drhn("--version") == drhn("-V") == (0, f"drhn {__version__}\n".encode(), "")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_command_and_the_exit_statuses(drhn, flag):
    result = drhn(flag)
    assert (result.status, result.err) == (0, "")
    assert all(f"\n  {command} " in result.out.decode() for command in COMMANDS)
    assert b"Exit status: 0 done or found, 1 nothing found" in result.out


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_help(drhn, command, flag):
    result = drhn(command, flag)
    assert (result.status, result.err) == (0, "")
    assert result.out.decode().startswith(f"Usage: drhn {command} [OPTIONS]")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_json_and_quiet(drhn, command):
    page = drhn(command, "--help").out.decode()
    assert re.search(r"^  --json +One JSON object a line on stdout\.$", page, re.MULTILINE)
    assert re.search(r"^  -q, --quiet +No progress", page, re.MULTILINE)
    assert re.search(r"^  -h, --help +Show this", page, re.MULTILINE)


@pytest.mark.parametrize("arguments", [(), *((command,) for command in COMMANDS)], ids=" ".join)
def test_a_help_page_of_80_columns_has_whole_examples_and_sentences_and_none_of_pythons_types(
    drhn, monkeypatch, arguments
):
    monkeypatch.setenv("COLUMNS", "80")
    page = drhn(*arguments, "--help").out.decode()
    command = typer.main.get_command(app_module.app)
    text = inspect.cleandoc((command.get_command(None, arguments[0]) if arguments else command).help)
    examples = [line for line in text.split("\n\n") if "\n" not in line and "drhn " in line]
    assert examples
    assert all(f"  {example}\n" in page for example in examples)
    assert not re.search(r"<(str|int|float|list|path)\b|\w\.\.\.$", page, re.MULTILINE)


@pytest.mark.parametrize(("command", "name"), [("hash", "SOURCE"), ("query", "PATH"), ("merge", "PART")])
def test_the_usage_shows_that_an_argument_repeats(drhn, command, name):
    usage = drhn(command, "--help").out.decode().splitlines()[0]
    assert re.fullmatch(rf"Usage: drhn {command} \[OPTIONS\] .?{name}\.\.\..?", usage)


def test_no_command_shows_the_help_as_an_error(drhn):
    result = drhn()
    assert result.status == 2
    assert "Commands:" in result.err + result.out.decode()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch"], "No such command 'nosuch'"),
        (["hash"], "Missing option '--output' / '-o'"),
        (["hash", "x", "-o", "y", "--nosuch"], "No such option: --nosuch"),
        (["hash", "x", "-o", "y", "--bits", "many"], "Invalid value for '--bits'"),
        (["hash", "x", "-o", "y", "--bits", "0"], "Invalid value for '--bits'"),
        (["hash", "x", "-o", "y", "--batch-size", "99999999999999999999"], "Invalid value for '--batch-size'"),
        (["query"], "Missing argument"),
        (["query", "x", "y", "--top", "0"], "Invalid value for '--top'"),
        (["query", "x", "y", "--max-distance", "-1"], "Invalid value for '--max-distance'"),
        (["info"], "Missing argument 'FILE'"),
        (["info", "a", "b"], "unexpected extra argument"),
        (["train"], "Missing argument 'DATA'"),
    ],
)
def test_a_usage_error_is_one_clear_message_and_status_2(drhn, arguments, message):
    result = drhn(*arguments)
    assert (result.status, result.out) == (2, b"")
    assert message in result.err.splitlines()[-1]
    assert "Traceback" not in result.err


def test_a_file_whose_name_begins_with_a_dash_is_named_as_it_has_to_be(drhn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("-x.png").touch()
    result = drhn("query", "-x.png", "--top", "1", "codes.bin")
    assert (result.status, result.out) == (2, b"")
    assert result.err.splitlines()[-1] == "drhn: -x.png begins with a dash; a file of that name is ./-x.png"


def test_an_option_that_was_renamed_is_told_with_its_new_name(drhn):
    result = drhn("import", "codes.npy", "--paths", "list.txt", "-o", "codes.bin")
    assert (result.status, result.out) == (2, b"")
    assert "No such option: --paths" in result.err
    assert result.err.splitlines()[-1] == "drhn: --paths is now --files-from"


def test_a_command_that_never_had_a_renamed_option_names_no_other(drhn):
    result = drhn("train", "data", "-o", "w.npz", "--rank", "asymmetric")
    assert result.status == 2
    assert "is now" not in result.err


def test_a_wrong_file_is_one_line_on_stderr_and_status_2(drhn, tmp_path):
    result = drhn("query", "x.jpg", tmp_path / "nowhere.bin")
    assert (result.status, result.out) == (2, b"")
    assert result.err == f"drhn: {tmp_path}/nowhere.bin: no such code file; make one with drhn hash FOLDER -o FILE\n"


def raise_from_info(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(CodeFile, "open", fail)


@pytest.mark.parametrize("error", [KeyboardInterrupt, EOFError])
def test_an_interruption_is_status_130_without_a_traceback(drhn, monkeypatch, error):
    raise_from_info(monkeypatch, error)
    result = drhn("info", __file__)
    assert (result.status, result.out, result.err.strip()) == (130, b"", "")


@POSIX
def test_an_interruption_while_the_program_is_loaded_is_status_130_without_a_traceback(start, tmp_path):
    (tmp_path / "typer.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    process = start("--version", env={**os.environ, "PYTHONPATH": path})
    assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 130


def test_an_interruption_outside_of_a_command_is_status_130(monkeypatch):
    def interrupt(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(app_module, "app", interrupt)
    assert app_module.run([]) == 130


@pytest.mark.parametrize("error", [ZeroDivisionError(), OSError(5, "Input/output error"), SystemExit(7)])
def test_a_bug_keeps_its_traceback(drhn, monkeypatch, error):
    raise_from_info(monkeypatch, error)
    with pytest.raises(type(error)):
        drhn("info", __file__)


def test_the_process_exits_with_the_status(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["drhn", "info", "nowhere"])
    with pytest.raises(SystemExit) as exit_:
        __main__.main()
    assert exit_.value.code == 2
    assert "nowhere" in capsys.readouterr().err


@POSIX
@pytest.mark.parametrize("flush", ["", "1"])
def test_a_closed_pipe_is_silent_and_no_error(start, update, flush):
    update()
    Path("list").write_text("photos/circle/0000.png\n" * 20_000)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": flush}
    with start("query", "--files-from", "list", "codes.bin", env=environment) as process:
        assert process.stdout.readline().startswith(b"photos/circle/0000.png\t0\t")
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")
@pytest.mark.parametrize(
    "arguments",
    [
        ("info", "codes.bin"),
        ("query", "--code", "00" * 8, "codes.bin"),
        ("hash", "photos", "-o", "codes.bin", "--weights", "{weights}", "--json", "--quiet"),
        ("dups", "codes.bin", "--max-distance", "64"),
        ("compare", "photos/circle/0000.png", "photos/circle/0001.png", "--weights", "{weights}"),
        ("export", "codes.bin"),
        ("weights",),
        ("--help",),
        ("hash", "--help"),
        ("--version",),
    ],
)
def test_a_full_disk_is_one_clear_line(start, update, weights_path, arguments):
    update()
    with open("/dev/full", "wb") as full:
        process = start(*(word.format(weights=weights_path) for word in arguments), stdout=full)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (2, b"drhn: cannot write to stdout (found No space left on device)\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")
@pytest.mark.parametrize("arguments", [("info", "nowhere"), ("nosuch",)])
def test_messages_that_nobody_can_read_do_not_change_the_status(start, arguments):
    with open("/dev/full", "wb") as full:
        process = start(*arguments, stderr=full)
        assert process.communicate(timeout=30) == (b"", None)
    assert process.returncode == 2


@POSIX
@pytest.mark.parametrize("arguments", [("hash", "/", "-o", "/codes.bin"), ("weights",)])
def test_a_working_directory_that_is_gone_is_one_clear_line(start, tmp_path, arguments):
    (tmp_path / "gone").mkdir()
    process = start(*arguments, cwd=tmp_path / "gone", preexec_fn=(tmp_path / "gone").rmdir)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, b"")
    assert err.startswith(b"drhn: the working directory is gone (found No such file or directory); change to")


@POSIX
def test_a_real_process_exits_with_the_status_and_reports_on_stderr(start):
    process = start("info", "/nowhere", stdin=subprocess.DEVNULL)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, b"")
    assert err.startswith(b"drhn: /nowhere: ")


@POSIX
@pytest.mark.parametrize(
    ("number", "arguments", "status"),
    [
        (0, ("query", "-", "codes.bin"), 2),
        (0, ("hash", "--files-from", "-", "-o", "codes.bin"), 2),
        (1, ("info", "codes.bin"), 2),
        (1, ("query", "--code", "00" * 8, "codes.bin"), 2),
        (1, ("export", "codes.bin"), 2),
        (1, ("--help",), 2),
        (1, ("hash", "photos", "-o", "codes.bin"), 0),
        (2, ("info", "nowhere"), 2),
    ],
)
def test_a_closed_standard_stream_is_empty_and_takes_nothing(start, update, weights_path, number, arguments, status):
    update()
    weights = ("--weights", weights_path) if arguments[0] in ("query", "hash") else ()
    process = start(*arguments, *weights, preexec_fn=lambda: os.close(number))
    _, err = process.communicate(timeout=30)
    assert (process.returncode, b"Traceback" in err) == (status, False)


def test_a_path_of_thousands_of_characters_is_shortened(drhn):
    path = "/".join(["folder"] * 1000) + "/picture.png"
    for arguments in (("info", path), ("query", path, "codes.bin"), ("dups", path), ("hash", path, "-o", "a.bin")):
        result = drhn(*arguments)
        assert result.status == 2
        assert max(map(len, result.err.splitlines())) <= 1000
        assert "..." in result.err or "codes.bin" in result.err


@pytest.mark.parametrize(
    ("arguments", "choices"),
    [
        (("query", "--code", "00", "codes.bin", "--order"), "'hamming', 'asymmetric'"),
        (("eval", "cifar10", "--order"), "'hamming', 'asymmetric'"),
        (("export", "codes.bin", "--format"), "'npy', 'npz', 'tsv', 'ndjson', 'parquet'"),
    ],
)
def test_a_wrong_choice_is_told_with_the_right_ones(drhn, arguments, choices):
    result = drhn(*arguments, "bent")
    assert (result.status, result.out) == (2, b"")
    assert f"Invalid value for '{arguments[-1]}': 'bent' is not one of {choices}." in result.err
    page = drhn(arguments[0], "--help").out.decode()
    assert f"{arguments[-1]} " in page
    assert choices.replace("', '", "|").strip("'") in page


ERRORS = {
    "hash": "hash . -o codes.bin --weights gone",
    "query": "query a.png gone",
    "words": "words --codes gone",
    "label": "label gone",
    "dups": "dups gone",
    "compare": "compare gone b.png",
    "merge": "merge gone b.bin -o codes.bin",
    "push": "push gone chdb:table",
    "info": "info gone",
    "export": "export gone",
    "import": "import gone --files-from - -o codes.bin",
    "train": "train gone -o weights.npz --device cpu",
    "eval": "eval gone",
    "weights": "weights",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_with_json_the_error_of_any_command_is_an_object_too(drhn, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    if name == "weights":
        Path("bundled").mkdir()
        monkeypatch.setattr("drhn_cli.network.model.bundled_paths", lambda: [Path("gone")])
    arguments = ERRORS[name].split()
    plain, result = drhn(*arguments), drhn(*arguments, "--json")
    assert (plain.status, plain.out) == (2, b"")
    assert (result.status, result.err) == (plain.status, plain.err)
    (line,) = result.lines
    error = json.loads(line)
    assert list(error) == ["error", "path"]
    assert result.err == f"drhn: {error['path']}: {error['error']}\n"
    assert error["path"] == "gone"


def test_an_error_that_concerns_no_file_has_no_path(drhn):
    result = drhn("dups", "clickhouse://host/db.table", "--json")
    assert [json.loads(line)["path"] for line in result.lines] == [None]
    assert drhn("dups", "--", "--json").out == b""


def test_an_error_whose_object_nobody_reads_is_an_error(start):
    with start("info", "gone", "--json") as process:
        process.stdout.close()
        assert process.stderr.read().startswith(b"drhn: gone: ")
    assert process.returncode == 2
