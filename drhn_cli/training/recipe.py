"""Recipes: the network, the preprocessing and the stages of a training run, read from TOML."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from drhn_cli.errors import ConfigError, about
from drhn_cli.files import os_errors
from drhn_cli.images.preprocess import Preprocessing
from drhn_cli.network.config import NetworkConfig
from drhn_cli.network.devices import Dtype
from drhn_cli.network.model import Model, load_model
from drhn_cli.network.pretrained import PRETRAINED, load_pretrained_trunk
from drhn_cli.network.weights_file import STAGE_NAMES
from drhn_cli.paths import bundled_folder, bundled_names
from drhn_cli.settings import Settings, refuse_unknown, require, setting
from drhn_cli.training.stage import MIN_STEPS, USUAL_BATCH, Stage, is_seed

DEFAULT, FINE_TUNE, OWN = "fast", "fine-tune", "own"
"""The bundled recipes for a run that names none: from scratch, and from weights of a residual or another trunk."""

_OF_START = ("trunk", "widths", "downsample_at", "downsample", "stem_stride", "hash_norm", "unit_features")
"""Settings that stay those of the weights to start from; of others, blocks can become more, and bits change."""

_OF_PICTURES = (
    *("label_smoothing", "translate", "cutout", "random_resized_crop", "color_jitter", "flip", "quantization"),
    "prefix_similarity",
)
"""Settings of a stage that depend on the kind of pictures, so a run inherits them from the weights it starts from."""

_OF_ONE_STAGE = ("seed", "blocks", "block_scale")
"""Settings that a stage does not inherit from the one before it."""

_PREPROCESSING = ("fit", "views", "shrink_gap", "rendering")
"""Settings of preprocessing that a recipe has; the input size is the network's, colors are those of the pictures."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Settings):
    """What a training run is made of.

    Attributes:
        name: of the bundled recipe, or the file's path.
        comment: the lines of comment at the top of the file.
        start: the model to start from; None: random weights.
        network: what the last stage trains; it has two classes until the pictures are known.
        preprocessing: of the model; training uses one view.
        stages: at least one.
    """

    name: str
    comment: str = ""
    seed: int = setting(0, "of the initial weights and the choice of validation images", "0..4294967295", is_seed)
    validation: float = setting(
        0.0,
        "share of each class that is held out and measured after every epoch",
        "0 up to, not including, 1",
        lambda share: 0 <= share < 1,
    )
    start: Model | None = None
    network: NetworkConfig
    preprocessing: Preprocessing
    stages: tuple[Stage, ...]

    def for_pictures(self, n_images: int, n_classes: int, preprocessing: Preprocessing, dtype: Dtype) -> Recipe:
        """Return the recipe with everything that the pictures and the device decide."""
        batch_size = max(2, min(USUAL_BATCH, n_images // MIN_STEPS))
        stages = tuple(
            replace(
                stage,
                batch_size=stage.batch_size or batch_size,
                seed=(self.seed + number) % 2**32 if stage.seed is None else stage.seed,
                dtype=dtype if stage.dtype == "auto" else stage.dtype,
            )
            for number, stage in enumerate(self.stages)
        )
        return replace(
            self, network=replace(self.network, n_classes=n_classes), preprocessing=preprocessing, stages=stages
        )

    @property
    def in_closed_form(self) -> bool:
        """Whether a layer is fitted in closed form, instead of gradient descent."""
        return any(stage.kind == "itq" for stage in self.stages)

    def check(self) -> None:
        """Refuse settings that do not fit each other."""
        side = self.network.input_size
        for stage in self.stages:
            for name in ("translate", "cutout"):
                require(getattr(stage, name) < side, name, f"below {side} pixels", getattr(stage, name))
            if stage.prefix_similarity and not self.network.nested:
                hint = "name them: --set network.nested=[12,24]"
                raise ConfigError("prefix_similarity trains shorter codes, and there are none", hint=hint)
        if self.in_closed_form:
            self._check_closed_form()
        elif self.network.trunk != "residual":
            hint = "start from weights of a residual network, or fit codes to it by --set stage.kind=itq"
            raise ConfigError("gradient descent trains residual networks", found=self.network.trunk, hint=hint)
        first = self.start.config.blocks if self.start else 1
        blocks = [self.network_of(number).blocks for number in range(len(self.stages))]
        grows = [first, *blocks] == sorted([first, *blocks]) and blocks[-1] == self.network.blocks
        require(grows, "blocks", f"{first} or more, rising to the network's {self.network.blocks}", blocks)

    def _check_closed_form(self) -> None:
        network, n_stages = self.network, len(self.stages)
        if n_stages > 1:
            raise ConfigError("a stage in closed form is the only one", found=f"{n_stages} stages")
        if network.trunk == "residual" or (self.start and self.start.config.trunk != network.trunk):
            hint = f"give it, and no other trunk: --from {PRETRAINED[-1]}"
            raise ConfigError("codes in closed form need a pretrained trunk", found=network.trunk, hint=hint)
        fits = not network.hash_norm and network.unit_features and network.threshold == 0.5 and not self.validation
        expected = "hash_norm false, unit_features true, threshold 0.5, validation 0"
        found = f"{network.hash_norm}, {network.unit_features}, {network.threshold}, {self.validation}".lower()
        require(fits, "a setting of codes in closed form", expected, found)

    def network_of(self, number: int) -> NetworkConfig:
        """Return the network of a stage, counted from 0."""
        blocks = self.network.blocks
        return replace(self.network, blocks=min(self.stages[number].blocks or blocks, blocks))

    def settings(self) -> dict[str, Any]:
        """Return the settings of training by their keys, such as ``stage.lr``; of several stages ``stage.2.lr``."""
        settings: dict[str, Any] = {"seed": self.seed, "validation": self.validation}
        for number, stage in enumerate(self.stages, 1):
            prefix = f"stage.{number}." if len(self.stages) > 1 else "stage."
            settings |= {prefix + name: value for name, value in stage.to_dict().items()}
        return settings

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON-ready values, in the shape of the TOML file."""
        start = self.start
        return {
            "name": self.name,
            "seed": self.seed,
            "validation": self.validation,
            **({"from": {"name": start.name, "fingerprint": start.fingerprint}} if start else {}),
            "network": self.network.to_dict(),
            "preprocessing": {name: getattr(self.preprocessing, name) for name in _PREPROCESSING},
            "stage": [{name: getattr(stage, name) for name in _shown(stage)} for stage in self.stages],
        }

    def to_toml(self) -> str:
        """Return the recipe as a TOML file with every setting, what it is about beside it."""
        lines = [self.comment, f"seed = {self.seed}", f"validation = {self.validation}"]
        if self.start:
            lines.append(f"from = {json.dumps(self.start.name)}")
        tables = [("[network]", self.network), ("[preprocessing]", self.preprocessing)]
        explained = set[str]()
        for heading, settings in [*tables, *(("[[stage]]", stage) for stage in self.stages)]:
            lines += ["", heading]
            for one in fields(settings):
                if "about" not in one.metadata or one.name not in _shown(settings):
                    continue
                value = getattr(settings, one.name)
                given = f"# {one.name} =" if value is None else f"{one.name} = {json.dumps(value)}"
                lines.append(given if one.name in explained else f"{given}  # {one.metadata['about']}")
                explained.add(one.name)
        return "\n".join(lines).lstrip() + "\n"


def _shown(settings: Settings) -> Collection[str]:
    """Return the names of the settings that a recipe file has."""
    if isinstance(settings, Preprocessing):
        return _PREPROCESSING
    if isinstance(settings, Stage):
        is_closed_form = settings.kind == "itq"
        return ("kind", "labels") if is_closed_form else [name for name in settings.to_dict() if name != "labels"]
    return settings.to_dict()


def bundled_recipes() -> list[str]:
    """Return the names of the bundled recipes."""
    return bundled_names(".toml")


def setting_of(option: str) -> str | None:
    """Return how to give a setting that somebody has typed as an option, such as ``--lr`` or, of old, ``--rate``."""
    name = option.removeprefix("--").removeprefix("no-").replace("-", "_")
    name = {**STAGE_NAMES, "tta": "views"}.get(name, name)
    value = "false" if option.startswith("--no-") else "..."
    for table, kind in {"network": NetworkConfig, "preprocessing": Preprocessing, "stage": Stage}.items():
        if any(one.name == name for one in fields(kind)):
            return f"--set {table}.{name}={value}"
    return None


def parse_change(text: str) -> tuple[str, Any]:
    """Return key and value of ``stage.lr=0.1``. The value is TOML, or text where it is none."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError("not a setting and its value", expected="such as stage.lr=0.1", found=text)
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def load_recipe(name: str | None = None, changes: Iterable[tuple[str, Any]] = ()) -> Recipe:
    """Read a recipe and check it, as far as that needs no pictures.

    Args:
        name: a bundled recipe or a TOML file. None: the default, or the one for the weights of ``from`` in the changes.
        changes: keys as ``seed``, ``network.bits``, ``stage.lr`` (of every stage) or ``stage.2.lr``, and new values.

    Raises:
        ConfigError: there is no such recipe, a setting is unknown or out of its range, or settings contradict.
        WeightsError: the weights to start from cannot be read.
    """
    changes = list(changes)
    given = next((str(value) for key, value in reversed(changes) if key == "from"), None)
    start = _load_start(given) if given else None
    name = name or (DEFAULT if not start else FINE_TUNE if start.config.trunk == "residual" else OWN)
    text = _read(name)
    with about(name):
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError("not TOML", found=str(error)) from error
        _check_tables(values)
    for key, value in changes:
        _change(values, key, value)
    if "from" in values and not start:
        start = _load_start(str(values["from"]))
    network = NetworkConfig.from_dict({"n_classes": 2, **_network_settings(start, values["network"])})
    refuse_unknown(values["preprocessing"], _PREPROCESSING, "preprocessing")
    usual = (start.preprocessing if start else Preprocessing()).to_dict()
    preprocessing = Preprocessing.from_dict({**usual, "size": network.input_size, **values["preprocessing"]})
    top = {key: values[key] for key in ("seed", "validation") if key in values}
    comment = "".join(takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True)))
    stages = tuple(_stages(values["stage"], start, network))
    return Recipe(
        name=name, comment=comment, start=start, network=network, preprocessing=preprocessing, stages=stages, **top
    )


