"""Which edited copies ``drhn dups`` finds among photographs, and how many wrong pairs; beside phash and PDQ.

    python tests/benchmarks/copies.py PICTURES [--originals 3000] [--edited 60] [--work FOLDER]

Takes pictures at random, edits some of them in 18 ways, hashes all of them and groups them with ``drhn dups``. A copy
is found if it is in the group of its original. phash (64 bits, of imagehash) and PDQ (256 bits, of pdqhash) find it if
it is at most so far from its original that one pair of originals in a million is nearer. What was made in an earlier
run with the same ``--work`` is taken from there.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from drhn_cli.images.decode import decode_image
from drhn_cli.search.hamming import hamming_distances

Edit = Callable[[Image.Image], Image.Image]
FALSE_RATE = 1e-6


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def crop(image: Image.Image, share: float) -> Image.Image:
    width, height = (int(side * share**0.5) for side in image.size)
    x, y = random.randint(0, image.width - width), random.randint(0, image.height - height)
    return image.crop((x, y, x + width, y + height))


def watermark(image: Image.Image) -> Image.Image:
    image = image.copy()
    draw, (width, height) = ImageDraw.Draw(image, "RGBA"), image.size
    for i in range(4):
        place = width * (0.1 + 0.2 * i), height * (0.2 + 0.2 * i)
        draw.text(place, "SAMPLE", fill=(255, 255, 255, 150), font_size=max(12, width // 8))
    return image


def screenshot(image: Image.Image) -> Image.Image:
    width, height = image.size
    screen = Image.new("RGB", (int(width * 1.3), int(height * 1.9)), (18, 18, 20))
    draw = ImageDraw.Draw(screen)
    draw.rectangle((0, 0, screen.width, height // 8), fill=(240, 240, 245))
    draw.text((10, height // 24), "12:41   Photos", fill=(0, 0, 0), font_size=max(10, height // 20))
    screen.paste(image, ((screen.width - width) // 2, screen.height // 3))
    return screen


EDITS: dict[str, Edit] = {
    "halved": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
    "JPEG 20": lambda image: jpeg(image, 20),
    "20 % brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "contrast 1.4": lambda image: ImageEnhance.Contrast(image).enhance(1.4),
    "saturation 0.4": lambda image: ImageEnhance.Color(image).enhance(0.4),
    "gray": lambda image: ImageOps.grayscale(image).convert("RGB"),
    "blurred by 2 px": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
    "watermark": watermark,
    "cropped to 95 %": lambda image: crop(image, 0.95),
    "cropped to 90 %": lambda image: crop(image, 0.9),
    "cropped to 80 %": lambda image: crop(image, 0.8),
    "cropped to 50 %": lambda image: crop(image, 0.5),
    "border of 5 %": lambda image: ImageOps.expand(image, int(0.05 * max(image.size)), (255, 255, 255)),
    "padded square": lambda image: ImageOps.pad(image, (max(image.size),) * 2, color=(0, 0, 0)),
    "turned by 5 degrees": lambda image: image.rotate(5, Image.Resampling.BICUBIC, fillcolor=(0, 0, 0)),
    "turned by 90 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "mirrored": ImageOps.mirror,
    "screenshot": screenshot,
}


def write_pictures(folder: Path, sources: list[Path], n_edited: int) -> None:
    """Link the originals into ``o``, named by their numbers, and write edits of the first ones into ``e``."""
    for name in "oe":
        (folder / name).mkdir(parents=True)
    random.seed(1)
    for number, source in enumerate(sources):
        (folder / "o" / f"{number:05d}{source.suffix}").symlink_to(source.resolve())
        if number < n_edited:
            image = decode_image(source, rendering=2)
            for k, edit in enumerate(EDITS.values()):
                edit(image).save(folder / "e" / f"{k:02d}-{number:05d}.png")


def drhn(*arguments: object, output: Path | None = None) -> None:
    command = [sys.executable, "-m", "drhn_cli", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE if output else None, check=True)
    if output:
        output.write_bytes(done.stdout)


def original_of(path: str) -> int:
    return int(Path(path).stem[-5:])


def score_groups(groups: list[list[str]], n_edited: int) -> tuple[list[float], list[tuple[str, str]]]:
    """Return the recall of each edit, and the pairs of different originals in one group."""
    found, wrong = np.zeros(len(EDITS)), []
    for group in groups:
        originals = [path for path in group if Path(path).parent.name == "o"]
        numbers = set(map(original_of, originals))
        for path in group:
            if Path(path).parent.name == "e" and original_of(path) in numbers:
                found[int(Path(path).name[:2])] += 1
        wrong += list(combinations(originals, 2))
    return (found / n_edited).tolist(), wrong


def rival_recall(folder: Path, code: Callable[[Image.Image], np.ndarray]) -> list[float]:
    """Return the recall of each edit by a code and a radius."""

    def codes(name: str) -> dict[str, np.ndarray]:
        return {path.stem: code(decode_image(path, rendering=2)) for path in sorted((folder / name).iterdir())}

    originals, edited = codes("o"), codes("e")
    bits = np.stack(list(originals.values()))
    apart = hamming_distances(bits, bits)[np.triu_indices(len(bits), 1)]
    radius = np.sort(apart)[int(FALSE_RATE * len(apart))] - 1
    found = [[] for _ in EDITS]
    for name, each in edited.items():
        own = originals[name[3:]]
        found[int(name[:2])].append(hamming_distances(each[np.newaxis], own[np.newaxis])[0, 0] <= radius)
    return [float(np.mean(each)) for each in found]


def phash(image: Image.Image) -> np.ndarray:
    import imagehash

    return np.packbits(imagehash.phash(image).hash.ravel())


def pdq(image: Image.Image) -> np.ndarray:
    import pdqhash

    return np.packbits(pdqhash.compute(np.asarray(image))[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--originals", type=int, default=3000)
    parser.add_argument("--edited", type=int, default=60)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp())
    folder, codes, groups = work / "pictures", work / "codes.bin", work / "groups.json"
    if not folder.exists():
        sources = sorted(path for path in options.pictures.rglob("*.*") if path.is_file())
        random.seed(0)
        write_pictures(folder, random.sample(sources, options.originals), options.edited)
    if not codes.exists():
        drhn("hash", folder, "--follow", "-o", codes)
    if not groups.exists():
        drhn("dups", codes, "--json", "--no-cache", output=groups)
    found = [json.loads(line) for line in groups.read_text().splitlines()]
    recall, wrong = score_groups([[one["path"] for one in group["pictures"]] for group in found], options.edited)
    rivals = {"phash": rival_recall(folder, phash), "PDQ": rival_recall(folder, pdq)}
    print("| edit |", " | ".join(["drhn dups", *rivals]), "|")
    for row, name in enumerate(EDITS):
        print(f"| {name} |", " | ".join(f"{each[row]:.2f}" for each in (recall, *rivals.values())), "|")
    print("| mean |", " | ".join(f"{np.mean(each):.3f}" for each in (recall, *rivals.values())), "|")
    n_originals = len(os.listdir(folder / "o"))
    n_pairs = n_originals * (n_originals - 1) // 2
    share = f"{len(wrong) / n_pairs * 1e6:.1f} in 10^6"
    print(f"{len(wrong)} of {n_pairs:,} pairs of originals are in one group ({share}):")
    for pair in wrong:
        print(*pair)


if __name__ == "__main__":
    main()
