"""What a terminal shows, in a process of its own that has one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.drawing import write_class_folders

pty = pytest.importorskip("pty", reason="POSIX only")

COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3\d|9\d)(?:;\d+)*m")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture
def on_terminal(start):
    """Run the program with stdout or stderr on a terminal of 100 columns, and return its status and what that shows."""

    def call(*arguments, stream="stderr", encoding="utf-8", script=None, **environment):
        main, side = pty.openpty()
        settings = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "PYTHONUNBUFFERED")}
        path = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
        terminal = {"TERM": "xterm-256color", "COLUMNS": "100"}
        environment = {**plain, **path, **terminal, **environment}
        process = start(*arguments, script=script, **settings | {stream: side}, env=environment)
        os.close(side)
        shown = []
        try:
            while data := os.read(main, 1 << 16):
                shown.append(data)
        except OSError:  # how Linux says that the other side is closed
            pass
        os.close(main)
        return process.wait(timeout=60), b"".join(shown).decode(encoding)

    return call


def test_progress_tells_rate_remaining_time_and_failures_while_it_lasts(on_terminal, photos, weights_path):
    broken = photos / f"broken {'long name ' * 15}.png"
    broken.write_bytes(b"no picture")
    hash_ = ("hash", photos, "-o", "codes.bin", "--weights", weights_path)
    status, shown = on_terminal(*hash_)
    assert status == 0
    text = ESCAPE.sub("", shown)
    assert re.search(r"listing .* 0/\?", text)
    assert re.search(r"hashing .* 9/9 \d:\d\d:\d\d [\d,.]+/s  1 failed", text)
    assert not re.search(r"hashing \S+ +0/\S+ +\d", text)  # no rate of the listing
    assert COLOUR.search(shown)
    *_, summary = (line.strip() for line in re.split(r"[\r\n]+", text) if line.startswith("drhn: "))
    assert f"drhn: {broken}: not a picture (" in text  # not wrapped
    assert re.fullmatch(r"drhn: codes\.bin: 8 pictures \(8 added, 1 failed\) in [\d.]+ s", summary)


def test_names_on_a_terminal_are_what_they_are(on_terminal, photos, update):
    for number, name in enumerate((":cat:.png", "[bold]x.png")):
        (photos / "circle" / f"000{number}.png").rename(photos / "circle" / name)
    update()
    pictures = ("photos/circle/:cat:.png", "photos/circle/[bold]x.png")
    status, shown = on_terminal("query", *pictures, "codes.bin", "--top", "1", stream="stdout")
    shown = ESCAPE.sub("", shown)
    assert (status, shown.count(":cat:.png"), shown.count("[bold]x.png")) == (0, 2, 2)


SLOW_ENCODER = """
import sys, time
from drhn_cli.cli.app import run
from drhn_cli.network.encoder import Encoder

def encode_slowly(self, pixels, encode=Encoder.activations):
    time.sleep(0.4)
    return encode(self, pixels)

Encoder.activations = encode_slowly
sys.exit(run(sys.argv[1:]))
"""


def test_progress_moves_within_a_batch_and_tells_the_remaining_time_before_the_end(on_terminal, tmp_path, weights_path):
    write_class_folders(tmp_path / "many", n=50, size=16)
    (tmp_path / "slow.py").write_text(SLOW_ENCODER)
    hash_ = ("hash", tmp_path / "many", "-o", tmp_path / "codes.bin", "--weights", weights_path, "--workers", "1")
    status, shown = on_terminal(*hash_, script=tmp_path / "slow.py")
    assert status == 0
    seen = re.findall(r"hashing \S+ +(\d+)/200 (-:--:--|\d:\d\d:\d\d)", ESCAPE.sub("", shown))
    assert {int(done) for done, _ in seen} >= {64, 96, 128}
    assert {remaining for done, remaining in seen if 64 <= int(done) < 200} & {f"0:00:0{n}" for n in range(1, 10)}


@pytest.mark.parametrize("settings", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colour_where_none_is_wanted(on_terminal, update, weights_path, settings):
    update()
    Path("photos/circle/0000.png").touch()
    hash_ = ("hash", "photos", "-o", "codes.bin", "--weights", weights_path)
    for arguments, stream in ((hash_, "stderr"), (("query", "--code", "00" * 8, "codes.bin"), "stdout")):
        status, shown = on_terminal(*arguments, stream=stream, **settings)
        assert (status, COLOUR.search(shown)) == (0, None)
        assert shown


def test_a_table_fits_the_width_of_the_terminal(on_terminal, photos, weights_path, start):
    (photos / "circle" / "0000.png").rename(photos / "circle" / f"{'long name ' * 20}.png")
    process = start("hash", photos, "-o", "codes.bin", "--weights", weights_path)
    process.communicate(timeout=60)
    for columns in ("40", "100"):
        arguments = ("query", "--code", "00" * 8, "codes.bin")
        status, shown = on_terminal(*arguments, stream="stdout", COLUMNS=columns)
        lines = ESCAPE.sub("", shown).splitlines()
        assert status == 0
        assert len(lines) > 8
        assert max(map(len, lines)) <= int(columns)


# Several commands in one process, as it takes longer to start than they do.
COMMANDS = """
import os, shlex, sys
from drhn_cli.cli.app import run

for line in sys.argv[1:]:
    assert run(shlex.split(line)) == 0, line
    sys.stdout.flush()
    os.write(1, b"\\f")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux's")
@pytest.mark.parametrize(("encoding", "name"), [("latin-1", "\\u0416é"), ("ascii", "\\u0416\\xe9"), ("utf-8", "Жé")])
def test_a_name_that_the_terminal_has_no_characters_for_is_escaped(on_terminal, update, encoding, name):
    Path("photos/circle/0000.png").rename("photos/Жé.png")
    update()
    Path("commands.py").write_text(COMMANDS)
    commands = [f"query photos/Жé.png {more} codes.bin --top 8" for more in ("", "--code 0000000000000000", "--paths")]
    settings = {"stream": "stdout", "script": "commands.py", "PYTHONIOENCODING": encoding, "encoding": encoding}
    status, shown = on_terminal(*commands, **settings)
    plain, with_code, paths, rest = shown.split("\f")
    assert (status, rest) == (0, "")
    for each in (plain, with_code, paths):
        assert f"photos/{name}.png" in each, each
    assert "\x1b[1mphotos/" in with_code  # the query above its table


def test_weights_are_listed_where_the_terminal_has_few_characters(on_terminal):
    status, shown = on_terminal("weights", stream="stdout", PYTHONIOENCODING="ascii", COLUMNS="30")
    assert status == 0
    assert "256" in shown
