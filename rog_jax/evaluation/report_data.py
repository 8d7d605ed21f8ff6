"""What a report is made of: the files of an evaluation, read back."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

GROUPS = ("r", "c", "f")
GROUP_NAMES = {"all": "all", "r": "rare", "c": "common", "f": "frequent"}


class Evaluated(NamedTuple):
    """An evaluated run.

    Attributes:
        name: of its folder, for legends.
        folder: `WORKDIR/eval`.
        metrics: metrics.json, null as NaN.
        diagnosis: diagnosis.json, likewise.
        categories: the lines of per_class.csv.
    """

    name: str
    folder: Path
    metrics: dict[str, Any]
    diagnosis: dict[str, Any]
    categories: list[dict[str, str]]

    @property
    def kinds(self) -> list[str]:
        """Of "bbox" and "segm", what was evaluated."""
        return [kind for kind in ("bbox", "segm") if kind in self.metrics]

    @property
    def main_kind(self) -> str:
        """Masks where there are some, as the paper has it, or else boxes."""
        return self.kinds[-1]

    def column(self, name: str) -> np.ndarray:
        """A column of numbers of per_class.csv, NaN where it is empty."""
        return np.array([float(row[name]) if row[name] else math.nan for row in self.categories])


def read_runs(workdirs: Sequence[str | Path], diagnosed: bool = True) -> list[Evaluated]:
    """The evaluations of some runs, each with a name of its own.

    Args:
        workdirs: of the runs.
        diagnosed: whether each must have a diagnosis, which evaluations of OpenImages do without.

    Raises:
        FileNotFoundError: a run has not been evaluated.
        ValueError: a file is broken.
    """
    paths = [Path(workdir) for workdir in workdirs]
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return [_read(path / "eval", name, diagnosed) for path, name in zip(paths, names, strict=True)]


def _read(folder: Path, name: str, diagnosed: bool) -> Evaluated:
    metrics = _json(folder / "metrics.json")
    diagnosis = _json(folder / "diagnosis.json") if diagnosed else {}
    with (folder / "per_class.csv").open(encoding="utf-8", newline="") as file:
        categories = list(csv.DictReader(file))
    return Evaluated(name, folder, metrics, diagnosis, categories)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: run eval.py on that run first, with --config.test.report=True.")
    try:
        return _with_nan(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} is broken ({error}): run eval.py again.") from error


def _with_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    return math.nan if value is None else value
