import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from drhn_cli.codes.pack import format_hex
from drhn_cli.codes.reader import CodeFile
from tests.cli.test_hash import NOT_ROOT
from tests.clickhouse.test_table import write

IMAGE = "photos/circle/0000.png"
TABLE = "chdb:./table"
KILLED = """
import os, signal, sys
from drhn_cli.cli.app import run
from drhn_cli.clickhouse import push as load
from drhn_cli.clickhouse.connection import Connection

load.SLICE_ROWS = 30
insert = Connection.insert

def die_at_the_fourth(self, *arguments, sent=[]):
    sent.append(arguments)
    if len(sent) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    insert(self, *arguments)

Connection.insert = die_at_the_fourth
run(sys.argv[1:])
"""


@pytest.fixture
def pushed(update, drhn):
    """``codes.bin`` of ``photos``, pushed."""
    update()
    result = drhn("push", "codes.bin", TABLE)
    assert (result.status, result.out) == (0, b"")
    assert result.err.startswith(f"drhn: {TABLE}: 8 pictures (8 sent) in ")


@pytest.mark.usefixtures("pushed")
def test_a_table_answers_as_the_code_file_does(drhn, weights_path):
    shutil.copy(IMAGE, "elsewhere.png")
    Path("list").write_text(f"{IMAGE}\nphotos/square/0001.png\n")
    with CodeFile.open("codes.bin") as file:
        code = format_hex(file.codes[3])
    for arguments in (
        [IMAGE],
        [IMAGE, "--top", "3", "--not-self"],
        [IMAGE, "--max-distance", "20", "--json"],
        [IMAGE, "--under", "photos/square", "--under", "photos/circle", "--paths", "-0"],
        [IMAGE, "--under", "photos/none"],
        ["elsewhere.png", "--weights", weights_path, "--not-self"],
        ["no-such.png", IMAGE, "--weights", weights_path, "--top", "1"],
        ["--code", code, "--code", "00" * 8, "--top", "2"],
        ["--files-from", "list", "--top", "2"],
        ["--code", "00"],
        ["elsewhere.png"],
    ):
        expected, found = drhn("query", *arguments, "codes.bin"), drhn("query", *arguments, TABLE)
        assert (found.status, found.out) == (expected.status, expected.out), arguments
        assert found.err == expected.err.replace("codes.bin", TABLE), arguments
    assert expected.status == 2


@pytest.mark.usefixtures("pushed")
def test_a_table_draws_a_sheet(drhn):
    result = drhn("query", IMAGE, TABLE, "--sheet", "found.html", "--top", "3")
    assert (result.status, len(result.lines)) == (0, 3)
    page = Path("found.html").read_text()
    assert "8 pictures in " in page
    assert page.count("<img") == 4


@pytest.mark.usefixtures("pushed")
def test_a_table_is_described(drhn):
    told = dict(line.split(": ", 1) for line in drhn("info", TABLE, "--verify").lines)
    expected = {"kind": "table", "n_items": "8", "files": f"{Path('codes.bin').absolute()} 8", "verified": "yes"}
    assert told.items() >= expected.items()
    assert told["fingerprint"] == json.loads(drhn("info", "codes.bin", "--json").out)["fingerprint"]
    result = drhn("info", "chdb:./none")
    assert (result.status, result.out) == (2, b"")
    assert "chdb:./none: no such table (found no folder of that name); load one with drhn push" in result.err


@pytest.mark.usefixtures("pushed")
def test_what_a_table_cannot_do_is_said(drhn, weights_path, other_weights_path):
    result = drhn("query", IMAGE, TABLE, "--order", "asymmetric", "--weights", weights_path)
    assert (result.status, result.out) == (2, b"")
    assert "a table ranks by hamming distance only" in result.err
    result = drhn("query", IMAGE, TABLE, "--exclude", "*.gif")
    assert (result.status, result.out) == (2, b"")
    assert "a table leaves nothing out (found --exclude); ask the code file" in result.err
    result = drhn("query", IMAGE, TABLE, "--weights", other_weights_path)
    assert (result.status, result.out) == (2, b"")
    assert f"{TABLE}: the codes were made with another model" in result.err
    result = drhn("dups", TABLE)
    assert (result.status, result.out) == (2, b"")
    assert "a table answers drhn query and drhn info alone" in result.err


