from pathlib import Path

import pytest

from drhn_cli.cli.braces import MAX_NAMES, expand_braces
from drhn_cli.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("photos", ["photos"]),
        ("p-{000..003}.tar", ["p-000.tar", "p-001.tar", "p-002.tar", "p-003.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{8..011}", ["008", "009", "010", "011"]),
        ("{2..0}x", ["2x", "1x", "0x"]),
        ("{1..2}/{08..09}.tar", ["1/08.tar", "1/09.tar", "2/08.tar", "2/09.tar"]),
        ("{7..7}", ["7"]),
        *((name, [name]) for name in ("{a..c}", "{1,2}", "{1..}", "{-1..2}", "{1..3..2}", "", "{²..3}")),
    ],
)
def test_ranges_are_expanded_as_bash_does(name, expected):
    assert list(expand_braces(name)) == expected


def test_a_file_of_that_name_goes_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("{1..2}.png").touch()
    assert list(expand_braces("{1..2}.png")) == ["{1..2}.png"]


@pytest.mark.parametrize("name", [f"{{0..{MAX_NAMES}}}", "{0..999999999999}", "{0..9999}{0..9999}"])
def test_too_many_names_are_refused(name):
    with pytest.raises(ConfigError, match="stands for too many names"):
        list(expand_braces(name))
