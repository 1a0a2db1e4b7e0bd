from dataclasses import replace

import pytest

from drhn_cli import paths
from drhn_cli.codes.manifest import CodeManifest
from drhn_cli.errors import CodeFileError, WeightsError
from drhn_cli.network.model import DEFAULT, bundled_paths, load_model, model_of, save_model
from drhn_cli.paths import bundled_folder
from tests.networks import random_model


@pytest.fixture
def folder(tmp_path, monkeypatch):
    package = tmp_path / "package"
    (package / "bundled").mkdir(parents=True)
    monkeypatch.setattr(paths, "_PACKAGE", package)
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(["b", "a"]):
        save_model(package / "bundled" / f"{name}.npz", random_model(seed=seed, name=name))
    return package / "bundled"


def manifest_of(fingerprint, *, name, views=1):
    preprocessing = {"views": views} if views > 1 else {}
    return CodeManifest(root="/", n_bits=16, model=name, fingerprint=fingerprint, preprocessing=preprocessing)


def test_the_default_model_is_bundled_sound_and_measured():
    model = load_model()
    assert model.name == DEFAULT
    assert model.measured["on"] == "test"
    assert str(model.config.bits) in model.measured["lengths"]


def test_an_installed_package_has_its_weights_inside_and_a_checkout_beside(folder, tmp_path, monkeypatch):
    assert bundled_folder() == folder
    monkeypatch.setattr(paths, "_PACKAGE", tmp_path / "checkout" / "drhn_cli")
    assert bundled_folder() == tmp_path / "checkout" / "weights"
    assert bundled_paths() == []


def test_a_model_is_found_by_name_or_path(folder, tmp_path):
    assert bundled_paths() == [folder / "a.npz", folder / "b.npz"]
    assert load_model("a").name == "a"
    save_model(tmp_path / "mine.npz", random_model(name="mine"))
    assert load_model("mine.npz").name == load_model(tmp_path / "mine.npz").name == "mine"


@pytest.mark.usefixtures("folder")
def test_a_bundled_name_wins_over_a_file_unless_it_is_a_path(tmp_path):
    save_model(tmp_path / "a", random_model(name="mine"))
    assert load_model("a").name == "a"
    assert load_model(b"a").name == load_model(tmp_path / "a").name == "mine"


@pytest.mark.parametrize("name", ["none", "x" * 5000, "a\0b"])
def test_unknown_weights_are_refused_with_the_known_names(folder, name):
    with pytest.raises(WeightsError, match=r"no such weights .*a bundled model \(a, b\)\); see `drhn weights`"):
        load_model(name)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(WeightsError, match=r"a bundled model \(none\)"):
        load_model(name)


@pytest.mark.usefixtures("folder")
def test_a_model_is_loaded_with_as_many_views_as_asked_for():
    one, two = load_model("a", views=1), load_model("a", views=2)
    assert (one.preprocessing.views, two.preprocessing.views) == (1, 2)
    assert load_model("a").fingerprint == one.fingerprint != two.fingerprint == replace(two).fingerprint


def test_the_model_of_codes_is_found_by_fingerprint_where_it_is_likely_first(folder):
    one, two = (load_model("b", views=views).fingerprint for views in (1, 2))
    assert model_of(manifest_of(one, name="elsewhere"), path="codes.bin").name == "b"
    for fingerprint in ("1" * 64, two):
        with pytest.raises(CodeFileError, match=r"codes.bin: .*no bundled model of that fingerprint"):
            model_of(manifest_of(fingerprint, name="b"), path="codes.bin")
    (folder / "a.npz").write_bytes(b"")  # would be an error if it were opened
    assert model_of(manifest_of(two, name="b", views=2), path="codes.bin").preprocessing.views == 2
