import subprocess
import sys

import pytest

import drhn_cli


@pytest.mark.parametrize("name", sorted(set(drhn_cli.__all__) - {"__version__"}))
def test_every_name_is_there_and_documented(name):
    assert getattr(drhn_cli, name).__module__.startswith("drhn_cli.")
    assert f"``{name}``" in drhn_cli.__doc__
    assert name in dir(drhn_cli)


def test_another_name_is_an_error():
    with pytest.raises(AttributeError, match="'drhn_cli' has no attribute 'nosuch'"):
        drhn_cli.nosuch  # noqa: B018


def test_importing_drhn_cli_imports_nothing_heavy():
    script = "import sys, drhn_cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout.split()
    assert {name for name in loaded if name.startswith("drhn_cli")} == {"drhn_cli"}
    assert {"numpy", "torch", "PIL", "typer"} & set(loaded) == set()
