"""A folder of drawn pictures, ordinary and odd ones, with the same sizes and times on every machine."""

from __future__ import annotations

import io
import os
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from tests.archives import write_tar
from tests.drawing import draw_gradient, draw_picture

TIME_NS = 1_600_000_000_000_000_000


def _encoded(picture: Image.Image, format_name: str, size: int, **settings: object) -> bytes:
    """Return a picture file, filled up to a size that no version of a compressor changes."""
    stream = io.BytesIO()
    picture.save(stream, format_name, **settings)
    assert len(stream.getvalue()) < size
    return stream.getvalue().ljust(size, b"\0")


def write_pictures() -> None:
    """Write ``pictures`` and, for queries, ``new.png`` in the working directory, all with known sizes and times."""
    circle, turned = draw_picture("circle", 0, 24), Image.Exif()
    turned[0x0112] = 6
    alpha = draw_picture("square", 5, 24).convert("RGBA")
    alpha.putalpha(Image.fromarray(np.arange(24 * 24, dtype=np.uint16).reshape(24, 24).astype(np.uint8)))
    deep = Image.fromarray((np.arange(24 * 24) * 113 % 65536).astype(np.uint16).reshape(24, 24))
    grey = draw_picture("checker", 6, 24).convert("P")
    png = _encoded(draw_picture("stripes", 9, 24), "PNG", 4000)
    files = {
        **{f"pictures/circle/{i}.png": _encoded(draw_picture("circle", i, 24), "PNG", 4010 + i) for i in range(3)},
        **{f"pictures/stripes/{i}.png": _encoded(draw_picture("stripes", i, 24), "PNG", 4020 + i) for i in range(3)},
        "pictures/nested/deep/square.webp": _encoded(draw_picture("square", 0, 24), "WEBP", 4030, lossless=True),
        "pictures/nested/copy.png": _encoded(circle, "PNG", 4010),
        "pictures/nested/again.jpg": _encoded(circle, "JPEG", 4040, quality=95),
        "pictures/alpha.png": _encoded(alpha, "PNG", 5000),
        "pictures/deep.tif": _encoded(deep, "TIFF", 5010),
        "pictures/grey.gif": _encoded(grey, "GIF", 5020),
        "pictures/turned.jpg": _encoded(draw_gradient(40, 20), "JPEG", 5030, quality=95, exif=turned),
        "pictures/wide.bmp": _encoded(draw_gradient(60, 20), "BMP", 5040),
        os.fsdecode(b"pictures/caf\xe9.png"): _encoded(draw_picture("checker", 7, 24), "PNG", 5050),
        "pictures/.hidden.png": _encoded(draw_picture("checker", 8, 24), "PNG", 5060),
        "pictures/damaged.png": png[:300],
        "pictures/empty.png": b"",
        "pictures/text.jpg": b"no picture\n",
        "pictures/notes.txt": b"not looked at\n",
        "new.png": _encoded(draw_picture("circle", 1, 24).rotate(3), "PNG", 6000),
    }
    for name, content in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content)
    members = [
        ("a/0.png", _encoded(draw_picture("square", 1, 24), "PNG", 4100)),
        ("a/0.txt", b"square"),
        ("b.png", png),
    ]
    write_tar("pictures/packed.tar", members)
    for name, moment in zip(sorted([*files, "pictures/packed.tar"]), count(), strict=False):
        os.utime(name, ns=(TIME_NS, TIME_NS + moment))
