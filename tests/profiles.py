"""Color profiles (ICC.1, version 2) built by hand, and pictures in the spaces that they describe."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

_D50 = (0.9642, 1.0, 0.8249)

SPACES: dict[str, tuple[list[list[float]], float | None]] = {
    "srgb": ([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]], None),
    "p3": ([[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]], None),
    "adobe": ([[0.6097, 0.2053, 0.1492], [0.3111, 0.6257, 0.0632], [0.0195, 0.0609, 0.7446]], 2.19921875),
    "prophoto": ([[0.7977, 0.1352, 0.0313], [0.2880, 0.7119, 0.0001], [0.0, 0.0, 0.8249]], 1.8),
}
"""Red, green and blue in XYZ of D50, as columns, and the exponent of the curve; None for that of sRGB."""


def to_space(picture: Image.Image, name: str) -> Image.Image:
    """Return a picture of sRGB with its colors written as another space's numbers, mode ``RGB``."""
    matrix, exponent = SPACES[name]
    light = _to_light(np.asarray(picture.convert("RGB")) / 255.0, None)
    other = np.clip(light @ np.array(SPACES["srgb"][0]).T @ np.linalg.inv(np.array(matrix)).T, 0, 1)
    if exponent is None:
        values = np.where(other <= 0.0031308, other * 12.92, 1.055 * other ** (1 / 2.4) - 0.055)
    else:
        values = other ** (1 / exponent)
    return Image.fromarray(np.rint(values * 255).astype(np.uint8))


def matrix_profile(name: str) -> bytes:
    """Return the profile of a space by its primaries and curve."""
    matrix, exponent = SPACES[name]
    columns = dict(zip("rgb", zip(*matrix, strict=True), strict=True))
    tags = {f"{channel}XYZ": _xyz(column) for channel, column in columns.items()}
    return _profile({"wtpt": _xyz(_D50), **tags, **dict.fromkeys(("rTRC", "gTRC", "bTRC"), _curve(exponent))}, b"RGB ")


def gray_profile(exponent: float) -> bytes:
    """Return the profile of grays with a power curve."""
    return _profile({"wtpt": _xyz(_D50), "kTRC": _curve(exponent)}, b"GRAY")


def print_profile() -> bytes:
    """Return the profile of a press with cyan and yellow swapped: a table to Lab, of 2 points an ink."""
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    table = b""
    for place in range(16):
        cyan, magenta, yellow, key = (place >> 3 & 1, place >> 2 & 1, place >> 1 & 1, place & 1)
        shown = tuple(255 * (1 - ink) * (1 - key) for ink in (yellow, magenta, cyan))
        table += bytes(to_lab.apply(Image.new("RGB", (1, 1), shown)).getpixel((0, 0)))
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    ramp = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + 4 * ramp + table + 3 * ramp
    return _profile({"wtpt": _xyz(_D50), "A2B0": lut}, b"CMYK", b"Lab ", b"prtr")


def _to_light(values: NDArray[np.float64], exponent: float | None) -> NDArray[np.float64]:
    if exponent is not None:
        return values**exponent
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def _curve(exponent: float | None) -> bytes:
    if exponent is not None:
        return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(exponent * 256))
    table = np.rint(_to_light(np.linspace(0, 1, 1024), None) * 65535).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", 1024) + table.tobytes()


def _profile(tags: dict[str, bytes], colors: bytes, connection: bytes = b"XYZ ", kind: bytes = b"mntr") -> bytes:
    text = b"drawn\0"
    tags = {"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78), **tags}
    at = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name.encode() + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(
        ">4sI4s4s4s6H4s4s", b"lcms", 0x02400000, kind, colors, connection, *(2026, 1, 1, 0, 0, 0), b"acsp", b"APPL"
    )
    head += bytes(24) + struct.pack(">3i", *(round(value * 65536) for value in _D50))
    head = head.ljust(124, b"\0")
    return struct.pack(">I", 128 + len(table) + len(body)) + head + table + body
