"""TIFF files of kinds that Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence


def build_tiff(
    width: int,
    height: int,
    bits: Sequence[int],
    photometric: int,
    pieces: Sequence[bytes],
    order: str = "<",
    *,
    planar: int = 1,
    compression: int = 1,
    form: int | None = None,
    extra: int | None = None,
) -> bytes:
    """Build a TIFF file of one strip, or one for each plane.

    Args:
        width: in pixels.
        height: in pixels.
        bits: of each channel.
        photometric: 0 and 1 are gray, 2 is RGB, 5 CMYK, 8 Lab.
        pieces: the strips, not compressed, in the order of ``order``.
        order: ``<`` or ``>``.
        planar: 2 for separate planes.
        compression: 1 for none, 8 for deflate.
        form: of a sample: 1 unsigned, 2 signed, 3 float. None: not said.
        extra: what the last channel is: 0 unknown, 1 alpha that the colors are multiplied with, 2 alpha.
    """
    strips = [zlib.compress(piece) if compression == 8 else piece for piece in pieces]
    data = bytearray(struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 0))

    def put(content: bytes) -> int:
        data.extend(bytes(len(data) % 2))
        data.extend(content)
        return len(data) - len(content)

    places = [put(strip) for strip in strips]
    tags: dict[int, tuple[str, Sequence[int]]] = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", bits),
        259: ("H", [compression]),
        262: ("H", [photometric]),
        273: ("I", places),
        277: ("H", [len(bits)]),
        278: ("I", [height]),
        279: ("I", [len(strip) for strip in strips]),
        284: ("H", [planar]),
    }
    if extra is not None:
        tags[338] = ("H", [extra])
    if form is not None:
        tags[339] = ("H", [form] * len(bits))
    directory = struct.pack(order + "H", len(tags))
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}{kind}", *values)
        value = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(order + "I", put(packed))
        directory += struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[kind], len(values)) + value
    struct.pack_into(order + "I", data, 4, put(directory + bytes(4)))
    return bytes(data)
