"""What is kept of a finished run: one small json, from which all tables and plots are made."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rog_jax.evaluation.bootstrap import bootstrap_figures
from rog_jax.evaluation.lvis import read_both
from rog_jax.evaluation.report_data import Evaluated, read_runs
from rog_jax.evaluation.summary import OPENIMAGES_COLUMNS, write_json
from rog_jax.evaluation.sweep import read_sweep
from rog_jax.tools.plot_log import read_log
from rog_jax.tools.reproduce.places import Places
from rog_jax.tools.reproduce.runs import Run
from rog_jax.training.checkpoint import flattened
from rog_jax.training.initial import load_initial

SCHEMA = 1
_KEYS = {"schema", "spent", "steps", "commit", "backbone", "figures", "sweep", "categories", "classifier", "replicates"}
KINDS = ("bbox", "segm")
FIGURES = ("AP", "APr", "APc", "APf")
_MORE = ("AP50", "AP75", *(name for name in OPENIMAGES_COLUMNS if name != "AP50"))
_COLUMNS = ("category_id", "name", "group", "train_images", "train_instances")
_DIGITS = 5  # significant ones, of what is kept of each category


class RecordError(ValueError):
    """A record is broken, or of another run than its name says."""


class Record(NamedTuple):
    """A finished run.

    Attributes:
        path: of the json.
        content: of it; `collect` says what there is.
    """

    path: Path
    content: dict[str, Any]

    @property
    def backbone(self) -> str:
        """The digest of the weights that the run started from; "none" where it began from scratch."""
        return self.content["backbone"] or "none"

    def figures(self, kind: str, gamma: float | None = None, cap: int | None = None) -> dict[str, Any]:
        """Figures in fractions of 1, NaN where one is not defined; {} where the run has none of that kind. The recipe's
        own have those of "fixed" and "pooled" too.

        Args:
            kind: "bbox" or "segm".
            gamma: of NorCal, from the sweep; None for the recipe's own evaluation.
            cap: detections an image, from the sweep.
        """
        if gamma is None and cap is None:
            return _with_nan(self.content["figures"].get(kind, {}))
        rows = [row for row in self.content["sweep"] if row["kind"] == kind and row["gamma"] == (gamma or 0.0)]
        cap = max((row["max_detections"] for row in rows), default=0) if cap is None else cap
        row = next((row for row in rows if row["max_detections"] == cap), {})
        return _with_nan({name: row[name] for name in FIGURES if name in row})

    def evaluated(self, name: str) -> Evaluated:
        """As the report's plots want it.

        Args:
            name: for legends.
        """
        columns = self.content["categories"]
        rows = [
            {column: "" if value is None else str(value) for column, value in zip(columns, values, strict=True)}
            for values in zip(*columns.values(), strict=True)
        ]
        ids = list(map(str, columns["category_id"]))
        per_category = {
            key: {place: value for place, value in zip(ids, values, strict=True) if value is not None}
            for key, values in self.content["classifier"].items()
        }
        return Evaluated(name, self.path.parent, self.content["figures"], per_category, rows)


def record_path(places: Places, run: Run, seed: int) -> Path:
    """Where a run's record is."""
    return places.out / "runs" / f"{run.name}.seed{seed}.json"


def seeds_of(places: Places, run: Run) -> list[int]:
    """The seeds whose records are there."""
    found = (path.stem.rpartition(".seed")[2] for path in (places.out / "runs").glob(f"{run.name}.seed*.json"))
    return sorted(int(seed) for seed in found if seed.isdecimal())


def read_record(places: Places, run: Run, seed: int) -> Record | None:
    """The record of a run, None if it is not finished.

    Raises:
        RecordError: the file is broken, or its run had other settings.
    """
    path = record_path(places, run, seed)
    if not path.is_file():
        return None
    record = open_record(path)
    theirs, ours = record.content["run"], describe(places, run)
    if record.content["schema"] != SCHEMA or theirs != ours:
        different = [key for key in ours if theirs.get(key) != ours[key]] or ["schema"]
        raise RecordError(
            f"{path} is of a run with other settings ({', '.join(different)}): move it away, and the run is made "
            "again, or check out the commit that it names"
        )
    return record


def open_record(path: Path) -> Record:
    """Any record, whatever its run.

    Raises:
        RecordError: the file is broken.
    """
    try:
        content = json.loads(path.read_text())
        content["run"] = {"quick": False} | content["run"]  # the first records do not say
        if missing := sorted(_KEYS - content.keys()):
            raise KeyError(*missing)
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path} is broken ({error}): remove it, and its run is made again") from error
    return Record(path, content)


