import json
from pathlib import Path

import pytest

from drhn_cli.training import train as train_job
from tests.drawing import write_class_folders

SETTINGS = (
    *("--recipe", "tiny", "--set", "network.input_size=16", "--bits", "16", "--set", "network.nested=[12]"),
    *("--epochs", "2", "--batch-size", "8", "--device", "cpu", "--set", "stage.dtype=float32", "--workers", "1"),
)


@pytest.fixture
def labelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_class_folders("labelled/train", n=6, size=16)
    write_class_folders("labelled/test", n=2, size=16, seed=1)
    return Path("labelled")


@pytest.fixture
def train(drhn):
    def call(*arguments):
        return drhn("train", *arguments, *SETTINGS, "-o", "w.npz")

    return call


@pytest.mark.usefixtures("labelled")
def test_a_run_tells_its_epochs_on_stderr_and_its_figures_on_stdout(train):
    result = train("labelled", "--json")
    start, *epochs = result.err.splitlines()
    assert result.status == 0
    assert start == "drhn: 24 pictures to train on, 0 to validate on, 8 to test with; 4 classes"
    assert [line.split(":")[1] for line in epochs] == [" epoch 1", " epoch 2"]
    rows = [json.loads(line) for line in result.lines]
    assert [(row["bits"], row["n_queries"], row["weights"]) for row in rows] == [(12, 8, "w.npz"), (16, 8, "w.npz")]
    assert [row["tta"] for row in rows] == [False, False]
    assert [
        json.loads(line)["tta"] for line in train("labelled", "--json", "--set", "preprocessing.views=2").lines
    ] == [True, True]


@pytest.mark.usefixtures("labelled")
def test_the_weights_hash_and_answer(train, drhn):
    assert train("labelled", "-q").err == ""
    assert drhn("info", "w.npz").status == 0
    assert drhn("hash", "labelled", "-o", "codes.bin", "--weights", "w.npz", "--bits", "12", "-q").status == 0
    image = "labelled/test/circle/0000.png"
    assert image in drhn("query", image, "codes.bin", "--max-distance", "0", "--paths").lines


def test_validation_is_told_with_each_epoch(train, labelled):
    (labelled / "train/circle/text.jpg").write_text("no picture")
    result = train("labelled/train", "--validation", "0.34")
    assert result.status == 0
    assert "text.jpg: " in result.err
    assert "16 pictures to train on, 8 to validate on" in result.err
    assert result.err.count(", validation accuracy 0.") + result.err.count(", validation accuracy 1.") == 2
    assert result.lines[0].split("\t")[0] == "bits"


@pytest.mark.usefixtures("labelled")
def test_nothing_to_measure_on_is_no_table(train):
    assert train("labelled/train").out == b""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--set", "network.widths=8,x"],
            "widths is out of range (expected 6 channel counts of 1 or more, found '8,x')",
        ),
        (["--set", "network.widths=[8, 8]"], "widths is out of range"),
        (["--set", "stage.lrr=0.1"], "unknown setting 'lrr' in Stage; did you mean 'lr'?"),
        (["--set", "stage.lr"], "not a setting and its value (expected such as stage.lr=0.1, found stage.lr)"),
        (["--set", "stage.2.lr=1"], "unknown setting (expected seed, "),
        (["--epochs", "0"], "epochs is out of range"),
        (["--device", "abacus"], "device"),
        (["--threshold", "2"], "threshold is out of range"),
        (["-o", "w.txt"], "weights are an .npz file"),
        (["-o", "nowhere/w.npz"], "the folder cannot be written to"),
    ],
)
@pytest.mark.usefixtures("labelled")
def test_a_wrong_setting_is_one_clear_line(drhn, arguments, message):
    result = drhn("train", "labelled", "-o", "w.npz", *SETTINGS, *arguments)
    assert (result.status, result.out, len(result.err.splitlines())) == (2, b"", 1)
    assert message in result.err


def test_similarity_of_shorter_codes_is_refused_where_there_are_none(drhn):
    # Before it is seen that no data is there.
    result = drhn("train", "labelled", "-o", "w.npz", "--set", "stage.prefix_similarity=1")
    assert (result.status, result.out) == (2, b"")
    assert "prefix_similarity trains shorter codes, and there are none; name them: --set network.nested=" in result.err


@pytest.mark.usefixtures("labelled")
def test_an_interrupted_run_goes_on_with_resume(train, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_job, "_epoch_line", interrupt)
        result = train("labelled")
    assert (result.status, result.out) == (130, b"")
    assert "drhn: stopped; --resume goes on" in result.err.splitlines()[-1]
    assert Path("w.npz.checkpoint").exists()
    refused = train("labelled")
    assert (refused.status, "--resume" in refused.err) == (2, True)
    resumed = train("labelled", "--resume")
    assert (resumed.status, "drhn: going on after epoch 1" in resumed.err) == (0, True)
    assert not Path("w.npz.checkpoint").exists()


@pytest.mark.usefixtures("labelled")
def test_an_interrupted_fit_promises_nothing(drhn, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_job, "fit_model", interrupt)
    result = drhn("train", "labelled", "--from", "photos2", "-o", "w.npz")
    assert (result.status, result.out) == (130, b"")
    assert result.err.splitlines()[-1] == "drhn: stopped; nothing was written"
    assert not Path("w.npz").exists()
