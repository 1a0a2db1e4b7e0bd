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

if TYPE_CHECKING:
    from drhn_cli.evaluation.evaluate import Evaluation


_CHANGES = "Changes of the recipe"


def _change(metavar: str, text: str) -> Any:
    return Option(metavar=metavar, help=f"{text}  [default: the recipe's]", rich_help_panel=_CHANGES)


def train(
    data: Annotated[
        str | None,
        Argument(metavar="DATA", help="A folder of class folders, a folder with train/ and test/ of them, or cifar10."),
    ] = None,
    *,
    output: Annotated[
        Path | None, Option("--output", "-o", metavar="FILE.npz", help="The weights file to make.")
    ] = None,
    recipe: Annotated[
        str | None,
        Option(
            metavar="NAME|FILE",
            help="How to train: a bundled recipe or a TOML file.  [default: fast, with --from fine-tune]",
            rich_help_panel="Recipe",
            autocompletion=options.recipe_names,
        ),
    ] = None,
    start: Annotated[
        str | None,
        Option(
            "--from",
            metavar="NAME|FILE",
            help="Start from these weights: a bundled model or a weights file. For when pictures are few.",
            rich_help_panel="Recipe",
            autocompletion=options.model_names,
        ),
    ] = None,
    no_labels: Annotated[
        bool,
        Option(
            "--no-labels",
            help="Folders are no classes: fit the codes alone, to pictures at any depth. For a pretrained trunk.",
            rich_help_panel=_CHANGES,
        ),
    ] = False,
    print_recipe: Annotated[
        bool,
        Option("--print", help="Print the recipe as it would run, with all its settings.", rich_help_panel="Recipe"),
    ] = False,
    blocks: Annotated[int | None, _change("N", "Residual blocks in each of the six groups; the paper's n.")] = None,
    bits: Annotated[int | None, _change("N", "Units of the hash layer, the code length; the paper's h.")] = None,
    threshold: Annotated[
        float | None, _change("X", "A bit is set where the activation is above it; the paper's t.")
    ] = None,
    epochs: Annotated[int | None, _change("N", "Passes over the pictures, in each stage.")] = None,
    batch_size: Annotated[int | None, _change("N", "Pictures in a step.")] = None,
    seed: Annotated[
        int | None, _change("N", "Seed of the initial weights, the order of pictures and the augmentation.")
    ] = None,
    validation: Annotated[
        float | None, _change("X", "Share of the pictures held out for validation after every epoch.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any other setting, as stage.lr=0.1; see --print. Repeatable.",
            rich_help_panel=_CHANGES,
        ),
    ] = None,
    resume: Annotated[bool, Option("--resume", help="Resume an unfinished run, if there is one.")] = False,
    device: options.Device = "auto",
    data_dir: options.DataDir = None,
    download: options.Download = False,
    workers: options.Workers = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a network on your own classes.

    drhn train ./labelled -o weights.npz

    drhn train ./labelled --from photos -o weights.npz

    drhn train cifar10 --download --recipe paper -o paper.npz

    A recipe holds the network and one or more stages of training; with --from the shape of the network, preprocessing,
    loss and augmentation come from those weights. The state of the run is saved beside the weights after every epoch,
    so a run that is stopped can be resumed with --resume and ends with the same weights. A history of the epochs is
    written beside the weights.
    """
    from drhn_cli.training.recipe import load_recipe, parse_change

    command = ["drhn", *sys.argv[1:]]
    given = {
        **{"from": start, "network.blocks": blocks, "network.bits": bits, "network.threshold": threshold},
        **{"stage.labels": False if no_labels else None, "stage.epochs": epochs, "stage.batch_size": batch_size},
        **{"seed": seed, "validation": validation},
    }
    changes = [parse_change(text) for text in settings or ()]
    changes += [(key, value) for key, value in given.items() if value is not None]
    run = load_recipe(recipe, changes)
    if print_recipe:
        out.write_bytes(run.to_toml().encode())
        return
    if data is None or output is None:
        missing = "argument 'DATA'" if data is None else "option '--output' / '-o'"
        raise ConfigError(f"Missing {missing}", expected="drhn train DATA -o FILE.npz")
    from drhn_cli.training.distributed import World
    from drhn_cli.training.train import TrainOptions, train_model

    choices = {**locals(), "recipe": run, "weights_path": output}
    world = World.from_environment()
    hint = "--resume goes on after the last whole epoch, if there is one"
    if run.in_closed_form:
        hint = "nothing was written"
    # A process that waits for the others could not act on a signal: torchrun ends those at once.
    stopping = saving_on_sigterm() if world.size == 1 else nullcontext()
    with stopping, out.TerminalProgress(quiet=quiet or not world.is_main, resume_hint=lambda _: hint) as progress:
        model, evaluations = train_model(options.collect(TrainOptions, choices), progress)
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
