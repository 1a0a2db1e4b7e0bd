"""The settings of a stage of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from drhn_cli.errors import ConfigError
from drhn_cli.network.devices import Dtype
from drhn_cli.settings import Settings, setting

MIN_STEPS = 10
"""The fewest steps of an epoch, unless the batch size is given: with one step an epoch hardly learns anything."""

USUAL_BATCH = 500


def is_seed(value: Any) -> bool:
    """Return whether a value is a seed, 0..4294967295."""
    return type(value) is int and 0 <= value < 2**32


def _share(default: float, about: str) -> Any:
    return setting(default, about, "0 or more, below 1", lambda x: 0 <= x < 1)


def _weight(default: float, about: str) -> Any:
    return setting(default, about, "0 or more", lambda x: x >= 0)


def _rate(default: float, about: str) -> Any:
    return setting(default, about, "above 0", lambda x: x > 0)


def _count(least: int, about: str) -> Any:
    return setting(None, about, f"{least} or more", lambda n: type(n) is int and n >= least)


@dataclass(frozen=True, kw_only=True)
class Stage(Settings):
    """A stage of training. It goes on from the weights of the stage before it, with optimizers that start again."""

    kind: Literal["gradient", "itq"] = setting(
        "gradient",
        "how it is trained: by gradient descent on labels, or in closed form (PCA and ITQ) without any",
        "gradient or itq",
        lambda kind: kind in ("gradient", "itq"),
    )
    labels: bool = setting(True, "whether the class layer learns the names of folders; gradient descent has to")
    epochs: int = setting(30, "passes over the images", "1 or more", lambda n: n >= 1)
    batch_size: int | None = _count(2, f"images in a step; {USUAL_BATCH}, but at least {MIN_STEPS} steps an epoch")
    seed: int | None = setting(
        None, "of order and augmentation; the recipe's plus the number of earlier stages", "0..4294967295", is_seed
    )
    blocks: int | None = _count(1, "blocks in each group in this stage, if fewer than the network has in the end")
    block_scale: float = _weight(1.0, "initial batch-norm scale of the blocks that are new in this stage")
    muon_lr: float = _rate(0.12, "peak learning rate of Muon, for the convolutions of the blocks")
    lr: float = _rate(0.2, "peak learning rate of SGD, for everything else")
    momentum: float = _share(0.6, "momentum of Muon; SGD has 0.9")
    weight_decay: float = _weight(
        0.0005, "share of weights outside the blocks that a step at the peak rate takes away; falls with the rate"
    )
    warmup: float = _share(0.1, "share of the steps over which the rates rise from zero; then they fall linearly")
    swa: float = _share(0.0, "average the weights over this last share of the steps (SWA), at constant rates")
    sam_rho: float = _share(
        0.0, "radius of sharpness-aware minimization (SAM), relative to the weights; doubles the time"
    )
    sam_micro_batch: int = setting(
        125, "images that SAM, and so batch normalization, sees at a time", "2 or more", lambda n: n >= 2
    )
    label_smoothing: float = _share(0.2, "share of a label spread over all classes")
    quantization: float = _weight(0.3, "weight of the loss that pushes activations away from the threshold")
    prefix_similarity: float = _weight(0.0, "weight of the loss by which shorter codes rank as the longest does")
    distill_from: str | None = setting(
        None,
        "a bundled model, or an .npz with another network's features of the pictures",
        "a model or a file",
        lambda path: isinstance(path, str),
    )
    distill_weight: float = _weight(0.0, "weight of the loss by which the network predicts these features")
    distill_at: Literal["codes", "pooled"] = setting(
        "codes",
        "what predicts them: the codes, or the pooled features before the hash layer",
        "codes or pooled",
        lambda place: place in ("codes", "pooled"),
    )
    translate: int = setting(4, "largest shift of an image each way, in pixels", "0 or more", lambda n: n >= 0)
    cutout: int = setting(8, "side of the square that is blanked, in pixels; 0 for none", "0 or more", lambda n: n >= 0)
    random_resized_crop: float = setting(
        1.0,
        "smallest share of the area that a random crop keeps; 1 for no crops",
        "above 0, at most 1",
        lambda x: 0 < x <= 1,
    )
    color_jitter: float = _share(0.0, "largest relative change of brightness, contrast and saturation")
    flip: bool = setting(True, "mirror every image in every other epoch")
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto",
        "number format of matrix products; auto is bfloat16 where the hardware has it",
        "auto or float32 or bfloat16",
        lambda name: name in ("auto", *get_args(Dtype)),
    )

    @property
    def teacher(self) -> str | None:
        """The file that the stage distills from, if it does."""
        return self.distill_from if self.distill_weight else None

    def check(self) -> None:
        """Refuse settings that do not fit each other."""
        if self.distill_weight and not self.distill_from:
            raise ConfigError("distill_weight needs features", hint="name them: --set stage.distill_from=FILE.npz")
        if self.kind == "gradient" and not self.labels:
            hint = "fit codes to a pretrained trunk: --from photos2"
            raise ConfigError("gradient descent needs labels", hint=hint)