def _load_start(name: str) -> Model:
    """Return the model to start from: one with a hash layer, or a pretrained trunk without."""
    if name not in PRETRAINED:
        return load_model(name)
    trunk = load_pretrained_trunk(name)
    return trunk.untrained_model(trunk.config)


def _read(name: str) -> str:
    """Return the text of a bundled recipe or a TOML file."""
    path = bundled_folder() / f"{name}.toml" if name in bundled_recipes() else Path(name)
    expected = f"a TOML file, or a bundled recipe ({', '.join(bundled_recipes())})"
    absent = ConfigError("no such recipe", path=name, expected=expected)
    with os_errors(ConfigError, "cannot read the recipe", path=path, absent=absent):
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError("not a recipe", path=path, expected=expected, found="other bytes than text") from error


def _check_tables(values: dict[str, Any]) -> None:
    """Refuse what is not a recipe; add the tables that are left out."""
    refuse_unknown(values, ("seed", "validation", "from", "network", "preprocessing", "stage"), "the recipe")
    for name in ("network", "preprocessing"):
        require(isinstance(values.setdefault(name, {}), dict), name, f"a table, [{name}]", values[name])
    stages = values.setdefault("stage", [{}])
    are_tables = isinstance(stages, list) and stages and all(isinstance(stage, dict) for stage in stages)
    require(bool(are_tables), "stage", "tables, [[stage]]", stages)


