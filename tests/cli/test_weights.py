import json

from drhn_cli.network.model import DEFAULT


def test_bundled_models_are_listed_with_their_measured_map(drhn):
    result = drhn("weights")
    header, *rows = [line.split("\t") for line in result.lines]
    assert (result.status, result.err) == (0, "")
    assert header == ["model", "bits", "classes", "mAP", ""]
    (default,) = [row for row in rows if row[-1] == "default"]
    assert default[0] == DEFAULT
    figures = {row[0]: row[3] for row in rows}
    assert figures.pop("photos2") == "-"  # fitted without classes to measure on
    assert all(0.1 < float(figure) < 1 for figure in figures.values())


def test_json_is_an_object_a_model(drhn):
    models = [json.loads(line) for line in drhn("weights", "--json").lines]
    assert [model["name"] for model in models if model["default"]] == [DEFAULT]
    assert {model["kind"] for model in models} == {"weights"}
    assert [model["name"] for model in models if not model["measured"]] == ["photos2"]


def test_a_model_without_figures_has_a_dash(drhn, weights_path, monkeypatch):
    monkeypatch.setattr("drhn_cli.network.model.bundled_folder", lambda: weights_path.parent)
    assert drhn("weights").lines[1:] == ["tiny\t12 16 48 64\t4\t-\t"]


def test_no_bundled_models_are_an_empty_table(drhn, tmp_path, monkeypatch):
    monkeypatch.setattr("drhn_cli.network.model.bundled_folder", lambda: tmp_path)
    assert len(drhn("weights").lines) == 1
    result = drhn("hash", tmp_path, "-o", tmp_path / "codes.bin")
    assert (result.status, "no such weights" in result.err) == (2, True)
