import os
import re

import pytest

from drhn_cli.cli import output as render
from drhn_cli.errors import DrhnError


def test_any_bytes_go_to_stdout_as_they_are(capfdbinary):
    render.write_bytes(b"\xff\x00\n")
    render.flush()
    assert capfdbinary.readouterr() == (b"\xff\x00\n", b"")


def test_json_keeps_bytes_that_are_no_utf8(capfdbinary):
    render.write_json({"path": os.fsdecode(b"\xff\n")})
    render.flush()
    assert capfdbinary.readouterr().out == b'{"path": "\\udcff\\n"}\n'


def test_errors_are_one_line_on_stderr(capsys):
    render.report_error(DrhnError("bad", path=b"a\nb\x1b", hint="mend it"))
    assert capsys.readouterr() == ("", "drhn: a\\nb\\x1b: bad; mend it\n")


def test_the_path_of_an_error_is_shown_relative_too(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    render.report_error(DrhnError("bad", path=tmp_path / "a.png"))
    render.report_error(DrhnError("bad"))
    assert capsys.readouterr().err == "drhn: a.png: bad\ndrhn: bad\n"


def test_a_working_directory_that_is_removed_meanwhile_leaves_paths_absolute(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert render.shown_path(b"/a.png") == b"/a.png"


def test_paths_on_a_terminal_are_text_that_it_does_not_obey_unless_nul_ends_them(terminal):
    assert render.path_form(b"\n")(b"/\x1b[31m") == b"/\x1b[31m"
    terminal()
    assert render.path_form(b"\n")(b"/\x1b[31m") == b"/\\x1b[31m"
    assert render.path_form(b"\0")(b"/\x1b[31m") == b"/\x1b[31m"


def test_what_is_counted_has_a_plural():
    assert [render.counted(number, "code file") for number in (0, 1, 1000)] == [
        "0 code files",
        "1 code file",
        "1,000 code files",
    ]


def test_a_path_below_the_working_directory_is_shown_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = os.fsencode(tmp_path)
    assert render.shown_path(here + b"/a/b.png") == b"a/b.png"
    assert render.shown_path(here + b"x/b.png") == here + b"x/b.png"


def test_a_path_is_shown_relative_to_the_root_folder_too(monkeypatch):
    monkeypatch.setattr(os, "getcwdb", lambda: b"/")
    assert render.shown_path(b"/a/b.png") == b"a/b.png"


def test_numbers_have_four_decimals():
    assert (render.format_number(0.12345), render.format_number(None)) == ("0.1235", "-")


def test_rows_in_a_pipe_are_tab_separated(capfdbinary):
    render.write_rows(["a", "b"], [["1", "\udcff"]])
    render.flush()
    assert capfdbinary.readouterr().out == b"a\tb\n1\t\xff\n"


def test_rows_on_a_terminal_are_a_table(terminal):
    stdout, _stderr = terminal()
    render.write_rows(["name", "bits"], [["cifar10", "48"], ["x", "1024"]])
    lines = [line.rstrip() for line in stdout.drawn.splitlines()]
    assert [line.split() for line in lines[-2:]] == [["cifar10", "48"], ["x", "1024"]]
    assert len(lines[-1]) == len(lines[-2])


@pytest.mark.parametrize(
    ("name", "shown"), [("[red]x[/]", "[red]x[/]"), ("a\x1b[2J", "a\\x1b[2J"), ("\udcff", "\\udcff")]
)
def test_a_name_in_a_table_is_neither_markup_nor_an_escape(terminal, name, shown):
    stdout, _stderr = terminal()
    render.write_rows(["name"], [[name]])
    assert shown in stdout.drawn


def test_progress_is_silent_in_a_pipe(capfd):
    with render.TerminalProgress(quiet=False) as progress:
        progress.phase("hashing", 2)
        progress.advance()
    assert capfd.readouterr() == ("", "")


def test_progress_is_drawn_on_a_terminal_and_not_on_stdout(terminal):
    stdout, stderr = terminal()
    with render.TerminalProgress(quiet=False) as progress:
        progress.phase("hashing", 4)
        progress.failure(DrhnError("bad"))
        progress.failure(DrhnError("bad"))
        progress.advance(3)
    assert "hashing" in stderr.drawn
    assert "3/4" in stderr.drawn
    assert re.search(r"\d/s  2 failed", stderr.drawn)
    assert stdout.drawn == ""


def test_progress_tells_no_rate_before_there_is_one(terminal):
    _stdout, stderr = terminal()
    with render.TerminalProgress(quiet=False) as progress:
        progress.phase("hashing", 4)
        progress.advance(0)
        progress.advance(4)
    assert not re.search(r"\b0\.0/s", stderr.drawn)
    assert "/s" in stderr.drawn


def test_quiet_draws_no_progress(terminal):
    _stdout, stderr = terminal()
    with render.TerminalProgress(quiet=True) as progress:
        progress.phase("hashing", 2)
        progress.advance()
        progress.note("nothing of importance")
    assert stderr.drawn == ""


def test_data_written_below_a_progress_bar_stays_whole(terminal):
    stdout, stderr = terminal()
    with render.TerminalProgress(quiet=False) as progress:
        progress.phase("hashing")
        render.write_bytes(b"data\n")
        render.report("a message")
    assert stdout.drawn == "data\n"
    assert "drhn: a message" in stderr.drawn


def test_another_phase_begins_anew(terminal):
    _stdout, stderr = terminal()
    with render.TerminalProgress(quiet=False) as progress:
        progress.phase("listing")
        progress.advance(7)
        progress.phase("hashing", 4)
        progress.advance(1)
    assert "listing" in stderr.drawn
    assert "1/4" in stderr.drawn


def test_quiet_tells_failures_and_nothing_else(capsys):
    with render.TerminalProgress(quiet=True) as progress:
        progress.note("going on")
        progress.failure(DrhnError("bad", path="a.png"))
    assert (capsys.readouterr().err, progress.n_failed) == ("drhn: a.png: bad\n", 1)
