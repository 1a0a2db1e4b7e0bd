import ctypes
import json
import os
import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from drhn_cli.errors import CheckpointError, ConfigError, DrhnError, SourceError, WeightsError
from drhn_cli.evaluation.data import load_split, split_validation
from drhn_cli.evaluation.evaluate import Measures, evaluate_model
from drhn_cli.images.preprocess import Preprocessing
from drhn_cli.network.drhn import build_network
from drhn_cli.network.model import load_model, save_model
from drhn_cli.progress import SILENT
from drhn_cli.training import train as train_job
from drhn_cli.training.recipe import load_recipe
from drhn_cli.training.train import (
    TrainOptions,
    channel_statistics,
    keep_freed_memory,
    train_model,
)
from tests.drawing import KINDS, write_class_folders
from tests.hearing import Hearing
from tests.networks import random_model, tiny_config

NETWORK = {"input_size": 16, "bits": 16, "nested": [8]}
TRAINING = {"epochs": 3, "batch_size": 8, "translate": 1, "cutout": 0, "dtype": "float32"}
TABLES = {"network": NETWORK, "stage": TRAINING, "preprocessing": {}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A split of four classes."""
    root = tmp_path_factory.mktemp("data")
    write_class_folders(root / "train", n=8, size=20)
    write_class_folders(root / "test", n=4, size=20, seed=1)
    return root


def options_of(data, folder, *, recipe="tiny", start=None, validation=0, **others):
    tables = {name: others.pop(name, usual) for name, usual in TABLES.items()}
    changes = [(f"{table}.{name}", value) for table, values in tables.items() for name, value in values.items()]
    changes += [("validation", validation), *([("from", start)] if start else [])]
    options = TrainOptions(
        data=str(data),
        weights_path=folder / "w.npz",
        recipe=load_recipe(recipe, changes),
        device="cpu",
        workers=1,
        command=("drhn", "train"),
    )
    return replace(options, **others)


def stage_of(model):
    return model.training[-1]["recipe"]["stage"][-1]


def train(data, folder, progress=SILENT, **changes):
    return train_model(options_of(data, folder, **changes), progress)


def test_a_run_leaves_weights_and_a_history_and_no_checkpoint(data, tmp_path):
    told = Hearing()
    weights, evaluations = train(data, tmp_path, told)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".w.npz.lock", "w.history.jsonl", "w.npz"]
    found = load_model(tmp_path / "w.npz")
    assert found.manifest() == weights.manifest()
    assert found.class_names == tuple(sorted(KINDS))
    assert (found.name, found.config.bits, found.config.n_classes, found.config.blocks) == ("w", 16, 4, 1)
    assert found.preprocessing.size == 16
    (run,) = found.training
    assert run.items() >= {"data": str(data), "n_images": 32, "command": ["drhn", "train"]}.items()
    assert "cpu" in run["hardware"]
    assert run["recipe"].items() >= {"name": "tiny", "seed": 0, "validation": 0}.items()
    assert stage_of(found).items() >= {"seed": 0, "epochs": 3, "batch_size": 8, "lr": 0.2, "dtype": "float32"}.items()
    assert told.notes[0] == "32 pictures to train on, 0 to validate on, 16 to test with; 4 classes"
    assert told.failures == []
    history = [json.loads(line) for line in (tmp_path / "w.history.jsonl").read_text().splitlines()]
    names = ["stage", "epoch", "loss", "training_accuracy", "validation_accuracy", "mAP", "seconds"]
    assert all(list(report) == names for report in history)
    assert told.notes[1:] == [
        "epoch {epoch}: loss {loss:.4f}, training accuracy {training_accuracy:.4f}, {seconds:.0f} s".format(**report)
        for report in history
    ]
    assert [report["epoch"] for report in history] == [1, 2, 3]
    assert [one.n_bits for one in evaluations] == [8, 16]


def test_colours_are_those_of_the_training_pictures(data, tmp_path):
    weights, _ = train(data, tmp_path)
    pixels = load_split(str(data), weights.preprocessing)[0].pixels
    assert weights.preprocessing.mean == pytest.approx((pixels / 255).mean(axis=(0, 1, 2)), abs=6e-5)


def test_the_written_weights_are_what_is_measured_on_the_test_pictures(data, tmp_path):
    weights, evaluations = train(data, tmp_path, validation=0.25)
    gallery, queries = load_split(str(data), weights.preprocessing)
    kept, _ = split_validation(gallery.labels, 0.25, 0)
    gallery = replace(gallery, pixels=gallery.pixels[kept], labels=gallery.labels[kept])
    lengths = (8, 16)
    measures = Measures(code_lengths=lengths)
    again = evaluate_model(load_model(tmp_path / "w.npz"), queries, gallery, measures, device="cpu")
    assert again == evaluations
    assert again[0].retrieval.n_queries == 16
    assert weights.arrays["groups.0.0.conv.weight"].dtype == np.float16
    measured = weights.measured
    assert (measured["on"], measured["views"]) == ("test", 1)
    for n_bits, one in zip(lengths, again, strict=True):
        assert measured["lengths"][str(n_bits)]["accuracy"] == one.accuracy
        assert measured["lengths"][str(n_bits)]["mAP"] == one.retrieval.mean_average_precision


def test_without_test_pictures_the_validation_part_is_measured(data, tmp_path):
    told = Hearing()
    weights, evaluations = train(data / "train", tmp_path, told, validation=0.25)
    assert told.notes[0] == "24 pictures to train on, 8 to validate on, 0 to test with; 4 classes"
    assert told.failures == []
    assert weights.measured["on"] == "validation"
    assert evaluations[0].retrieval.n_queries == 8
    last = json.loads((tmp_path / "w.history.jsonl").read_text().splitlines()[-1])
    assert 0 <= last["validation_accuracy"] <= 1


def test_with_neither_nothing_is_measured(data, tmp_path):
    weights, evaluations = train(data / "train", tmp_path)
    assert (weights.measured, evaluations) == ({}, [])


def test_pictures_that_cannot_be_read_are_told_and_left_out(tmp_path):
    data = write_class_folders(tmp_path / "data", n=3, size=16)
    (data / "circle" / "0001.png").write_bytes(b"no picture")
    told = Hearing()
    train(data, tmp_path, told)
    assert told.notes[0] == "11 pictures to train on, 0 to validate on, 0 to test with; 4 classes"
    assert [Path(str(failure.path, "utf-8")).name for failure in told.failures] == ["0001.png"]


def stop_after(epoch):
    def stop(note):
        if note.startswith(f"epoch {epoch}:"):
            raise KeyboardInterrupt

    return Hearing(note=stop)


def test_a_stopped_run_goes_on_only_if_asked(data, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path, stop_after(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.history.jsonl", "w.npz.checkpoint"]
    assert len((tmp_path / "w.history.jsonl").read_text().splitlines()) == 2
    with pytest.raises(CheckpointError, match=r"w.npz.checkpoint: a run with this name is unfinished; .*--resume"):
        train(data, tmp_path)
    told = Hearing()
    resumed, _ = train(data, tmp_path, told, resume=True)
    assert told.notes[1] == "going on after epoch 2"
    (tmp_path / "whole").mkdir()
    whole, _ = train(data, tmp_path / "whole", resume=True)
    assert resumed.fingerprint == whole.fingerprint
    epochs = [json.loads(line)["epoch"] for line in (tmp_path / "w.history.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3]
    assert not (tmp_path / "w.npz.checkpoint").exists()


def test_a_stopped_run_does_not_go_on_with_other_settings_or_pictures_or_damage(data, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path, stop_after(1))
    with pytest.raises(CheckpointError, match=r"other settings .expected stage.seed 1, found stage.seed 0.;"):
        train(data, tmp_path, resume=True, stage={**TRAINING, "seed": 1})
    with pytest.raises(CheckpointError, match="another network"):
        train(data, tmp_path, resume=True, network={**NETWORK, "bits": 12})
    with pytest.raises(CheckpointError, match=r"another network|other pictures; repeat"):
        train(data / "test", tmp_path, resume=True)
    checkpoint = tmp_path / "w.npz.checkpoint"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged or foreign; remove"):
        train(data, tmp_path, resume=True)


def test_two_runs_do_not_write_the_same_weights(data, tmp_path):
    def begin_another(*_):
        with pytest.raises(WeightsError, match="another drhn is writing this weights file; wait for it to end, or nam"):
            train(data, tmp_path)

    train(data, tmp_path, Hearing(note=begin_another))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFO")
@pytest.mark.parametrize("make", ["mkdir", "mkfifo"])
def test_what_is_no_file_is_no_checkpoint(data, tmp_path, make):
    getattr(os, make)(tmp_path / "w.npz.checkpoint")
    with pytest.raises(CheckpointError, match="no file is in the place of the checkpoint; remove it"):
        train(data, tmp_path, resume=True)


def test_a_run_stopped_after_the_last_checkpoint_still_gets_its_whole_history(data, tmp_path, monkeypatch):
    write_history = train_job._write_history

    def stop_at_the_last(path, history):
        if len(history) == TRAINING["epochs"]:
            raise KeyboardInterrupt
        write_history(path, history)

    with monkeypatch.context() as patch:
        patch.setattr(train_job, "_write_history", stop_at_the_last)
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path)
    history = tmp_path / "w.history.jsonl"
    assert len(history.read_text().splitlines()) == 2
    train(data, tmp_path, resume=True)
    assert [json.loads(line)["epoch"] for line in history.read_text().splitlines()] == [1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"recipe": "huge"}, ConfigError, r"huge: no such recipe .expected a TOML file, or a bundled .*, paper, "),
        (
            {"stage": {"distill_from": "t.npz"}},
            ConfigError,
            r"distill_from needs a weight; give it: --set stage",
        ),
        ({"stage": {"distill_weight": 1.0}}, ConfigError, r"distill_weight needs features; name them: --set stage."),
        ({"stage": {"distill_from": "t.npz", "distill_weight": 1.0}}, SourceError, r"t.npz: no such file"),
        ({"start": "photos"}, ConfigError, r"widths is that of the weights to start from .*; leave it out, or leave o"),
        ({"recipe": None, "start": "none.npz"}, WeightsError, r"none.npz: no such weights"),
        ({"weights_path": Path("w.pt")}, WeightsError, r"weights are an .npz file; write to w.npz"),
        ({"weights_path": Path("")}, WeightsError, r"weights are an .npz file; name a file"),
        ({"weights_path": Path("none/w.npz")}, WeightsError, r"none: the folder cannot be written to; make it"),
        ({"weights_path": Path("folder.npz")}, WeightsError, r"a folder is in the place of the weights"),
        ({"network": {"bits": 0}}, ConfigError, r"bits is out of range"),
        ({"stage": {"epochs": 0}}, ConfigError, r"epochs is out of range"),
        ({"device": "abacus"}, ConfigError, r"unknown device"),
        ({"validation": 1.5}, ConfigError, r"validation is out of range"),
        ({"preprocessing": {"fit": "stretch"}}, ConfigError, r"fit is out of range"),
        ({"stage": {"cutout": 16}}, ConfigError, r"cutout is out of range .expected below 16 pixels"),
        ({"stage": {"distill_from": "other.npz", "distill_weight": 1.0}}, SourceError, r"r.npz: holds no features"),
        ({"weights_path": Path("other.npz")}, DrhnError, r"other.npz: another file is in the place of the weights"),
        (
            {"weights_path": Path("mine.npz")},
            DrhnError,
            r"mine.history.jsonl: another file is in the place of the hist",
        ),
        ({"weights_path": Path("past.npz")}, WeightsError, r"past.history.jsonl: a folder is in the place of the h"),
    ],
)
def test_settings_are_checked_before_any_picture_is_read(tmp_path, monkeypatch, changes, kind, message):
    monkeypatch.chdir(tmp_path)
    Path("folder.npz").mkdir()
    Path("past.history.jsonl").mkdir()
    Path("mine.history.jsonl").write_text("what happened to me\n")
    np.savez("other.npz", embeddings=np.zeros(3))
    with pytest.raises(kind, match=message):
        train(tmp_path / "no such data", tmp_path, **changes)


def test_data_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="no such folder"):
        train(tmp_path / "none", tmp_path)


def test_a_validation_part_of_nothing_is_refused(tmp_path):
    data = write_class_folders(tmp_path / "data", n=1, size=16)
    with pytest.raises(SourceError, match="nothing can be kept for validation"):
        train(data, tmp_path, validation=0.5)


def test_a_history_that_cannot_be_written_keeps_the_checkpoint(data, tmp_path):
    history = tmp_path / "w.history.jsonl"
    with pytest.raises(WeightsError, match=r"w.history.jsonl: cannot write the history"):
        train(data, tmp_path, Hearing(begin={"training": history.mkdir}))
    assert (tmp_path / "w.npz.checkpoint").exists()


def test_precision_is_that_of_the_device_unless_told(data, tmp_path, monkeypatch):
    monkeypatch.setattr(train_job, "choose_dtype", lambda _: "bfloat16")
    usual = {name: value for name, value in TRAINING.items() if name != "dtype"}
    assert stage_of(train(data, tmp_path, stage=usual)[0])["dtype"] == "bfloat16"
    told = {**TRAINING, "dtype": "float32"}
    assert stage_of(train(data, tmp_path, stage=told)[0])["dtype"] == "float32"


def test_pictures_that_are_not_square_are_fitted_as_told(tmp_path):
    for kind, colour in (("a", "red"), ("b", "blue")):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (40, 16 + i), colour).save(tmp_path / "data" / kind / f"{i}.png")
    cropped, padded = (train(tmp_path / "data", tmp_path, preprocessing={"fit": fit})[0] for fit in ("crop", "pad"))
    assert (cropped.preprocessing.fit, padded.preprocessing.fit) == ("crop", "pad")
    assert cropped.preprocessing.mean != padded.preprocessing.mean


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [("processor: 0\nmodel name\t: Fast One\n", "Fast One"), ("nothing\n", "machine"), (None, "processor")],
)
def test_the_processor_is_named_where_the_system_tells(monkeypatch, cpuinfo, name):
    def read_text(*_, **__):
        if cpuinfo is None:
            raise FileNotFoundError
        return cpuinfo

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr("platform.processor", lambda: "processor")
    monkeypatch.setattr("platform.machine", lambda: "machine")
    assert train_job._processor() == name


def test_two_views_are_measured_and_kept_for_hashing_but_not_trained_on(data, tmp_path):
    (tmp_path / "one").mkdir()
    one, with_one = train(data, tmp_path / "one", validation=0.25)
    two, with_two = train(data, tmp_path, validation=0.25, preprocessing={"views": 2})
    assert two.arrays_sha256 == one.arrays_sha256
    assert (one.preprocessing.views, two.preprocessing.views) == (1, 2)
    gallery, queries = load_split(str(data), two.preprocessing)
    kept, _ = split_validation(gallery.labels, 0.25, 0)
    gallery = replace(gallery, pixels=gallery.pixels[kept], labels=gallery.labels[kept])
    assert evaluate_model(two, queries, gallery, Measures(code_lengths=(8, 16)), device="cpu") == with_two != with_one
    assert (one.measured["views"], two.measured["views"]) == (1, 2)


def test_a_picture_that_vanishes_while_training_brings_none_from_training_into_validation(tmp_path):
    data = write_class_folders(tmp_path / "data", n=8, size=20)
    images, _ = load_split(str(data), Preprocessing(size=16, views=2))
    kept, held_out = split_validation(images.labels, 0.25, 0)
    vanishing = images.names[kept[3]].decode()
    told = Hearing(begin={"training": lambda: (data / vanishing).unlink(missing_ok=True)})
    model, evaluations = train(data, tmp_path, told, validation=0.25, preprocessing={"views": 2})
    assert [Path(os.fsdecode(error.path)) for error in told.failures] == [data / vanishing]
    queries, gallery = images.take(held_out), images.take(np.delete(kept, 3))
    assert evaluate_model(model, queries, gallery, Measures(code_lengths=(8, 16)), device="cpu") == evaluations


@pytest.fixture(scope="module")
def started(data, tmp_path_factory):
    """Weights to start from."""
    folder = tmp_path_factory.mktemp("started")
    settings = {"stage": {**TRAINING, "color_jitter": 0.1, "seed": 7}, "preprocessing": {"fit": "pad", "views": 2}}
    return folder / "w.npz", train(data, folder, **settings)[0]


def go_on(data, folder, path, **changes):
    standing_still = {"epochs": 1, "batch_size": 8, "muon_lr": 1e-9, "lr": 1e-9, "dtype": "float32"}
    return train(
        data, folder, **{"recipe": None, "network": {}, "stage": standing_still, "start": str(path), **changes}
    )


def test_training_starts_from_the_network_and_settings_of_other_weights(data, tmp_path, started):
    path, start = started
    weights, _ = go_on(data, tmp_path, path)
    assert weights.config == start.config
    assert weights.preprocessing == start.preprocessing
    learnt = [name for name in start.arrays if not name.endswith(("running_mean", "running_var"))]
    for name in learnt:
        # Optimisers bring filters back to their norm.
        np.testing.assert_allclose(weights.arrays[name], start.arrays[name], rtol=2e-2, atol=1e-3, err_msg=name)
    assert stage_of(weights).items() >= {"translate": 1, "cutout": 0, "color_jitter": 0.1, "seed": 0}.items()
    usual = stage_of(go_on(data, tmp_path, path, stage={"epochs": 1})[0])
    assert (usual["muon_lr"], usual["lr"]) == (0.03, 0.05)
    first, last = weights.training
    assert first == start.training[0]
    assert last["recipe"]["from"] == {"name": "w", "fingerprint": start.fingerprint}


def test_other_classes_and_shorter_codes_take_what_fits(data, tmp_path, started):
    path, start = started
    others = write_class_folders(tmp_path / "others", n=8, size=20)
    (others / "circle").rename(others / "disc")
    weights, _ = go_on(others, tmp_path, path, network={"bits": 12})
    assert weights.config == replace(start.config, bits=12)
    np.testing.assert_allclose(weights.arrays["hash.weight"], start.arrays["hash.weight"][:12], atol=1e-3)
    assert weights.arrays["classify.weight"].shape == (4, 12)
    own, _ = go_on(data, tmp_path, path, network={"bits": 8})
    activations, here = torch.rand(5, 16), torch.device("cpu")
    before = build_network(start, here).scores(activations, 8)
    after = build_network(own, here).scores(activations[:, :8])
    torch.testing.assert_close(after, before, rtol=2e-2, atol=2e-2)
    same_length, _ = go_on(others, tmp_path, path)
    assert not np.allclose(same_length.arrays["classify.weight"], start.arrays["classify.weight"], atol=1e-3)
    longer, _ = go_on(data, tmp_path, path, network={"bits": 24})
    assert longer.arrays["hash.weight"].shape == (24, 32)
    assert go_on(data, tmp_path, path, network={"bits": 8})[0].config.nested == ()


def test_the_similarity_of_shorter_codes_is_taken_over_only_where_there_are_some(data, tmp_path, started):
    path = tmp_path / "similar.npz"
    stage = {**stage_of(started[1]), "prefix_similarity": 2.0}
    save_model(path, replace(started[1], training=[{"recipe": {"stage": [stage]}}]))
    assert stage_of(go_on(data, tmp_path, path)[0])["prefix_similarity"] == 2.0
    shortest, _ = go_on(data, tmp_path, path, network={"bits": 8})
    assert stage_of(shortest)["prefix_similarity"] == 0
    with pytest.raises(ConfigError, match="prefix_similarity trains shorter codes, and there are none"):
        go_on(data, tmp_path, path, network={"bits": 8}, stage={"epochs": 1, "prefix_similarity": 1.0})


def test_a_network_of_another_shape_cannot_start_from_weights(data, tmp_path, started):
    message = r"stem_stride is that of the weights to start from \(expected 1, found 2\); leave it out, or leave out --"
    with pytest.raises(ConfigError, match=message):
        go_on(data, tmp_path, started[0], network={"stem_stride": 2})
    two = replace(started[1], config=replace(started[1].config, blocks=2))
    save_model(tmp_path / "two.npz", random_model(two.config))
    with pytest.raises(ConfigError, match=r"blocks is out of range \(expected 2 or more, rising to .* 1, found \[1\]"):
        go_on(data, tmp_path, tmp_path / "two.npz", network={"blocks": 1})


def test_a_run_goes_on_only_from_the_weights_that_it_started_from(data, tmp_path, started):
    with pytest.raises(KeyboardInterrupt):
        go_on(data, tmp_path, started[0], progress=stop_after(1))
    other = tmp_path / "other.npz"
    arrays = {**started[1].arrays, "classify.bias": started[1].arrays["classify.bias"] + 1}
    save_model(other, replace(started[1], arrays=arrays))
    with pytest.raises(CheckpointError, match="other weights to start from;"):
        go_on(data, tmp_path, other, resume=True)
    assert go_on(data, tmp_path, started[0], resume=True)[0].training[-1]["recipe"]["from"]["name"] == "w"


@pytest.fixture
def teacher(data, tmp_path):
    """What a teacher sees in the training pictures: one number a class, and noise."""
    paths = sorted(path.relative_to(data / "train") for path in (data / "train").rglob("*.png"))
    features = np.random.default_rng(0).normal(0, 0.1, (len(paths), 8))
    for row, path in enumerate(paths):
        features[row, sorted(KINDS).index(path.parent.name)] += 1
    np.savez(tmp_path / "teacher.npz", paths=[str(path) for path in paths], features=features.astype(np.float32))
    return tmp_path / "teacher.npz"


def test_a_teacher_changes_what_is_learnt_and_is_noted(data, tmp_path, teacher):
    taught = {"stage": {**TRAINING, "distill_from": str(teacher), "distill_weight": 0.5}}
    weights, _ = train(data, tmp_path, **taught)
    assert stage_of(weights).items() >= {"distill_from": str(teacher), "distill_weight": 0.5}.items()
    (tmp_path / "part").mkdir()
    part, _ = train(data, tmp_path / "part", validation=0.25, **taught)
    alone, _ = train(data, tmp_path, stage={**TRAINING, "distill_weight": 0.0})
    pooled, _ = train(data, tmp_path, stage={**taught["stage"], "distill_at": "pooled"})
    assert len({one.arrays_sha256 for one in (weights, part, alone, pooled)}) == 4
    assert stage_of(alone)["distill_from"] is None


def test_a_bundled_model_teaches_and_a_resumed_run_ends_as_another(data, tmp_path, monkeypatch):
    monkeypatch.setattr("drhn_cli.training.distillation.load_model", lambda *_, **__: random_model(tiny_config()))
    taught = {"stage": {**TRAINING, "distill_from": "photos2", "distill_weight": 0.5, "distill_at": "pooled"}}
    whole, _ = train(data, tmp_path, **taught)
    (tmp_path / "part").mkdir()
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "part", stop_after(1), **taught)
    resumed, _ = train(data, tmp_path / "part", resume=True, **taught)
    alone, _ = train(data, tmp_path, stage=TRAINING)
    assert resumed.arrays_sha256 == whole.arrays_sha256 != alone.arrays_sha256


def test_a_run_goes_on_only_with_its_teacher(data, tmp_path, teacher):
    settings = {**TRAINING, "distill_from": str(teacher), "distill_weight": 0.5}
    taught = {"stage": settings}
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path, stop_after(1), **taught)
    with np.load(teacher) as arrays:
        other = {"paths": arrays["paths"], "features": arrays["features"][::-1]}
    seen = teacher.read_bytes()
    np.savez(teacher, **other)
    with pytest.raises(CheckpointError, match="another teacher"):
        train(data, tmp_path, resume=True, **taught)
    teacher.write_bytes(seen)
    resumed, _ = train(data, tmp_path, resume=True, **taught)
    (tmp_path / "whole").mkdir()
    assert train(data, tmp_path / "whole", **taught)[0].arrays_sha256 == resumed.arrays_sha256


def test_few_pictures_are_taken_fewer_at_a_time_unless_told(data, tmp_path):
    usual = {name: value for name, value in TRAINING.items() if name != "batch_size"}
    assert stage_of(train(data, tmp_path, stage=usual)[0])["batch_size"] == 3  # ten steps of 32 pictures
    assert stage_of(train(data, tmp_path, stage={**usual, "batch_size": 16})[0])["batch_size"] == 16
    recipe = load_recipe("fast")
    filled = [recipe.for_pictures(n, 2, recipe.preprocessing, "float32") for n in (2, 600, 4999, 5000, 50_000)]
    assert [one.stages[0].batch_size for one in filled] == [2, 60, 499, 500, 500]


def test_denormal_numbers_are_zero_while_training_and_not_after(data, tmp_path):
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot")
    torch.set_flush_denormal(False)

    def is_kept() -> bool:
        return bool(torch.full((10,), 1e-39).mul(2).all())

    kept = []
    train(data, tmp_path, Hearing(advance={"training": lambda _: kept.append(is_kept())}))
    assert (set(kept), is_kept()) == ({False}, True)


def test_colours_are_measured_a_channel_at_a_time():
    pixels = np.random.default_rng(0).integers(0, [50, 150, 256], (1007, 5, 5, 3)).astype(np.uint8)
    pixels[1000:] //= 2
    measured = channel_statistics(pixels, Preprocessing(size=16, fit="pad"))
    assert measured.mean == pytest.approx((pixels / 255).mean(axis=(0, 1, 2)), abs=6e-5)
    assert measured.std == pytest.approx((pixels / 255).std(axis=(0, 1, 2)), abs=6e-5)
    assert (measured.size, measured.fit) == (16, "pad")


@pytest.mark.parametrize("level", [0, 1, 77, 128, 255])
def test_a_channel_that_never_changes_is_not_blown_up(level):
    assert channel_statistics(np.full((3, 4, 4, 3), level, np.uint8), Preprocessing()).std == (0.01,) * 3


FAULTS = """
import resource, sys, threading
import numpy as np
from drhn_cli.training.train import keep_freed_memory

def fill():
    return float(np.ones(8 << 20)[-1])  # 64 MiB

if sys.argv[1] == "kept":
    assert keep_freed_memory()
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
assert sum(fill() for _ in range(5)) == 5
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, file=sys.stderr)
others = [threading.Thread(target=fill) for _ in range(2)]  # threads have heaps of their own, of 64 MiB
[other.start() for other in others]
[other.join() for other in others]
"""
ON_GLIBC = platform.libc_ver()[0] == "glibc"


def test_it_is_done_where_the_library_is_glibc():
    assert keep_freed_memory() is ON_GLIBC


@pytest.mark.skipif(not ON_GLIBC, reason="glibc only")
def test_memory_that_was_freed_is_taken_again_without_page_faults(forking, tmp_path):
    (tmp_path / "faults.py").write_text(FAULTS)
    numbers = []
    for how in ("kept", "returned"):
        with forking.start(tmp_path / "faults.py", how) as process:
            numbers.append(int(process.stderr.readline()))
        assert process.returncode == 0
    kept, returned = numbers
    assert kept < returned / 5


@pytest.mark.parametrize("library", [object(), OSError(), TypeError()], ids=["musl", "none", "windows"])
def test_elsewhere_nothing_happens(monkeypatch, library):
    def load(_):
        if isinstance(library, Exception):
            raise library
        return library

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert keep_freed_memory() is False
