import pytest

from drhn_cli.errors import WeightsError
from drhn_cli.network import bundled
from drhn_cli.network.bundled import DEFAULT, bundled_folder, bundled_paths, find_weights, find_weights_of
from drhn_cli.network.weights_file import load_weights, save_weights
from tests.networks import random_weights


@pytest.fixture
def folder(tmp_path, monkeypatch):
    package = tmp_path / "package"
    (package / "bundled").mkdir(parents=True)
    monkeypatch.setattr(bundled, "_PACKAGE", package)
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(["b", "a"]):
        save_weights(package / "bundled" / f"{name}.npz", random_weights(seed=seed, name=name))
    return package / "bundled"


def test_the_default_model_is_bundled_sound_and_measured():
    weights = load_weights(find_weights(None))
    assert weights.name == DEFAULT
    assert weights.measured["on"] == "test"
    assert str(weights.network.bits) in weights.measured["lengths"]


def test_an_installed_package_has_its_weights_inside_and_a_checkout_beside(folder, tmp_path, monkeypatch):
    assert bundled_folder() == folder
    monkeypatch.setattr(bundled, "_PACKAGE", tmp_path / "checkout" / "drhn_cli")
    assert bundled_folder() == tmp_path / "checkout" / "weights"
    assert bundled_paths() == []


def test_weights_are_found_by_name_or_path(folder, tmp_path):
    assert bundled_paths() == [folder / "a.npz", folder / "b.npz"]
    assert find_weights("a") == folder / "a.npz"
    (tmp_path / "mine.npz").touch()
    assert find_weights("mine.npz").samefile(tmp_path / "mine.npz")


def test_a_bundled_name_wins_over_a_file(folder, tmp_path):
    (tmp_path / "a").touch()
    assert find_weights("a") == folder / "a.npz"


@pytest.mark.parametrize("name", ["none", "x" * 5000, "a\0b"])
def test_unknown_weights_are_refused_with_the_known_names(folder, name):
    with pytest.raises(WeightsError, match=r"no such weights .*a bundled model \(a, b\)\); see `drhn weights`"):
        find_weights(name)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(WeightsError, match=r"a bundled model \(none\)"):
        find_weights(name)


def test_weights_are_found_by_fingerprint_where_they_are_likely_first(folder, monkeypatch):
    fingerprint = load_weights(folder / "b.npz").fingerprint
    assert find_weights_of(fingerprint, name="elsewhere", n_views=1).name == "b"
    assert find_weights_of("0" * 64, name="b", n_views=1) is None
    of_two_views = load_weights(folder / "b.npz").with_views(2).fingerprint
    assert find_weights_of(of_two_views, name="b", n_views=1) is None
    monkeypatch.setattr(bundled, "load_weights", lambda path: load_weights(path) if path.stem == "b" else None)
    assert find_weights_of(of_two_views, name="b", n_views=2).preprocessing.views == 2
