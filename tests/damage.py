"""Pictures in every format that is decoded, and damage to them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from drhn_cli.images.formats import register_heif
from tests.drawing import draw_picture


def png_of_size(width: int, height: int) -> bytes:
    """Build a PNG that says it is this large, of zeros that end at once."""
    parts = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")):
        parts += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return parts


def encode_all(size: int = 16) -> list[tuple[str, bytes]]:
    """Return the same picture in every format, and in the variants that go other ways through the decoders.

    Returns:
        Pairs of a file name suffix and the file's content. HEIC is among them where it can be encoded.
    """
    image = draw_picture("circle", 1, size)
    deep = Image.fromarray(np.linspace(0, 65535, size * size).reshape(size, size).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [image.rotate(90)]}
    variants: list[tuple[Image.Image, str, dict[str, object]]] = [
        (image, "JPEG", {"exif": exif}),
        (image, "JPEG", {"progressive": True}),
        (image.convert("CMYK"), "JPEG", {}),
        (image, "MPO", frames),
        (image, "PNG", {"exif": exif}),
        (image.convert("P"), "PNG", {"transparency": 0}),
        (image.convert("RGBA"), "PNG", frames),
        (deep, "PNG", {}),
        (image, "GIF", frames),
        (image, "WEBP", {"exif": exif}),
        (image, "WEBP", {"lossless": True}),
        (image, "WEBP", frames),
        (image, "AVIF", {"exif": exif}),
        (image, "JPEG2000", {}),
        (image, "TIFF", {"exif": exif}),
        (image.convert("F"), "TIFF", {}),
        (image.convert("1"), "TIFF", {"compression": "group4"}),
        *((image, "TIFF", {"compression": name}) for name in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")),
        (image, "BMP", {}),
        (image.convert("P"), "BMP", {}),
        (image, "PPM", {}),
        (image.convert("1"), "PPM", {}),
    ]
    if register_heif():
        variants.append((image, "HEIF", {"exif": exif}))
    encoded = []
    for picture, name, options in variants:
        stream = io.BytesIO()
        picture.save(stream, name, **options)
        encoded.append((f".{_SUFFIXES.get(name, name.lower())}", stream.getvalue()))
    return encoded


_SUFFIXES = {"JPEG": "jpg", "JPEG2000": "jp2", "TIFF": "tif", "HEIF": "heic"}


def damage(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Return a picture with one to three things done to it that disks, networks and people do.

    Args:
        data: the picture.
        other: another one, parts of which may get into it.
        rng: decides what is done; the same state gives the same damage.
    """
    content = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        # Headers decide most, and are short: half the damage is there.
        place = int(rng.integers(min(len(content), 80)) if rng.random() < 0.5 else rng.integers(len(content)))
        length = int(rng.integers(1, 65))
        match rng.integers(9):
            case 0:
                content[place] ^= 1 << int(rng.integers(8))
            case 1:
                content[place] = int(rng.choice([0, 1, 127, 128, 255]))
            case 2:
                content[place : place + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\xff\xff"])
            case 3:
                content[place : place + length] = rng.bytes(length)
            case 4:
                content[place : place + length] = b""
            case 5:
                content[place:place] = rng.bytes(length)
            case 6:
                content[place:place] = content[place : place + length]
            case 7:
                content[place:] = other[place:]
            case 8:
                content[place:] = b""
        if not content:
            break
    return bytes(content)
