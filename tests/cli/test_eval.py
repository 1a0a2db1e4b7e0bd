import json
import re
from pathlib import Path

import pytest

from drhn_cli.cli.app import run
from tests.drawing import write_class_folders

CLASSES = [f"class {i}" for i in range(4)]
FRACTIONS = ("mAP", "mAP@1000", "precision@10", "precision@radius2", "accuracy")
KEYS = {"bits", *FRACTIONS, "n_queries", "n_gallery", "weights"}


@pytest.fixture
def labelled(tmp_path, monkeypatch):
    """Folders ``labelled/train`` and ``labelled/test`` of the untrained network's classes."""
    monkeypatch.chdir(tmp_path)
    write_class_folders("labelled/train", CLASSES, n=5, size=16)
    write_class_folders("labelled/test", CLASSES, n=2, size=16, seed=1)
    return tmp_path / "labelled"


@pytest.fixture
def eval_(drhn, weights_path):
    def call(*arguments):
        return drhn("eval", *arguments, "--weights", weights_path, "--device", "cpu")

    return call


TWO_FOLDERS = ("--queries", "labelled/test", "--gallery", "labelled/train")


@pytest.mark.usefixtures("labelled")
def test_json_is_an_object_a_length(eval_, weights_path):
    result = eval_(*TWO_FOLDERS, "--bits", "48", "--bits", "12", "--json")
    rows = [json.loads(line) for line in result.lines]
    assert (result.status, result.err) == (0, "")
    assert [row["bits"] for row in rows] == [48, 12]
    for row in rows:
        assert set(row) - {"n_codes", "tta"} == KEYS
        assert all(0 <= row[name] <= 1 for name in FRACTIONS if row[name] is not None)
        assert (row["n_queries"], row["n_gallery"], row["weights"]) == (8, 20, str(weights_path))
        assert row["accuracy"] is not None
    assert rows[0]["mAP"] > 0.25


@pytest.mark.usefixtures("labelled")
def test_depth_says_where_the_second_map_ends(eval_):
    at_3, at_20 = (json.loads(eval_(*TWO_FOLDERS, "--depth", n, "--json").lines[0]) for n in ("3", "20"))
    assert "mAP@1000" not in at_3
    assert at_3["mAP@3"] != at_20["mAP@20"]
    assert at_3["mAP"] == at_20["mAP"]


@pytest.mark.usefixtures("labelled")
def test_the_longest_code_is_measured_by_default(eval_):
    assert [json.loads(line)["bits"] for line in eval_(*TWO_FOLDERS, "--json").lines] == [64]


@pytest.mark.usefixtures("labelled")
def test_a_folder_with_train_and_test_is_both(eval_):
    assert eval_("labelled", "--json").out == eval_(*TWO_FOLDERS, "--json").out


@pytest.mark.usefixtures("labelled")
def test_a_pipe_gets_a_table_with_a_header(eval_):
    header, row = (line.split("\t") for line in eval_(*TWO_FOLDERS).lines)
    told = dict(zip(header, row, strict=True))
    assert told.keys() - {"n_codes"} == KEYS
    assert told["bits"] == "64"
    assert len(told["mAP"]) == len("0.1234")


@pytest.mark.usefixtures("labelled")
def test_classes_of_its_own_have_no_accuracy(eval_):
    write_class_folders("others", n=3, size=16)
    (line,) = eval_("--queries", "others", "--gallery", "others", "--json").lines
    assert json.loads(line)["accuracy"] is None
    assert "-" in eval_("--queries", "others", "--gallery", "others").lines[1].split("\t")


def test_pictures_that_fail_are_told_and_left_out(eval_, labelled):
    (labelled / "test/class 0/text.jpg").write_text("no picture")
    result = eval_(*TWO_FOLDERS, "--json")
    assert result.status == 0
    assert "text.jpg: " in result.err
    assert json.loads(result.out)["n_queries"] == 8


