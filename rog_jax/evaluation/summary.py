"""Metrics as a table on the screen, as json, and one line per category as csv."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from rog_jax.training.storage import whole_file

SCHEMA = 1
"""Version of the layout of metrics.json (docs/evaluation.md); it changes where a reader of the old one would fail."""
COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
OPENIMAGES_COLUMNS = ("AP50", "AP50_1", "AP50_2", "AP50_3", "AP50_4", "AP50_5")
KINDS = ("bbox", "segm")
CATEGORY_KEYS = ("id", "name", "frequency", "image_count", "instance_count")
PER_CLASS_COLUMNS = (
    *("category_id", "name", "group", "train_images", "train_instances"),
    *(f"{kind}_{figure}" for kind in KINDS for figure in ("AP", "AP50", "detections")),
)
_LABEL_WIDTH, _COLUMN_WIDTH = 15, 7


def format_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of at most 80 columns, in percent: a row for each of "bbox" and "segm" that is there, and one for each
    of AP-fixed, AP-pool and boundary AP under it.

    Args:
        metrics: what `figures_of_file` returned, by kind. A figure that is not defined (no category of the group has an
            object to find) or not part of a row is shown as "-".
    """
    columns = COLUMNS if any("AP" in figures for figures in metrics.values()) else OPENIMAGES_COLUMNS
    header = " " * _LABEL_WIDTH + "".join(f"{name:>{_COLUMN_WIDTH}}" for name in columns)
    rows = []
    for kind, figures in metrics.items():
        names = ("fixed", "pooled", "boundary")
        rows.append(_row(kind, figures, columns))
        rows += [_row(f"{kind} {name}", figures[name], columns) for name in names if name in figures]
    return "\n".join([header, *rows])


def _row(label: str, figures: Mapping[str, Any], columns: Sequence[str]) -> str:
    cells = "".join(f"{_percent(figures.get(name, math.nan)):>{_COLUMN_WIDTH}}" for name in columns)
    return f"{label:<{_LABEL_WIDTH}}{cells}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def format_supply(metrics: Mapping[str, Mapping[str, Any]], max_detections: int) -> str:
    """Lines that say which limits the rows of a table had, "" without a row of AP-fixed."""
    fixed = {kind: figures["fixed"] for kind, figures in metrics.items() if "fixed" in figures}
    if not fixed:
        return ""
    limit = "all detections" if max_detections == -1 else f"best {max_detections} of an image"
    counts = ", ".join(
        f"{kind} {found['scarce_categories']} of {found['evaluated_categories']}" for kind, found in fixed.items()
    )
    return (
        f"Limits: {limit}; fixed: best 10,000 of a category; pooled: none.\n"
        f"Categories with fewer than 10,000 detections: {counts}."
    )


def write_metrics(folder: str | Path, metrics: Mapping[str, Any]) -> Path:
    """Writes `metrics.json`; figures that are not defined become null, since json has no NaN.

    Args:
        folder: made if it is not there.
        metrics: what `figures_of_file` returned, by kind, and whatever else json can hold.
    """
    return write_json(Path(folder) / "metrics.json", {"schema": SCHEMA} | dict(metrics))


def write_json(path: Path, content: Mapping[str, Any], indent: int | None = 2) -> Path:
    """Writes a json file that is never seen half written; NaN becomes null. Without an indent it is one line."""
    separators = (",", ":") if indent is None else None
    _write_whole(path, json.dumps(_jsonable(content), indent=indent, separators=separators, allow_nan=False) + "\n")
    return path


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_per_class(
    folder: str | Path, categories: Sequence[Mapping[str, Any]], metrics: Mapping[str, Mapping[str, Any]]
) -> Path:
    """Writes `per_class.csv`, a line for each category in the given order; what is not known or not defined is empty.

    Args:
        folder: made if it is not there.
        categories: records of an LVIS json (`Truth.categories`): "id", and where known "name", "frequency",
            "image_count" and "instance_count" of the training set.
        metrics: what `figures_of_file` returned, by kind ("bbox", "segm").
    """
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(PER_CLASS_COLUMNS)
    for category in categories:
        known = [category.get(key, "") for key in CATEGORY_KEYS]
        writer.writerow(known + [cell for kind in KINDS for cell in _cells(metrics.get(kind, {}), category["id"])])
    path = Path(folder) / "per_class.csv"
    _write_whole(path, text.getvalue())
    return path


def _cells(figures: Mapping[str, Any], category_id: int) -> list[str]:
    ap, ap50 = (figures.get(key, {}).get(category_id) for key in ("per_category", "per_category_AP50"))
    detections = figures.get("detections_per_category", {}).get(category_id, "")
    return [*("" if value is None else f"{value:.6f}" for value in (ap, ap50)), str(detections)]


def _write_whole(path: Path, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
