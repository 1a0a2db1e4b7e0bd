"""How well codes find photographs: of classes the network was trained on, of classes it has never seen, and again.

    python -m tests.benchmarks.photo_retrieval split PHOTOS SPLIT [--unseen 30] [--seed 0]
    drhn train SPLIT/train -o photos.npz ...
    drhn eval --queries SPLIT/unseen/queries --gallery SPLIT/unseen/gallery --depth 100 --weights photos.npz
    python -m tests.benchmarks.photo_retrieval rivals SPLIT/unseen/queries SPLIT/unseen/gallery
    python -m tests.benchmarks.photo_retrieval changes SPLIT/unseen/queries --weights photos.npz

`split` divides a folder of class folders by symbolic links: `unseen` holds whole classes, of each of them a fifth as
queries and the rest as gallery; `known/queries` holds 5 % of each of the other classes, `train` all else (it is the
gallery of `known/queries`). Which picture goes where follows from its name and the seed alone.

`rivals` measures the perceptual hashes of imagehash (64 bits) as `drhn eval` measures weights: one JSON object each.

`changes` tells how far the code of a picture moves when the picture is resized, recompressed, cropped and so on, beside
how far two different pictures are apart: one JSON object a change. The pictures are enlarged to 512 pixels first, so
that a change is made to a photograph of a usual size.
"""

from __future__ import annotations

import argparse
import io
import json
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance

from drhn_cli.codes.metrics import evaluate_retrieval
from drhn_cli.codes.pack import pack_bits
from drhn_cli.images.labelled import LabelledPaths, find_classes
from drhn_cli.images.load import load_image
from drhn_cli.jobs.model import choose_bits
from drhn_cli.network.bundled import find_weights
from drhn_cli.network.encode_numpy import NumpyEncoder
from drhn_cli.network.weights import load_weights

DEPTH = 100


def draw(seed: int, *names: str) -> float:
    """Return a number in 0..1 that follows from the names and the seed alone."""
    return int.from_bytes(sha256("/".join((str(seed), *names)).encode()).digest()[:8], "big") / 2**64


def split(photos: Path, out: Path, n_unseen: int, seed: int) -> None:
    classes = sorted(entry.name for entry in os.scandir(photos) if entry.is_dir())
    unseen = set(sorted(classes, key=lambda name: draw(seed, name))[:n_unseen])
    counts: dict[str, int] = {}
    for name in classes:
        for picture in sorted(os.listdir(photos / name)):
            drawn = draw(seed, name, picture)
            if name in unseen:
                part = "unseen/queries" if drawn < 0.2 else "unseen/gallery"
            else:
                part = "known/queries" if drawn < 0.05 else "train"
            target = out / part / name / picture
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to((photos / name / picture).resolve())
            counts[part] = counts.get(part, 0) + 1
    print(json.dumps({"unseen": sorted(unseen), "pictures": counts}))


def rivals(queries: Path, gallery: Path) -> None:
    import imagehash

    hashes: dict[str, Callable[[Image.Image], imagehash.ImageHash]] = {
        "phash": imagehash.phash,
        "dhash": imagehash.dhash,
        "whash": imagehash.whash,
        "colorhash": lambda picture: imagehash.colorhash(picture, binbits=4),
    }
    gallery_paths = find_classes(gallery)
    query_paths = find_classes(queries, class_names=gallery_paths.class_names, min_classes=1)
    for name, function in hashes.items():
        (query_codes, n_bits), (gallery_codes, _) = (
            hash_all(paths, function) for paths in (query_paths, gallery_paths)
        )
        found = evaluate_retrieval(
            query_codes, query_paths.labels, gallery_codes, gallery_paths.labels, n_bits=n_bits, depth=DEPTH
        )
        figures = {
            "mAP": found.mean_average_precision,
            f"mAP@{DEPTH}": found.mean_average_precision_at_depth,
            "precision@10": found.precision_at_k,
        }
        print(json.dumps({"codes": name, "bits": n_bits, **{key: round(value, 4) for key, value in figures.items()}}))