def _change(values: dict[str, Any], key: str, value: Any) -> None:
    """Set one key of a recipe's tables."""
    table, _, name = key.rpartition(".")
    number = table.removeprefix("stage.")
    if table in ("network", "preprocessing"):
        values[table][name] = value
    elif table == "stage":
        for stage in values["stage"]:
            stage[name] = value
    elif table != number and number.isdecimal() and 1 <= int(number) <= len(values["stage"]):
        values["stage"][int(number) - 1][name] = value
    elif not table and name in ("seed", "validation", "from"):
        values[name] = value
        if name == "seed":
            for stage in values["stage"]:
                stage.pop("seed", None)
    else:
        expected = "seed, validation, from, network.NAME, preprocessing.NAME, stage.NAME or stage.NUMBER.NAME"
        raise ConfigError("unknown setting", expected=expected, found=key)


def _network_settings(start: Model | None, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the network to start from, with the changes that its arrays allow.

    Where ``bits`` is changed and ``nested`` is not, the shorter code lengths below it are kept.
    """
    if not start:
        return dict(changes)
    settings = start.config.to_dict()
    del settings["n_classes"]
    for name in () if start.is_bare_trunk else _OF_START:  # a trunk alone has no hash layer to fit
        value, given = getattr(start.config, name), changes.get(name)
        if given is not None and (tuple(given) if isinstance(given, list) else given) != value:
            expected, found, hint = str(value), str(given), "leave it out, or leave out --from"
            raise ConfigError(f"{name} is that of the weights to start from", expected=expected, found=found, hint=hint)
    settings |= changes
    if "bits" in changes and "nested" not in changes:
        settings["nested"] = [length for length in settings["nested"] if length < settings["bits"]]
    return settings


def _stages(tables: list[dict[str, Any]], start: Model | None, network: NetworkConfig) -> Iterator[Stage]:
    """Yield the stages, each with what it inherits from the one before it, the first from the weights to start from."""
    last = start.training[-1]["recipe"]["stage"][-1] if start and start.training else {}
    settings = {
        name: last[name] for name in _OF_PICTURES if name in last and (network.nested or name != "prefix_similarity")
    }
    for table in tables:
        if old := sorted(STAGE_NAMES.keys() & table.keys()):
            hint = "it has another name now"
            raise ConfigError(f"a stage has no {old[0]}", expected=STAGE_NAMES[old[0]], hint=hint)
        settings |= table
        if "distill_from" in table and "distill_weight" not in settings:
            raise ConfigError("distill_from needs a weight", hint="give it: --set stage.distill_weight=1")
        yield Stage.from_dict(settings)
        settings = {name: value for name, value in settings.items() if name not in _OF_ONE_STAGE}
