import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from drhn_cli.codes.pack import pack_bits
from drhn_cli.errors import ConfigError, DrhnError
from drhn_cli.evaluation import plot
from drhn_cli.evaluation.evaluate import Evaluation
from drhn_cli.evaluation.metrics import LabelledCodes, precision_recall_curve, retrieval_metrics
from drhn_cli.evaluation.plot import require_plot, write_plot


@pytest.fixture(scope="module")
def evaluations():
    rng = np.random.default_rng(0)
    bits, labels = rng.random((60, 16)) > 0.5, rng.integers(0, 3, 60)
    found = []
    for n_bits in (16, 6):
        sets = [
            LabelledCodes(pack_bits(bits[rows, :n_bits]), labels[rows], n_bits) for rows in (slice(20), slice(20, None))
        ]
        curve = precision_recall_curve(*sets)
        retrieval = retrieval_metrics(*sets)
        found.append(Evaluation(n_bits=n_bits, accuracy=None, retrieval=retrieval, n_codes=1, curve=curve))
    return found


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_figures_are_those_measured_in_the_order_of_lengths(evaluations):
    figure = Figure()
    plot._draw(figure, evaluations)
    curves, lengths = figure.axes
    for line, one in zip(curves.lines[::2], evaluations, strict=True):
        np.testing.assert_array_equal(line.get_xydata(), np.stack([one.curve.recall, one.curve.precision], axis=1))
    for dot, one in zip(curves.lines[1::2], evaluations, strict=True):
        np.testing.assert_allclose(dot.get_xydata(), [[one.curve.recall[2], one.retrieval.precision_at_radius2]])
    assert [bar.get_height() for bar in lengths.patches] == [
        one.retrieval.mean_average_precision for one in evaluations
    ]


def test_svg_says_the_lengths_in_rising_order_and_their_mean_average_precision(evaluations):
    write_plot("curves.svg", evaluations)
    texts = re.findall(r">([^<>]*)</text>", Path("curves.svg").read_text())
    means = [f"{one.retrieval.mean_average_precision:.4f}" for one in evaluations[::-1]]
    assert [text for text in texts if text.endswith(" bits")] == ["6 bits", "16 bits"]
    assert [text for text in texts if text in means] == means


def test_png_is_a_picture(evaluations):
    write_plot("curves.PNG", evaluations[:1])
    with Image.open("curves.PNG") as image:
        assert (image.format, len(image.convert("RGB").getcolors(1 << 20)) > 50) == ("PNG", True)


@pytest.mark.parametrize("name", ["curves.svg", "curves.png"])
def test_equal_evaluations_give_equal_files_that_replace_each_other(evaluations, name):
    write_plot(name, evaluations)
    first = Path(name).read_bytes()
    write_plot(name, evaluations)
    assert Path(name).read_bytes() == first


def test_a_photograph_is_never_replaced(evaluations):
    Image.new("RGB", (9, 9)).save("photo.png")
    before = Path("photo.png").read_bytes()
    with pytest.raises(DrhnError, match=r"photo\.png: another file is in the place of the plot"):
        write_plot("photo.png", evaluations)
    assert Path("photo.png").read_bytes() == before


@pytest.mark.parametrize("path", ["curves.pdf", "curves", b"svg"])
def test_another_suffix_is_refused(path):
    with pytest.raises(ConfigError, match=r"no kind of plot .*expected a name in \.png or \.svg"):
        require_plot(path)


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"needs matplotlib; install it with `pip install 'drhn\[plot\]'`"):
        require_plot("curves.svg")


@pytest.mark.parametrize("path", ["nowhere/curves.svg", "folder.svg"])
def test_a_place_that_cannot_be_written_is_an_error(evaluations, path):
    Path("folder.svg").mkdir()
    with pytest.raises(DrhnError, match="cannot write the plot"):
        write_plot(path, evaluations)