@pytest.mark.usefixtures("labelled")
def test_a_plot_beside_the_answer(eval_):
    arguments = (*TWO_FOLDERS, "--bits", "48", "--bits", "12", "--json")
    assert eval_(*arguments, "--plot", "curves.svg") == eval_(*arguments)
    assert {"12 bits", "48 bits"} <= set(re.findall(r">([^<>]*)</text>", Path("curves.svg").read_text()))


@pytest.mark.parametrize("path", ["curves.pdf", "none/curves.png", "labelled/test/class 0/0000.png"])
@pytest.mark.usefixtures("labelled")
def test_a_plot_that_cannot_be_is_an_error_before_the_work(eval_, path):
    result = eval_("nowhere", "--plot", path)
    assert (result.status, result.out, "nowhere" in result.err, path in result.err) == (2, b"", False, True)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--queries", "labelled/test"],
        ["--gallery", "labelled/train"],
        ["labelled", "--queries", "labelled/test"],
        ["labelled", *TWO_FOLDERS],
    ],
)
@pytest.mark.usefixtures("labelled")
def test_neither_or_both_ways_to_name_the_pictures_is_an_error(eval_, arguments):
    assert eval_(*arguments) == (2, b"", "drhn: name either DATA, or both --queries and --gallery\n")


@pytest.mark.usefixtures("labelled")
def test_training_pictures_alone_are_an_error_before_any_is_decoded(eval_):
    Path("labelled/train/class 0/text.jpg").write_text("no picture")
    expected = "drhn: no test pictures (expected train/ and test/); use --queries and --gallery\n"
    assert eval_("labelled/train") == (2, b"", expected)


@pytest.mark.usefixtures("labelled")
@pytest.mark.parametrize(("options", "message"), [(("--order", "best"), "order"), (("--bits", "7"), "7 bits")])
def test_a_typing_error_is_found_before_any_picture_is_looked_for(eval_, options, message):
    result = eval_("nowhere", *options)
    assert (result.status, message in result.err) == (2, True)


def test_a_length_the_network_does_not_make_is_an_error(eval_):
    result = eval_(*TWO_FOLDERS, "--bits", "13")
    assert (result.status, "no codes of 13 bits" in result.err) == (2, True)


@pytest.mark.parametrize("data", ["nowhere", "labelled/train/class 0"])
@pytest.mark.usefixtures("labelled")
def test_a_folder_that_holds_no_classes_is_an_error(eval_, data):
    result = eval_(data)
    assert (result.status, result.out, len(result.err.splitlines())) == (2, b"", 1)


@pytest.mark.usefixtures("labelled")
def test_queries_of_a_class_that_the_gallery_lacks_are_an_error(eval_):
    write_class_folders("others", n=2, size=16)
    result = eval_("--queries", "others", "--gallery", "labelled/train")
    assert (result.status, "others" in result.err) == (2, True)


@pytest.mark.usefixtures("labelled")
def test_a_terminal_gets_a_column_for_each_length(terminal, weights_path):
    stdout, _ = terminal()
    assert run(["eval", *TWO_FOLDERS, "--bits", "48", "--bits", "12", "--weights", str(weights_path), "-q"]) == 0
    rows = [line.split() for line in re.sub(r"\x1b\[[0-9;]*m", "", stdout.drawn).splitlines()]
    assert rows[0] == ["bits", "48", "12"]
    assert ["n_queries", "8", "8"] in rows


@pytest.mark.usefixtures("labelled")
def test_tta_is_measured_with_other_codes(eval_):
    plain, mirrored = (json.loads(eval_(*TWO_FOLDERS, *tta, "--json").lines[0]) for tta in ((), ("--tta",)))
    assert plain.keys() == mirrored.keys()
    assert (plain["tta"], mirrored["tta"]) == (False, True)
    assert plain["mAP"] != mirrored["mAP"]


@pytest.mark.usefixtures("labelled")
def test_asymmetric_rank_adds_a_map(eval_):
    plain, both = (
        json.loads(eval_(*TWO_FOLDERS, *order, "--json").lines[0]) for order in ((), ("--order", "asymmetric"))
    )
    assert 0 < both.pop("mAP_asymmetric") <= 1
    assert both == plain