def write_record(places: Places, run: Run, seed: int, content: dict[str, Any]) -> Record:
    """Writes a record whole or not at all."""
    path = record_path(places, run, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"schema": SCHEMA, "run": describe(places, run), "seed": seed} | content, indent=None)
    return read_record(places, run, seed)


def describe(places: Places, run: Run) -> dict[str, Any]:
    """What makes two runs the same; those of --quick are never taken for others."""
    return run.description() | {"quick": places.quick}


def collect(workdir: Path, replicates: int = 0) -> dict[str, Any]:
    """What a record keeps of an evaluated run's folder.

    Args:
        workdir: of train.py and eval.py.
        replicates: sets of validation images drawn anew, whose figures are kept too.

    Returns:
        "commit", "jax", "devices" and "steps" of the training; "backbone", a digest of the weights that it started
        from, None where it did from scratch; "step_ms", the median by the clock; "figures" by kind;
        "written_detections", the largest number of an image in the results, 0 where nobody counted;
        "sweep", rows over K and NorCal's gamma; "categories", columns of per_class.csv; "classifier", by name a list
        over the categories: "classifier_norms", "gradient_sums"; "replicates", by kind and figure a list.
    """
    about, log = json.loads((workdir / "config.json").read_text()), read_log(workdir)
    run = read_runs([workdir], diagnosed=about["config"]["data"]["format"] != "openimages")[0]
    batch = about["config"]["train"]["batch_size"]
    rates = [line["images_per_second"] for line in log]
    sweep = workdir / "eval" / "sweep" / "sweep.json"
    ids = [row["category_id"] for row in run.categories]
    kept = _COLUMNS + tuple(f"{kind}_AP" for kind in run.kinds)
    return {
        "commit": about["commit"],
        "jax": about["jax"],
        "devices": about["devices"],
        "steps": log[-1]["step"],
        "backbone": _digest(about["config"]["init_from"]),
        "step_ms": round(1000 * batch / float(np.median(rates)), 1),
        "figures": {kind: _figures(run.metrics[kind]) for kind in run.kinds},
        "written_detections": max(run.diagnosis.get(kind, {}).get("written_detections", 0) for kind in run.kinds),
        "sweep": [{key: row[key] for key in ("kind", "gamma", "max_detections", *FIGURES)} for row in read_sweep(sweep)]
        if sweep.is_file()
        else [],
        "categories": {column: [_value(row[column]) for row in run.categories] for column in kept},
        "classifier": {
            name: [_rounded(run.diagnosis[name].get(key)) for key in ids]
            for name in ("classifier_norms", "gradient_sums")
            if name in run.diagnosis
        },
        "replicates": {kind: _replicates(run, about, kind, replicates) for kind in run.kinds} if replicates else {},
    }


def _digest(weights: str) -> str | None:
    """Of imported weights; a backbone that is trained again on another machine is another one by rounding."""
    if not weights:
        return None
    digest = hashlib.sha256()
    for path, array in sorted(flattened(load_initial(weights).parameters).items()):
        digest.update(path.encode())
        digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()[:12]


def _replicates(run: Evaluated, about: dict[str, Any], kind: str, number: int) -> dict[str, list[float]]:
    truth, results = read_both(about["config"]["data"]["val_json"], run.folder / f"results_{kind}.json", kind)
    found = bootstrap_figures(truth, results, about["config"]["test"]["max_detections"], number)
    return {name: _rounded(values.tolist()) for name, values in found.items()}


def _with_nan(figures: dict[str, Any]) -> dict[str, Any]:
    """Json has null for what is not defined."""
    return {
        name: _with_nan(value) if isinstance(value, dict) else math.nan if value is None else value
        for name, value in figures.items()
    }


def _figures(metrics: dict[str, Any]) -> dict[str, Any]:
    found = {name: metrics[name] for name in (*FIGURES, *_MORE) if name in metrics}
    return found | {name: _figures(metrics[name]) for name in ("fixed", "pooled") if name in metrics}


def _value(text: str) -> str | int | float | None:
    """A cell of a csv file: a number where it is one."""
    for kind in (int, float):
        try:
            return _rounded(kind(text))
        except ValueError:
            continue
    return text or None


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{_DIGITS}g}")
    return value
