"""Make a weights file in integers of one in floats, and measure it.

    python -m tests.benchmarks.to_integers convert WEIGHTS PICTURES OUT.npz
    python -m tests.benchmarks.to_integers measure FILE.npz DATA

`convert` takes a bundled model or a file, and a folder. 300 of its pictures calibrate the network, as `drhn train` does
it; of others, at most 200, the codes are compared. It prints one JSON object. The figures that were measured with the
floats are left out of the file.

`measure` puts in those of the integers: DATA is a folder with `train` and `test`, and the test pictures are looked up
among the training pictures, as `drhn train` measures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drhn_cli.evaluation.data import load_split
from drhn_cli.evaluation.evaluate import Measures, evaluate_model
from drhn_cli.images.find import find_images
from drhn_cli.images.load import load_batches
from drhn_cli.images.source import ImageFile
from drhn_cli.network.encoder import Encoder
from drhn_cli.network.model import Model, load_model, save_model
from drhn_cli.network.quantize import calibration_rows, quantize

_MOST_COMPARED = 200


def load(model: Model, files: Sequence[ImageFile]) -> NDArray[np.uint8]:
    return np.concatenate(
        [batch.pixels for batch in load_batches(files, model.preprocessing, batch_size=64, workers=2)]
    )


def convert(model: Model, files: Sequence[ImageFile], data: str) -> tuple[Model, dict[str, object]]:
    """Return the model in integers, and how far its codes are those of the floats."""
    rows = set(calibration_rows(len(files)).tolist())
    integers = quantize(model, load(model, [files[row] for row in sorted(rows)]))
    others = [file for row, file in enumerate(files) if row not in rows]
    pixels = load(model, others[:: -(-len(others) // _MOST_COMPARED)]) if others else load(model, files)
    before, after = (Encoder(one, device="cpu", n_threads=1).activations(pixels) for one in (model, integers))
    threshold = model.config.threshold
    figures = {
        "calibrated_on": len(rows),
        "compared_on": len(pixels),
        "bits_that_change": float(((before > threshold) != (after > threshold)).mean()),
        "mean_difference_of_activations": float(np.abs(before - after).mean()),
    }
    made = {"from": model.fingerprint, "data": data, "n_images": len(rows)}
    runs = [dict(run) for run in model.training]
    if runs:
        runs[-1]["integers"] = made
    return replace(integers, training=runs, measured={}), figures


def measure(model: Model, data: Path) -> Model:
    """Return the model with its figures."""
    gallery, queries = load_split(str(data), model.preprocessing)
    if queries is None:
        sys.exit(f"{data} has no test pictures")
    evaluations = evaluate_model(
        model, queries, gallery, Measures(code_lengths=model.config.code_lengths), device="cpu"
    )
    figures = {str(one.n_bits): {"accuracy": one.accuracy, **one.retrieval.to_dict()} for one in evaluations}
    return replace(model, measured={"on": "test", "views": model.preprocessing.views, "lengths": figures})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    converting = commands.add_parser("convert")
    converting.add_argument("weights")
    converting.add_argument("pictures", type=Path)
    converting.add_argument("out", type=Path)
    measuring = commands.add_parser("measure")
    measuring.add_argument("weights")
    measuring.add_argument("data", type=Path)
    options = parser.parse_args()
    model = load_model(options.weights)
    if options.command == "measure":
        save_model(options.weights, measure(model, options.data))
        return
    if model.is_integer:
        sys.exit(f"{options.weights} is in integers already")
    integers, figures = convert(model, find_images([options.pictures]).files, options.pictures.name)
    save_model(options.out, integers)
    print(json.dumps({**figures, "bytes": options.out.stat().st_size, "fingerprint": integers.fingerprint}))


if __name__ == "__main__":
    main()
