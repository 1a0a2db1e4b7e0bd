"""Plots of evaluations: precision-recall curves, and mean average precision by code length."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drhn_cli.errors import AnyPath, ConfigError, DrhnError
from drhn_cli.evaluation.evaluate import Evaluation
from drhn_cli.files import atomic_write, os_errors, refuse_overwrite

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARK = b"Matplotlib"  # in the head of both formats
_INK, _SOFT, _GRID = "#1c1b19", "#67645d", "#e4e2dc"
_LOOKS: dict[Any, Any] = {
    "font.size": 10,
    "axes.edgecolor": _SOFT,
    "axes.labelcolor": _INK,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "grid.color": _GRID,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "drhn",  # equal figures give equal files
    "text.color": _INK,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
}


def require_plot(path: AnyPath) -> str:
    """Return the format, or raise an error before the long work if the plot cannot be drawn or written."""
    kind = Path(os.fsdecode(path)).suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise ConfigError("no kind of plot", path=path, expected="a name in .png or .svg")
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("plotting needs matplotlib", hint="install it with `pip install 'drhn[plot]'`")
    refuse_overwrite(path, "plot", lambda head: _MARK in head)
    return kind


def write_plot(path: AnyPath, evaluations: Sequence[Evaluation]) -> None:
    """Draw evaluations, which have curves, into a .png or .svg. Equal evaluations give equal files."""
    kind = require_plot(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure  # not pyplot, which keeps figures and looks for a screen

    with mpl.rc_context(_LOOKS):
        figure = Figure(figsize=(9, 4), layout="constrained")
        _draw(figure, sorted(evaluations, key=lambda one: one.n_bits))
        with os_errors(DrhnError, "cannot write the plot", path=path), atomic_write(path) as stream:
            figure.savefig(stream, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)


def _draw(figure: Figure, evaluations: Sequence[Evaluation]) -> None:
    import matplotlib as mpl

    n_lengths = len(evaluations)
    # From the longest, dark, to the shortest, without the pale end of the scale.
    shades = [mpl.colormaps["viridis"](0.25 + 0.55 * i / n_lengths) for i in range(n_lengths)][::-1]
    curves, lengths = figure.subplots(1, 2, width_ratios=(3, 2))
    for one, shade in zip(evaluations, shades, strict=True):
        assert one.curve is not None  # noqa: S101 - the only caller asks for curves
        recall, precision, label = one.curve.recall, one.curve.precision, f"{one.n_bits} bits"
        curves.plot(recall, precision, color=shade, marker=".", markersize=4, linewidth=1.5, label=label)
        curves.plot(recall[2:3], precision[2:3], color=shade, marker="o", markersize=7)
    curves.set(title="Lookup within each radius (large dot: 2)", xlabel="recall", ylabel="precision")
    curves.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    curves.legend(loc="lower center")
    means = [one.retrieval.mean_average_precision for one in evaluations]
    bars = lengths.bar(range(n_lengths), means, width=0.6, color=shades)
    lengths.bar_label(bars, [f"{mean:.4f}" for mean in means], padding=3)
    lengths.set_xticks(range(n_lengths), [str(one.n_bits) for one in evaluations])
    lengths.set(title="Mean average precision", xlabel="bits", xlim=(-0.8, n_lengths - 0.2), ylim=(0, 1.02))
    lengths.grid(visible=False, axis="x")
