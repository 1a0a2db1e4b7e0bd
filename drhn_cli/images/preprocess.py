"""Preprocessing, and pictures fitted to the network's square input. Numpy and Pillow are imported for the first one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from drhn_cli.settings import Settings, require, setting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

Fit = Literal["crop", "squash", "pad"]

PAD_GREY = (128, 128, 128)

_BICUBIC = 3
"""``PIL.Image.Resampling.BICUBIC``: Pillow widens the filter when it shrinks, so this is antialiased. It keeps edges
without the ringing of Lanczos."""

_Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Settings):
    """How a picture becomes the network's input. Part of the fingerprint: another preprocessing makes other codes.

    With one view a picture's input is the picture, or its central square (``crop``). With two it is the picture and its
    mirror image, or a square on each side of the center, the second one mirrored, which cover a picture up to twice as
    long as wide. ``mean`` and ``std`` are those of the training pixels, in 0..1, in RGB order.

    Raises:
        ConfigError: a value is out of its range.
    """

    size: int = setting(32, "side of the square input, in pixels", "8..1024 pixels", lambda n: 8 <= n <= 1024)
    fit: Fit = setting(
        "crop",
        "how a picture that is not square fits: crop a square of it, squash it, or pad it with gray",
        " or ".join(get_args(Fit)),
        lambda way: way in get_args(Fit),
    )
    mean: tuple[float, float, float] = (0.4914, 0.4822, 0.4465)
    std: tuple[float, float, float] = (0.2470, 0.2435, 0.2616)
    views: int = setting(
        1, "inputs of a picture whose activations are averaged; training uses one", "1 or 2", lambda n: n in (1, 2)
    )
    shrink_gap: int = setting(
        4,
        "decode a JPEG at reduced size if so many of its pixels remain for each of the input, each way; 0: never",
        "a whole number in 0..64",
        lambda n: 0 <= n <= 64,
    )
    rendering: int = setting(
        1,
        "how transparency, color profiles and animations become pixels; 1: white, ignored, the first frame; 2: a "
        "background that shows the drawing, converted to sRGB, the first frame that is not blank",
        "1 or 2",
        lambda n: n in (1, 2),
    )

    def check(self) -> None:
        """Refuse channel statistics that are out of their range."""
        require(len(self.mean) == 3 and all(0 <= m <= 1 for m in self.mean), "mean", "three values in 0..1", self.mean)
        require(len(self.std) == 3 and all(0 < s <= 1 for s in self.std), "std", "three values above 0", self.std)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-ready values; ``views`` and ``rendering`` of 1 are not in old fingerprints."""
        values = super().to_dict()
        return {name: value for name, value in values.items() if name not in ("views", "rendering") or value != 1}

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a picture's input: its views one below the other."""
        return self.views * self.size, self.size, 3

    @property
    def min_decoded_side(self) -> int | None:
        """Minimum side of a JPEG decoded at reduced size, in pixels; None: full size."""
        return self.shrink_gap * self.size or None


def fit_image(
    image: Image.Image, preprocessing: Preprocessing, *, scale: int = 1, margins: _Box = (0, 0, 0, 0)
) -> NDArray[np.uint8]:
    """Bring a picture to size x size pixels.

    ``crop`` takes the largest square at the centre (with two views, the squares on both sides of it), ``squash``
    ignores the shape, ``pad`` fills up with mid-grey. A picture that has the size already is left as it is,
    bit for bit. The second view is mirrored. The image has mode ``RGB``; for ``scale`` and ``margins`` see ``Decoded``:
    whole pixels of the file are cut out. Returns (views * size, size, 3) pixels in 0..255, one view below the other.
    """
    import numpy as np

    size = preprocessing.size
    left, top, right, bottom = margins
    box = (left, top, image.width - right, image.height - bottom)
    if preprocessing.fit == "pad":
        views = [np.array(_pad(image, size, box))]
    else:
        boxes = _squares(box, scale, preprocessing.views) if preprocessing.fit == "crop" else [box]
        # Nothing outside the box is resampled, however long the picture.
        views = [np.array(image.resize((size, size), _BICUBIC, box=box)) for box in boxes]
    return views[0] if preprocessing.views == 1 else np.concatenate([views[0], views[-1][:, ::-1]])


def _squares(box: _Box, scale: int, n_views: int) -> list[_Box]:
    """Return the square at the centre, or those on both sides of it; one if they are the same."""
    # Whole pixels: half a pixel off would blur a picture that needs no resampling.
    width, height = (round(side * scale) for side in _sides(box))
    side = min(width, height)
    n_beyond = max(width, height) - side
    shift = 0 if n_views == 1 else min(n_beyond // 2, side // 2)
    squares = []
    for start in sorted({n_beyond // 2 - shift, n_beyond // 2 + shift}):
        x, y = (start, 0) if width > height else (0, start)
        left, top = box[0] + x / scale, box[1] + y / scale
        squares.append((left, top, left + side / scale, top + side / scale))
    return squares


def _pad(image: Image.Image, size: int, box: _Box) -> Image.Image:
    from PIL import Image

    sides = _sides(box)
    width, height = (max(1, round(side * size / max(sides))) for side in sides)
    canvas = Image.new("RGB", (size, size), PAD_GREY)
    canvas.paste(image.resize((width, height), _BICUBIC, box=box), ((size - width) // 2, (size - height) // 2))
    return canvas


def _sides(box: _Box) -> tuple[float, float]:
    left, top, right, bottom = box
    return right - left, bottom - top
