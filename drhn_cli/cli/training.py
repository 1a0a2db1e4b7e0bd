"""``drhn train``, ``drhn eval`` and ``drhn weights``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from drhn_cli.cli import options
from drhn_cli.cli import output as out
from drhn_cli.cli.app import saving_on_sigterm
from drhn_cli.errors import ConfigError
from drhn_cli.images.preprocess import Fit
from drhn_cli.network.config import DEFAULT_PRESET, Downsample, Preset
from drhn_cli.network.devices import Precision

if TYPE_CHECKING:
    from drhn_cli.evaluation.evaluate import Evaluation

_SETTINGS = {
    "network": (
        *("blocks", "bits", "threshold", "widths", "downsample_at", "downsample", "input_size", "stem_stride"),
        *("hash_norm", "nested"),
    ),
    "training": (
        *("epochs", "batch_size", "seed", "conv_rate", "rate", "average", "sharpness", "label_smoothing"),
        *("quantisation", "similarity", "teaching", "translate", "cutout", "crop", "colour", "flip", "precision"),
    ),
    "preprocessing": ("fit", "views"),
}
"""Fields of ``TrainOptions`` that are settings, and the options of ``drhn train`` in each."""


def _numbers(text: str | None, setting: str) -> tuple[int, ...] | None:
    """Return the whole numbers of a comma-separated list."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ConfigError(f"{setting} is not a list of numbers", expected="such as 64,128,256", found=text) from error


