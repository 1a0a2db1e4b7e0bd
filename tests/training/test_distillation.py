import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from drhn_cli.errors import SourceError
from drhn_cli.network.encoder import Encoder
from drhn_cli.training.distillation import is_model, load_features, model_features
from tests.hearing import Hearing
from tests.networks import random_model, tiny_config

NAMES = (b"a/1.png", b"a/\xff.png", b"b/2.png")


def write(path, *, paths=None, features=None):
    paths = np.array(NAMES) if paths is None else paths
    features = np.array([[1, 0, 3], [0, 1, 3], [2, 2, 3]], np.float16) if features is None else features
    np.savez(path, paths=paths, features=features)
    return path


def cosines(rows):
    rows = rows.astype(float)
    return rows @ rows.T


def test_features_are_less_their_mean_of_unit_length_and_in_the_order_asked_for(tmp_path):
    found = load_features(write(tmp_path / "t.npz"), NAMES[::-1])
    assert (found.dtype, found.shape) == (np.float16, (3, 3))
    expected = np.array([[1, 1, 0], [-1, 0, 0], [0, -1, 0]]) / np.sqrt([[2], [1], [1]])
    np.testing.assert_allclose(cosines(found), cosines(expected), atol=2e-3)  # turned to their principal axes


def test_only_the_pictures_asked_for_make_the_mean(tmp_path):
    found = load_features(write(tmp_path / "t.npz"), NAMES[:2])
    np.testing.assert_allclose(cosines(found), [[1, -1], [-1, 1]], atol=2e-3)


def test_of_many_features_those_are_kept_along_which_they_vary_most(tmp_path, monkeypatch):
    monkeypatch.setattr("drhn_cli.training.distillation._MAX_FEATURES", 1)
    features = np.array([[1, 0.1, 5], [-1, 0.1, 5], [2, -0.2, 5]])
    found = load_features(write(tmp_path / "t.npz", features=features), NAMES)
    assert found.shape == (3, 1)
    assert (found[0] == found[2]) & (found[0] == -found[1])
    assert abs(found[0, 0]) == 1


def test_paths_may_be_text_and_features_alike(tmp_path):
    text = np.array([os.fsdecode(name) for name in NAMES[::2]])
    path = write(tmp_path / "t.npz", paths=text, features=np.full((2, 4), 7, np.float64))
    assert not load_features(path, NAMES[::2]).any()  # nothing is left of them, and nothing is divided by nothing


def test_more_pictures_than_are_turned_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("drhn_cli.training.distillation._CHUNK_ROWS", 2)
    parts = load_features(write(tmp_path / "t.npz"), NAMES)
    monkeypatch.undo()
    np.testing.assert_allclose(cosines(parts), cosines(load_features(tmp_path / "t.npz", NAMES)), atol=2e-3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"paths": np.array([b"a/1.png"] * 3)}, r"t.npz: the teacher has not seen every .* .expected a row"),
        ({"paths": np.arange(3)}, r"holds no features .expected an .npz with paths"),
        ({"paths": np.array(NAMES[:2])}, r"holds no features"),
        ({"features": np.zeros((3, 2), np.int64)}, r"holds no features"),
        ({"features": np.zeros(3)}, r"holds no features .*found paths .3,. .S7, features .3,. float64"),
        ({"features": np.zeros((3, 0))}, r"holds no features"),
        ({"features": np.full((3, 2), np.nan)}, r"not all numbers"),
        ({"features": np.full((3, 2), 1e300)}, r"not all numbers, or too large"),
        ({"paths": np.array(NAMES, dtype=object)}, r"holds no features, or is damaged .*allow_pickle"),
    ],
)
def test_what_is_no_teacher_is_refused(tmp_path, arrays, message):
    with pytest.raises(SourceError, match=message):
        load_features(write(tmp_path / "t.npz", **arrays), NAMES)


def test_files_that_are_none_are_refused(tmp_path):
    path = tmp_path / "t.npz"
    with pytest.raises(SourceError, match="no such file"):
        load_features(path, NAMES)
    whole = write(path).read_bytes()
    for damaged in (b"", b"nothing", whole[:100], whole[:-40], whole[:400] + b"x" + whole[401:]):
        path.write_bytes(damaged)
        with pytest.raises(SourceError, match="holds no features, or is damaged"):
            load_features(path, NAMES)
    np.save(tmp_path / "array.npy", np.zeros((3, 2)))
    with pytest.raises(SourceError, match="holds no features"):
        load_features(tmp_path / "array.npy", NAMES)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match="pipe: not a file"):
        load_features(tmp_path / "pipe", NAMES)
    with pytest.raises(SourceError, match="cannot be read"):
        load_features(tmp_path, NAMES)


def test_pictures_that_are_no_files_have_no_teacher(tmp_path):
    with pytest.raises(SourceError, match="no names for a teacher's rows; train on a folder"):
        load_features(write(tmp_path / "t.npz"), ())


def test_a_model_teaches_what_its_trunk_sees(monkeypatch):
    model = random_model(tiny_config())
    monkeypatch.setattr("drhn_cli.training.distillation.load_model", lambda *_, **__: replace(model, name="m"))
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)
    told = Hearing()
    features = model_features("photos", pixels, device="cpu", progress=told)
    side = model.preprocessing.size
    enlarged = [Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC) for one in pixels]
    seen = Encoder(model, device="cpu", n_images=12).features(np.stack([np.asarray(one) for one in enlarged]))
    assert features.shape == (12, min(256, model.config.n_features))
    centered = seen - seen.mean(axis=0)
    cosines = [a @ a.T / np.outer(*[np.linalg.norm(a, axis=1)] * 2) for a in (centered, features.astype(float))]
    assert np.abs(cosines[0] - cosines[1]).max() < 0.05  # Pillow's bicubic and torch's differ by rounding
    assert is_model("photos2")
    assert not is_model("photos2.npz")