def hash_all(paths: LabelledPaths, function: Callable[[Image.Image], object]) -> tuple[NDArray[np.uint8], int]:
    """Return the packed codes of pictures by a function of imagehash, and their bits."""
    rows = []
    for path in paths.paths:
        with Image.open(os.fsdecode(path)) as picture:
            rows.append(np.asarray(function(picture.convert("RGB")).hash).ravel())  # type: ignore[attr-defined]
    bits = np.array(rows, dtype=bool)
    return pack_bits(bits), bits.shape[1]


def as_jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    def change(picture: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=quality)
        return Image.open(stream)

    return change


def watermark(picture: Image.Image) -> Image.Image:
    marked = picture.copy()
    ImageDraw.Draw(marked).text((24, picture.height - 90), "© drhn", fill="white", font_size=64)
    return marked


def cropped(share: float) -> Callable[[Image.Image], Image.Image]:
    def change(picture: Image.Image) -> Image.Image:
        x, y = (round(side * share / 2) for side in picture.size)
        return picture.crop((x, y, picture.width - x, picture.height - y))

    return change


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "halved": lambda picture: picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BILINEAR),
    "JPEG, quality 50": as_jpeg(50),
    "JPEG, quality 20": as_jpeg(20),
    "cropped by 5 %": cropped(0.05),
    "cropped by 10 %": cropped(0.10),
    "brighter by 20 %": lambda picture: ImageEnhance.Brightness(picture).enhance(1.2),
    "watermarked": watermark,
    "mirrored": lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned by 5 degrees": lambda picture: picture.rotate(5, Image.Resampling.BILINEAR),
    "in grey": lambda picture: picture.convert("L"),
}


def changes(folder: Path, model: str | None, n_bits: int | None, n_pictures: int, seed: int) -> None:
    weights = load_weights(find_weights(model))
    bits = choose_bits(n_bits, weights)
    encoder = NumpyEncoder(weights)
    paths = sorted(find_classes(folder, min_classes=1).paths, key=lambda path: draw(seed, path.decode()))[:n_pictures]
    originals = []
    for path in paths:
        with Image.open(os.fsdecode(path)) as picture:
            originals.append(picture.convert("RGB").resize((512, 512), Image.Resampling.BICUBIC))

    def codes_of(pictures: list[Image.Image]) -> NDArray[np.uint8]:
        pixels = []
        for picture in pictures:
            stream = io.BytesIO()
            picture.save(stream, "BMP")
            stream.seek(0)
            pixels.append(load_image(stream, weights.preprocessing))
        return encoder.codes(np.stack(pixels), bits)

    def report(name: str, distances: NDArray[np.integer]) -> None:
        low, median, high = np.percentile(distances, (1, 50, 99)).round(1).tolist()
        figures = {"mean": round(float(distances.mean()), 2), "1 %": low, "median": median, "99 %": high}
        print(json.dumps({"change": name, "bits": bits, **figures}))

    plain = codes_of(originals)
    for name, change in CHANGES.items():
        changed = codes_of([change(picture) for picture in originals])
        report(name, np.bitwise_count(plain ^ changed).sum(axis=1))
    others = np.bitwise_count(plain[:, None] ^ plain[None]).sum(axis=2)[~np.eye(len(plain), dtype=bool)]
    report("another picture", others)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("split")
    command.add_argument("photos", type=Path)
    command.add_argument("out", type=Path)
    command.add_argument("--unseen", type=int, default=30, help="classes to keep out")
    command.add_argument("--seed", type=int, default=0)
    command = commands.add_parser("rivals")
    command.add_argument("queries", type=Path)
    command.add_argument("gallery", type=Path)
    command = commands.add_parser("changes")
    command.add_argument("folder", type=Path)
    command.add_argument("--weights")
    command.add_argument("--bits", type=int)
    command.add_argument("--pictures", type=int, default=500)
    command.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.command == "split":
        split(options.photos, options.out, options.unseen, options.seed)
    elif options.command == "rivals":
        rivals(options.queries, options.gallery)
    else:
        changes(options.folder, options.weights, options.bits, options.pictures, options.seed)


if __name__ == "__main__":
    main()