def train(
    data: Annotated[
        str,
        Argument(metavar="DATA", help="A folder of class folders, a folder with train/ and test/ of them, or cifar10."),
    ],
    *,
    output: Annotated[Path, Option("--output", "-o", metavar="FILE.npz", help="The weights file to make.")],
    preset: Annotated[Preset | None, Option(help=f"The shape of the network.  [default: {DEFAULT_PRESET}]")] = None,
    start: Annotated[
        str | None,
        Option(
            "--from",
            metavar="NAME|FILE",
            help="Start from these weights: a bundled model or a weights file. For when pictures are few.",
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        Option(
            metavar="FILE.npz",
            help="Distill another network's features: arrays `paths` and `features`, one row for each picture.",
        ),
    ] = None,
    teaching: Annotated[
        float | None,
        Option(metavar="X", help="Weight of the distillation loss, by which codes predict those features."),
    ] = None,
    blocks: Annotated[
        int | None, Option(metavar="N", help="Residual blocks in each of the six groups; the paper's n.")
    ] = None,
    bits: Annotated[
        int | None, Option(metavar="N", help="Units of the hash layer, the code length; the paper's h.")
    ] = None,
    threshold: Annotated[
        float | None, Option(metavar="X", help="A bit is set where the activation is above it; the paper's t.")
    ] = None,
    widths: Annotated[str | None, Option(metavar="N,N,N,N,N,N", help="Channels of the six groups.")] = None,
    downsample_at: Annotated[
        str | None, Option(metavar="N,...", help="Groups, from 1, that begin by halving the resolution.")
    ] = None,
    downsample: Annotated[Downsample | None, Option(help="How these groups halve the resolution.")] = None,
    input_size: Annotated[int | None, Option(metavar="N", help="Side of the input, in pixels.")] = None,
    stem_stride: Annotated[
        int | None, Option(metavar="N", help="2 halves the resolution of large inputs at once.")
    ] = None,
    hash_norm: Annotated[
        bool | None,
        Option("--hash-norm/--no-hash-norm", help="Batch normalization in the hash layer; not in the paper."),
    ] = None,
    nested: Annotated[
        str | None,
        Option(metavar="N,...", help="Shorter code lengths trained as well; each code is a prefix of the longest."),
    ] = None,
    fit: Annotated[Fit | None, Option(help="How a picture becomes square.")] = None,
    tta: Annotated[
        bool | None,
        Option("--tta/--no-tta", help="Whether `drhn hash` averages two views by default with these weights."),
    ] = None,
    epochs: Annotated[int | None, Option(metavar="N", help="Passes over the pictures.")] = None,
    batch_size: Annotated[int | None, Option(metavar="N", help="Pictures in a step.")] = None,
    seed: Annotated[
        int | None, Option(metavar="N", help="Seed of the initial weights, the order of pictures and the augmentation.")
    ] = None,
    conv_rate: Annotated[
        float | None,
        Option(metavar="X", help="Peak learning rate of the convolutions.  [default: 0.12, with --from 0.03]"),
    ] = None,
    rate: Annotated[
        float | None,
        Option(metavar="X", help="Peak learning rate of everything else.  [default: 0.2, with --from 0.05]"),
    ] = None,
    average: Annotated[
        float | None,
        Option(
            metavar="X", help="Average the weights over this last share of the run (SWA), at constant learning rates."
        ),
    ] = None,
    sharpness: Annotated[
        float | None,
        Option(
            metavar="X", help="Radius of sharpness-aware minimization (SAM), relative to the weights; doubles the time."
        ),
    ] = None,
    label_smoothing: Annotated[
        float | None, Option(metavar="X", help="Share of a label spread over all classes.")
    ] = None,
    quantisation: Annotated[
        float | None,
        Option(metavar="X", help="Weight of the quantization loss, which pushes activations away from the threshold."),
    ] = None,
    similarity: Annotated[
        float | None,
        Option(metavar="X", help="Weight of the loss that makes shorter codes rank pictures as the longest does."),
    ] = None,
    translate: Annotated[int | None, Option(metavar="N", help="Largest shift of a picture, in pixels.")] = None,
    cutout: Annotated[
        int | None, Option(metavar="N", help="Side of the square blanked in a picture; 0 for none.")
    ] = None,
    crop: Annotated[
        float | None,
        Option(metavar="X", help="Smallest share of a picture's area that a random crop keeps; 1 for no crops."),
    ] = None,
    colour: Annotated[
        float | None,
        Option(metavar="X", help="Largest relative change of brightness, contrast and saturation; 0 for none."),
    ] = None,
    flip: Annotated[bool | None, Option("--flip/--no-flip", help="Mirror every picture in every other epoch.")] = None,
    validation: Annotated[
        float, Option(metavar="X", help="Share of the pictures held out for validation after every epoch.")
    ] = 0.0,
    resume: Annotated[bool, Option("--resume", help="Resume an unfinished run, if there is one.")] = False,
    device: options.Device = "auto",
    precision: Annotated[
        Precision | None,
        Option(help="Number format of matrix products.  [default: bfloat16 where the hardware supports it]"),
    ] = None,
    data_dir: options.DataDir = None,
    download: options.Download = False,
    workers: options.Workers = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a network on your own classes.

    drhn train ./labelled -o weights.npz

    drhn train ./labelled --from photos -o weights.npz

    drhn train cifar10 --download --epochs 30 -o weights.npz

    The shape of the network comes from the preset where it is not given; with --from it comes from those weights, and
    so do preprocessing, loss and augmentation. The state of the run is saved beside the weights after every epoch, so a
    run that is stopped can be resumed with --resume and ends with the same weights. A history of the epochs is written
    beside the weights.
    """
    from drhn_cli.training.distributed import World
    from drhn_cli.training.train import TrainOptions, train_model

    command = ["drhn", *sys.argv[1:]]
    given: dict[str, Any] = {**locals(), "weights_path": output, "views": options.n_views(tta)}
    for name in ("widths", "downsample_at", "nested"):
        given[name] = _numbers(given[name], f"--{name.replace('_', '-')}")
    for field, names in _SETTINGS.items():
        given[field] = {name: given[name] for name in names if given[name] is not None}
    world = World.from_environment()
    hint = "--resume goes on after the last whole epoch, if there is one"
    # A process that waits for the others could not act on a signal: torchrun ends those at once.
    stopping = saving_on_sigterm() if world.size == 1 else nullcontext()
    with stopping, out.TerminalProgress(quiet=quiet or not world.is_main, resume_hint=lambda _: hint) as progress:
        model, evaluations = train_model(options.collect(TrainOptions, given), progress)
    _write_evaluations(evaluations, str(output), json=json, tta=model.preprocessing.views == 2)


def eval_(
    data: Annotated[str | None, Argument(metavar="DATA", help="A folder with train/ and test/, or cifar10.")] = None,
    *,
    queries: Annotated[
        str | None, Option(metavar="DIR", help="Pictures to look up: a folder of class folders.")
    ] = None,
    gallery: Annotated[str | None, Option(metavar="DIR", help="Pictures to find: a folder of class folders.")] = None,
    weights: options.Weights = None,
    bits: Annotated[
        list[int] | None, Option(metavar="N", help="A code length to measure. Repeatable.  [default: the longest]")
    ] = None,
    order: Annotated[
        Literal["hamming", "asymmetric"], Option(help="asymmetric: also measure mAP in asymmetric order.")
    ] = "hamming",
    tta: options.Tta = None,
    depth: Annotated[int, Option(metavar="N", min=1, help="Depth of the second mAP.")] = 1000,
    plot: Annotated[
        str | None, Option(metavar="FILE", help="Also plot precision and recall (.png or .svg); needs drhn[plot].")
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
    from drhn_cli.evaluation.data import load_queries_and_gallery
    from drhn_cli.evaluation.evaluate import Measures, evaluate_model
    from drhn_cli.evaluation.plot import require_plot, write_plot
    from drhn_cli.network.model import choose_bits, load_model

    # Options are checked before pictures are read: a mistyped one should not cost minutes.
    if plot is not None:
        require_plot(plot)
    model = load_model(weights, views=options.n_views(tta))
    lengths = tuple(choose_bits(n_bits, model) for n_bits in bits or ())
    if (data is None) != (queries is not None and gallery is not None) or (data and (queries or gallery)):
        raise ConfigError("name either DATA, or both --queries and --gallery")
    query_images, gallery_images = load_queries_and_gallery(
        (str(queries), str(gallery)) if data is None else data,
        model.preprocessing,
        workers=workers,
        data_dir=data_dir,
        download=download,
    )
    for failure in (*query_images.failures, *gallery_images.failures):
        out.report_error(failure)
    measures = Measures(code_lengths=lengths, depth=depth, curves=plot is not None, asymmetric=order == "asymmetric")
    with out.TerminalProgress(quiet=quiet) as progress:
        evaluations = evaluate_model(model, query_images, gallery_images, measures, device=device, progress=progress)
    _write_evaluations(evaluations, weights or model.name, json=json, tta=model.preprocessing.views == 2)
    if plot is not None:
        write_plot(plot, evaluations)


def _write_evaluations(evaluations: Iterable[Evaluation], weights: str, *, json: bool, tta: bool) -> None:
    """Write a JSON object for each evaluation, with ``tta`` in it, or a table."""
    rows = [_row_of(evaluation, weights) for evaluation in evaluations]
    if json:
        for row in rows:
            out.write_json({**row, "tta": tta})
    elif rows:
        table = [list(rows[0]), *([_shown(value) for value in row.values()] for row in rows)]
        if sys.stdout.isatty():  # ten columns are too wide for most terminals: a column for each length
            table = [list(column) for column in zip(*table, strict=True)]
        out.write_rows(table[0], table[1:])


def _shown(value: object) -> str:
    return out.format_number(value) if isinstance(value, float | None) else str(value)


def _row_of(evaluation: Evaluation, weights: str) -> dict[str, object]:
    figures = evaluation.retrieval.to_dict()
    del figures["n_queries_left_out"]
    n_queries, n_gallery = figures.pop("n_queries"), figures.pop("n_gallery")
    return {
        "bits": evaluation.n_bits,
        "mAP": figures.pop("mAP"),
        **({} if evaluation.asymmetric_map is None else {"mAP_asymmetric": evaluation.asymmetric_map}),
        **figures,
        "accuracy": evaluation.accuracy,
        "n_queries": n_queries,
        "n_gallery": n_gallery,
        "n_codes": evaluation.n_codes,
        "weights": weights,
    }


def weights(
    *,
    json: options.Json = False,
    quiet: options.Quiet = False,  # noqa: ARG001 - there is nothing to leave out
) -> None:
    """List the bundled models and their measured mAP.

    drhn weights
    """
    from drhn_cli.network.model import DEFAULT, bundled_paths, load_model

    models = [load_model(path).describe() for path in bundled_paths()]
    if json:
        for model in models:
            out.write_json({**model, "default": model["name"] == DEFAULT})
    else:
        rows = []
        for model in models:
            bits, n_classes = " ".join(map(str, model["bits"])), str(len(model["classes"]))
            default = "default" if model["name"] == DEFAULT else ""
            rows.append([model["name"], bits, n_classes, out.format_number(_best_map(model)), default])
        out.write_rows(["model", "bits", "classes", "mAP", ""], rows)


def _best_map(model: dict[str, Any]) -> float | None:
    """Return the measured mAP at the longest code length."""
    lengths = model["measured"].get("lengths")
    return float(lengths[max(lengths, key=int)]["mAP"]) if lengths else None
