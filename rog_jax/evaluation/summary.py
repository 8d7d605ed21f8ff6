"""Metrics as a table on the screen, as json, and one line per category as csv."""

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
PER_CLASS_COLUMNS = (
    "category_id",
    "name",
    "frequency",
    "train_images",
    "train_instances",
    "bbox_AP",
    "segm_AP",
)


def format_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of at most 80 columns, in percent: a row for each of "bbox" and "segm" that is there.

    Args:
        metrics: what `evaluate_lvis` returned, by kind. A figure that is not defined (no category of the group has an
            object to find) is shown as "-".
    """
    header = " " * 6 + "".join(f"{name:>8}" for name in COLUMNS)
    rows = [f"{kind:<6}" + "".join(f"{_percent(metrics[kind][name]):>8}" for name in COLUMNS) for kind in metrics]
    return "\n".join([header, *rows])


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def write_metrics(folder: str | Path, metrics: Mapping[str, Any]) -> Path:
    """Writes `metrics.json`; figures that are not defined become null, since json has no NaN.

    Args:
        folder: made if it is not there.
        metrics: what `evaluate_lvis` returned, by kind, and whatever else json can hold.
    """
    path = Path(folder) / "metrics.json"
    _write_whole(path, json.dumps(_jsonable(metrics), indent=2, allow_nan=False) + "\n")
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
        metrics: what `evaluate_lvis` returned, by kind ("bbox", "segm").
    """
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(PER_CLASS_COLUMNS)
    for category in categories:
        known = [category.get(key, "") for key in ("id", "name", "frequency", "image_count", "instance_count")]
        writer.writerow(known + [_category_ap(metrics, kind, category["id"]) for kind in ("bbox", "segm")])
    path = Path(folder) / "per_class.csv"
    _write_whole(path, text.getvalue())
    return path


def _category_ap(metrics: Mapping[str, Mapping[str, Any]], kind: str, category_id: int) -> str:
    value = metrics.get(kind, {}).get("per_category", {}).get(category_id)
    return "" if value is None else f"{value:.6f}"


def _write_whole(path: Path, text: str) -> None:
    """Writes a file that is never seen half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
