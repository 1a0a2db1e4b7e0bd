"""Find the weights that belong to a code file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drhn_cli.codes.manifest import IMPORTED_FINGERPRINT
from drhn_cli.errors import CodeFileError, ConfigError, display_path
from drhn_cli.network.bundled import find_weights, find_weights_of
from drhn_cli.network.weights_file import Weights, load_weights

if TYPE_CHECKING:
    from drhn_cli.retrieval.gallery import Gallery


def load_weights_of(file: Gallery, name: str | None) -> Weights:
    """Return the weights that made a code file, with as many views of a picture.

    Args:
        file: an open code file or table.
        name: a bundled model's name or a weights file. None: the bundled model that made the file.

    Raises:
        CodeFileError: the codes were made with other weights, with ones that are not bundled, or by no network.
        WeightsError: the weights cannot be read.
    """
    manifest = file.manifest
    if manifest.fingerprint == IMPORTED_FINGERPRINT:
        raise CodeFileError(
            "no network made these codes: they were imported",
            path=file.path,
            hint="look up a code with --code or a path that the file holds, and hash pictures into another file",
        )
    n_views = 2 if manifest.preprocessing.get("views") == 2 else 1
    if name is None:
        weights = find_weights_of(manifest.fingerprint, name=manifest.model, n_views=n_views)
    else:
        weights = load_weights(find_weights(name)).with_views(n_views)
    if weights is None or weights.fingerprint != manifest.fingerprint:
        raise CodeFileError(
            "the codes were made with another model",
            path=file.path,
            expected=f"{manifest.model} ({manifest.fingerprint[:12]})",
            found=f"{weights.name} ({weights.fingerprint[:12]})" if weights else "no bundled model of that fingerprint",
            hint="name the weights it was made with by --weights FILE, or hash again with --rebuild",
        )
    return weights


def choose_bits(n_bits: int | None, weights: Weights) -> int:
    """Return the code length to make: the one asked for, or the network's longest.

    Raises:
        ConfigError: the network was not trained for that length.
    """
    lengths = weights.network.code_lengths
    if n_bits is None:
        return lengths[-1]
    if n_bits not in lengths:
        raise ConfigError(
            f"{display_path(weights.name)} makes no codes of {n_bits} bits",
            expected=" or ".join(map(str, lengths)),
            hint="choose one of these with --bits, or train a network for that length",
        )
    return n_bits
