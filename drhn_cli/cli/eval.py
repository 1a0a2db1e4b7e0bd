"""``drhn eval``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from drhn_cli.cli import options
from drhn_cli.cli.output import TerminalProgress, format_number, report_error, write_json, write_rows

if TYPE_CHECKING:
    from drhn_cli.evaluation.evaluate import Evaluation


def eval_(
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="A folder with train/ and test/, or cifar10.")
    ] = None,
    *,
    queries: Annotated[
        str | None, typer.Option(metavar="DIR", help="Pictures to look up: a folder of class folders.")
    ] = None,
    gallery: Annotated[
        str | None, typer.Option(metavar="DIR", help="Pictures to find: a folder of class folders.")
    ] = None,
    weights: options.Weights = None,
    bits: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="A code length to measure. Repeatable.  [default: the longest]"),
    ] = None,
    order: Annotated[
        Literal["hamming", "asymmetric"], typer.Option(help="asymmetric: also measure mAP in asymmetric order.")
    ] = "hamming",
    tta: options.Tta = None,
    depth: Annotated[int, typer.Option(metavar="N", min=1, help="Depth of the second mAP.")] = 1000,
    plot: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Also plot precision and recall (.png or .svg); needs drhn[plot]."),
    ] = None,
    device: options.Device = "auto",
    data_dir: options.DataDir = None,
    download: options.Download = False,
    workers: options.Workers = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure how well weights find pictures of the same class.

    drhn eval cifar10 --weights cifar10 --download

    drhn eval ./labelled --weights weights.npz --bits 48 --bits 12

    mAP is over the full ranking, with ties scored by their expectation; mAP@1000 as in Lin et al. 2015; fractions, not
    per cent.
    """
    from drhn_cli.evaluation.evaluate import evaluate_weights
    from drhn_cli.evaluation.plot import require_plot, write_plot
    from drhn_cli.evaluation.splits import load_queries_and_gallery
    from drhn_cli.network.model import choose_bits, load_model

    if plot is not None:
        require_plot(plot)
    model = load_model(weights, views=options.n_views(tta))
    lengths = [choose_bits(n_bits, model) for n_bits in bits or ()]
    query_images, gallery_images = load_queries_and_gallery(
        data, queries, gallery, model.preprocessing, workers=workers, data_dir=data_dir, download=download
    )
    for failure in (*query_images.failures, *gallery_images.failures):
        report_error(failure)
    with TerminalProgress(quiet=quiet) as progress:
        evaluations = list(
            evaluate_weights(
                model,
                query_images,
                gallery_images,
                code_lengths=lengths,
                depth=depth,
                curves=plot is not None,
                asymmetric=order == "asymmetric",
                device=device,
                progress=progress,
            )
        )
    write_evaluations(evaluations, weights or model.name, json=json, tta=model.preprocessing.views == 2)
    if plot is not None:
        write_plot(plot, evaluations)


def write_evaluations(evaluations: Iterable[Evaluation], weights: str, *, json: bool, tta: bool) -> None:
    """Write evaluations to stdout: a JSON object for each, which tells ``tta`` too, or a table."""
    rows = [_row_of(evaluation, weights) for evaluation in evaluations]
    if json:
        for row in rows:
            write_json({**row, "tta": tta})
    elif rows:
        shown = [[format_number(v) if isinstance(v, float | None) else str(v) for v in row.values()] for row in rows]
        table = [list(rows[0]), *shown]
        if sys.stdout.isatty():  # ten columns are too wide for most terminals: a column for each length
            table = [list(column) for column in zip(*table, strict=True)]
        write_rows(table[0], table[1:])


def _row_of(evaluation: Evaluation, weights: str) -> dict[str, object]:
    retrieval = evaluation.retrieval
    return {
        "bits": evaluation.n_bits,
        "mAP": retrieval.mean_average_precision,
        **({} if evaluation.asymmetric_map is None else {"mAP_asymmetric": evaluation.asymmetric_map}),
        f"mAP@{retrieval.depth}": retrieval.mean_average_precision_at_depth,
        f"precision@{retrieval.k}": retrieval.precision_at_k,
        "precision@radius2": retrieval.precision_at_radius2,
        "accuracy": evaluation.accuracy,
        "n_queries": retrieval.n_queries,
        "n_gallery": retrieval.n_gallery,
        "n_codes": evaluation.n_codes,
        "weights": weights,
    }
