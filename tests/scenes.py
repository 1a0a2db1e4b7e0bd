"""Drawn pictures with structure everywhere, as photographs have it, and code files of them without a network."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from drhn_cli.codes.entries import CONTENT_DTYPE, UNKNOWN_TIME, Entries
from drhn_cli.codes.manifest import CodeManifest, CopyCodes
from drhn_cli.codes.writer import write_code_file
from drhn_cli.files import FileStamp
from drhn_cli.images.decode import decode_image
from drhn_cli.network.copy_code import DCT_VERSION, dct_signs


def draw_scene(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Draw soft blobs of colors with ellipses and rectangles on them: another seed gives another picture."""
    rng = np.random.default_rng(seed)
    blobs = rng.integers(0, 236, (12, 16, 3), dtype=np.uint8)
    image = Image.fromarray(blobs).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(60):
        x, y = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        w, h = rng.uniform(4, 40, 2)
        color = tuple(rng.integers(0, 256, 3).tolist())
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)((x, y, x + w, y + h), fill=color)
    return image


def write_codes(folder: Path, path: str = "codes.bin") -> str:
    """Write a code file of all files in a folder, as ``drhn hash`` does.

    Files whose names begin with a digit have codes of their own, which are far apart; all others have that of 0.
    """
    paths = sorted(os.fsencode(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file())
    digits = [name[:1] if (name := os.path.basename(each)[:1]).isdigit() else b"0" for each in paths]
    codes = np.array([[37 * int(digit) % 256] * 8 for digit in digits], np.uint8)
    stamps, contents, signs = [], np.zeros(len(paths), CONTENT_DTYPE), []
    for row, name in enumerate(paths):
        absolute = os.path.join(os.fsencode(folder), name)
        stamps.append(FileStamp.of(os.stat(absolute)))
        image = decode_image(absolute, rendering=2)
        signs.append(dct_signs(np.asarray(image)))
        digest = hashlib.sha256(Path(os.fsdecode(absolute)).read_bytes()).digest()[:16]
        contents[row] = (digest, *image.size, UNKNOWN_TIME)
    manifest = CodeManifest(
        root=os.fsdecode(os.path.abspath(folder)),
        n_bits=64,
        model="none",
        fingerprint="0" * 64,
        copy_codes=CopyCodes(dct=DCT_VERSION),
    )
    entries = Entries.from_stamps(paths, stamps, contents)
    write_code_file(path, codes, entries, manifest, np.array(signs))
    return path