@pytest.mark.parametrize("arguments", [("dups",), ("export",), ("query",)])
def test_a_password_is_never_repeated(drhn, arguments):
    result = drhn(*arguments, "clickhouse://me:s3cret@localhost/d.t")
    assert (result.status, result.out) == (2, b"")
    assert "s3cret" not in result.err


@pytest.mark.usefixtures("pushed")
def test_pushing_again_replaces_and_says_so_in_json(drhn, update):
    Path(IMAGE).unlink()
    update()
    result = drhn("push", "codes.bin", TABLE, "--json")
    told = json.loads(result.out)
    assert (told["n_items"], told["n_sent"], told["n_files"], told["n_table"]) == (7, 7, 1, 7)
    assert told["name"] == str(Path("codes.bin").absolute())
    assert IMAGE.encode() not in drhn("query", "--code", "00" * 8, TABLE).out
    assert drhn("push", "codes.bin", TABLE, "--name", "twin", "-q").err == ""
    result = drhn("push", "codes.bin", TABLE)
    assert result.err.endswith(" s; the table holds 14 pictures of 2 code files\n")
    assert "(0 sent)" in result.err


def test_a_push_that_is_killed_goes_on(drhn, start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("drhn_cli.clickhouse.push.SLICE_ROWS", 30)
    write("codes.bin", {b"%d/%d.jpg" % (i % 3, i): i * 37 % 64 for i in range(100)})
    Path("killed.py").write_text(KILLED)
    process = start("push", "codes.bin", TABLE, script="killed.py")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert "pushed here to its end" in drhn("query", "--code", "00" * 6, TABLE).err
    assert "100 pictures (40 sent)" in drhn("push", "codes.bin", TABLE).err
    everything = ("query", "--code", "00" * 6, "--max-distance", "48")
    assert drhn(*everything, TABLE).out == drhn(*everything, "codes.bin").out


@pytest.mark.parametrize("command", [("query", "--code", "00" * 6), ("info",)], ids="".join)
def test_reading_makes_no_database(drhn, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("file").touch()
    for name, found in (
        ("typo", "no folder of that name"),
        ("empty", "a folder without a database"),
        ("file", "no folder but a file"),
    ):
        result = drhn(*command, f"chdb:./{name}")
        assert (result.status, result.out) == (2, b"")
        assert result.err == (
            f"drhn: chdb:./{name}: no such table (found {found}); load one with drhn push CODES URL\n"
        )
    assert sorted(os.listdir()) == ["empty", "file"]
    assert os.listdir("empty") == []


def test_a_database_is_made_in_no_folder_of_other_files(drhn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("codes.bin", {b"a.jpg": 1})
    for name, told in (
        (".", "(expected a database, or an empty folder, found other files); name a folder of its own"),
        ("codes.bin", "(found File exists); name a folder where files can be made"),
        ("codes.bin/x", "(found Not a directory); name a folder where files can be made"),
    ):
        result = drhn("push", "codes.bin", f"chdb:{name}")
        assert (result.status, len(result.err.splitlines())) == (2, 1)
        assert f": no place for a database {told}" in result.err
    assert os.listdir() == ["codes.bin"]
    Path("killed/tmp").mkdir(parents=True)  # before it had made a table
    assert drhn("push", "codes.bin", "chdb:./killed").status == 0


@NOT_ROOT
def test_a_folder_that_may_not_be_written_is_no_place_for_a_database(drhn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("codes.bin", {b"a.jpg": 1})
    Path("shut").mkdir(mode=0o500)
    told = "(found a folder that may not be written); name a folder where files can be made"
    assert told in drhn("push", "codes.bin", "chdb:./shut").err


def test_an_engine_that_fails_is_one_short_line(start, tmp_path):
    (tmp_path / "damaged" / "metadata").mkdir(parents=True)
    (tmp_path / "damaged" / "data").touch()
    _, err = start("info", "chdb:./damaged", cwd=tmp_path).communicate()
    assert err.startswith(b"drhn: chdb:./damaged: ClickHouse refuses (found ")
    assert (b"Stack trace" in err, b"another process" in err, err.count(b"\n")) == (False, False, 1)
    assert len(err) < 1000


def test_a_server_that_is_not_there_is_told_in_the_words_of_the_system(drhn):
    assert drhn("info", "clickhouse://localhost:1/db.t").err == (
        "drhn: clickhouse://default@localhost:1/db.t: ClickHouse cannot be reached (found Connection refused); "
        "see whether host and port are right, and it runs\n"
    )
