"""``drhn train``."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from drhn_cli.cli import options
from drhn_cli.cli.app import saving_on_sigterm
from drhn_cli.cli.eval import write_evaluations
from drhn_cli.cli.output import TerminalProgress
from drhn_cli.errors import ConfigError
from drhn_cli.images.preprocess import Fit
from drhn_cli.network.config import DEFAULT_PRESET, Downsample, Preset
from drhn_cli.network.devices import Precision

_NETWORK, _TRAINING = "The network", "The training"


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
        typer.Argument(
            metavar="DATA", help="A folder of class folders, a folder with train/ and test/ of them, or cifar10."
        ),
    ],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.npz", help="The weights file to make.")],
    preset: Annotated[
        Preset | None, typer.Option(help=f"The shape of the network.  [default: {DEFAULT_PRESET}]")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="NAME|FILE",
            help="Start from these weights: a bundled model or a weights file. For when pictures are few.",
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz",
            help="Distill another network's features: arrays `paths` and `features`, one row for each picture.",
        ),
    ] = None,
    teaching: Annotated[
        float | None,
        typer.Option(metavar="X", help="Weight of the distillation loss, by which codes predict those features."),
    ] = None,
    blocks: Annotated[
        int | None, typer.Option(metavar="N", help="Residual blocks in each of the six groups; the paper's n.")
    ] = None,
    bits: Annotated[
        int | None, typer.Option(metavar="N", help="Units of the hash layer, the code length; the paper's h.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(metavar="X", help="A bit is set where the activation is above it; the paper's t.")
    ] = None,
    widths: Annotated[str | None, typer.Option(metavar="N,N,N,N,N,N", help="Channels of the six groups.")] = None,
    downsample_at: Annotated[
        str | None, typer.Option(metavar="N,...", help="Groups, from 1, that begin by halving the resolution.")
    ] = None,
    downsample: Annotated[Downsample | None, typer.Option(help="How these groups halve the resolution.")] = None,
    input_size: Annotated[int | None, typer.Option(metavar="N", help="Side of the input, in pixels.")] = None,
    stem_stride: Annotated[
        int | None, typer.Option(metavar="N", help="2 halves the resolution of large inputs at once.")
    ] = None,
    hash_norm: Annotated[
        bool | None,
        typer.Option("--hash-norm/--no-hash-norm", help="Batch normalization in the hash layer; not in the paper."),
    ] = None,
    nested: Annotated[
        str | None,
        typer.Option(
            metavar="N,...", help="Shorter code lengths trained as well; each code is a prefix of the longest."
        ),
    ] = None,
    fit: Annotated[Fit | None, typer.Option(help="How a picture becomes square.")] = None,
    tta: Annotated[
        bool | None,
        typer.Option("--tta/--no-tta", help="Whether `drhn hash` averages two views by default with these weights."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", help="Passes over the pictures.")] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="N", help="Pictures in a step.")] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Seed of the initial weights, the order of pictures and the augmentation."),
    ] = None,
    conv_rate: Annotated[
        float | None,
        typer.Option(metavar="X", help="Peak learning rate of the convolutions.  [default: 0.12, with --from 0.03]"),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(metavar="X", help="Peak learning rate of everything else.  [default: 0.2, with --from 0.05]"),
    ] = None,
    average: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Average the weights over this last share of the run (SWA), at constant learning rates.",
        ),
    ] = None,
    sharpness: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Radius of sharpness-aware minimization (SAM), relative to the weights; doubles the time.",
        ),
    ] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(metavar="X", help="Share of a label spread over all classes.")
    ] = None,
    quantisation: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Weight of the quantization loss, which pushes activations away from the threshold."
        ),
    ] = None,
    similarity: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Weight of the loss that makes shorter codes rank pictures as the longest does."
        ),
    ] = None,
    translate: Annotated[int | None, typer.Option(metavar="N", help="Largest shift of a picture, in pixels.")] = None,
    cutout: Annotated[
        int | None, typer.Option(metavar="N", help="Side of the square blanked in a picture; 0 for none.")
    ] = None,
    crop: Annotated[
        float | None,
        typer.Option(metavar="X", help="Smallest share of a picture's area that a random crop keeps; 1 for no crops."),
    ] = None,
    colour: Annotated[
        float | None,
        typer.Option(metavar="X", help="Largest relative change of brightness, contrast and saturation; 0 for none."),
    ] = None,
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="Mirror every picture in every other epoch.")
    ] = None,
    validation: Annotated[
        float,
        typer.Option(metavar="X", help="Share of the pictures held out for validation after every epoch."),
    ] = 0.0,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an unfinished run, if there is one.")] = False,
    device: options.Device = "auto",
    precision: Annotated[
        Precision | None,
        typer.Option(help="Number format of matrix products.  [default: bfloat16 where the hardware supports it]"),
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
    network: dict[str, Any] = {
        "blocks": blocks,
        "bits": bits,
        "threshold": threshold,
        "widths": _numbers(widths, "--widths"),
        "downsample_at": _numbers(downsample_at, "--downsample-at"),
        "downsample": downsample,
        "input_size": input_size,
        "stem_stride": stem_stride,
        "hash_norm": hash_norm,
        "nested": _numbers(nested, "--nested"),
    }
    training: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "conv_rate": conv_rate,
        "rate": rate,
        "average": average,
        "sharpness": sharpness,
        "label_smoothing": label_smoothing,
        "quantisation": quantisation,
        "similarity": similarity,
        "teaching": teaching,
        "translate": translate,
        "cutout": cutout,
        "crop": crop,
        "colour": colour,
        "flip": flip,
        "precision": precision,
    }
    from drhn_cli.training.distributed import find_team
    from drhn_cli.training.train import TrainOptions, train_weights

    train_options = TrainOptions(
        data=data,
        weights_path=output,
        preset=preset,
        start=start,
        teacher=teacher,
        network=_given(network),
        training=_given(training),
        preprocessing=_given({"fit": fit, "views": options.n_views(tta)}),
        validation=validation,
        resume=resume,
        device=device,
        data_dir=data_dir,
        download=download,
        workers=workers,
        command=["drhn", *sys.argv[1:]],
    )
    team = find_team()
    silent = quiet or not team.leads
    hint = "--resume goes on after the last whole epoch, if there is one"
    # A process that waits for the others could not act on a signal: torchrun ends those at once.
    stopping = saving_on_sigterm() if team.size == 1 else nullcontext()
    with stopping, TerminalProgress(quiet=silent, resume_hint=lambda _: hint) as progress:
        weights, evaluations = train_weights(train_options, progress)
    write_evaluations(evaluations, str(output), json=json, tta=weights.preprocessing.views == 2)


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}
