"""``drhn weights``."""

from __future__ import annotations

from drhn_cli.cli import options
from drhn_cli.cli.output import format_number, write_json, write_rows


def weights(
    *,
    json: options.Json = False,
    quiet: options.Quiet = False,  # noqa: ARG001 - there is nothing to leave out
) -> None:
    """List the bundled models and their measured mAP.

    drhn weights
    """
    from drhn_cli.network.model import DEFAULT, bundled_paths, load_model

    models = [load_model(path).describe() for path in bundled_paths()]
    if json:
        for model in models:
            write_json({**model, "default": model["name"] == DEFAULT})
    else:
        rows = [
            [
                model["name"],
                " ".join(map(str, model["bits"])),
                str(len(model["classes"])),
                format_number(_best_map(model)),
                "default" if model["name"] == DEFAULT else "",
            ]
            for model in models
        ]
        write_rows(["model", "bits", "classes", "mAP", ""], rows)


def _best_map(model: dict[str, object]) -> float | None:
    """Return the measured mAP at the longest code length."""
    measured = model["measured"]
    lengths = measured.get("lengths", {}) if isinstance(measured, dict) else {}
    if not lengths:
        return None
    return float(lengths[max(lengths, key=int)]["mean_average_precision"])
