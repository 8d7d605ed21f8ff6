"""Figures over the number of detections K an image and NorCal's gamma, from one pass of the detector (Table 3)."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from rog_jax.data import Annotations
from rog_jax.evaluation.evaluated_model import EvaluatedModel, evaluated_model
from rog_jax.evaluation.evaluators import lvis_curves
from rog_jax.evaluation.inference import ResultPaths, run_inference, run_sweep_inference
from rog_jax.evaluation.lvis import precision_figures, read_both
from rog_jax.evaluation.norcal import gamma_scores
from rog_jax.evaluation.results_file import keep_best
from rog_jax.evaluation.run import (
    evaluation_facts,
    evaluation_truth,
    host_options,
    image_counts,
    protocol_of,
    results_by_kind,
    validation_batches,
    validation_set,
    written_by_first_host,
)
from rog_jax.evaluation.summary import SCHEMA, write_json
from rog_jax.evaluation.truth import Truth
from rog_jax.training.out_of_memory import INFERENCE_ADVICE, advice_where_memory_ends
from rog_jax.training.state import data_mesh
from rog_jax.training.step import make_predict_step, make_sweep_step, to_devices

logger = logging.getLogger(__name__)

COLUMNS = ("AP", "APr", "APc", "APf")
DEFAULT_CAPS = (50, 100, 300)
Row = dict[str, Any]
"""One line of a sweep: "kind", "gamma", "max_detections", and LVIS's figures."""


@advice_where_memory_ends(INFERENCE_ADVICE)
def sweep_run(
    config: ConfigDict,
    workdir: str | Path,
    caps: Sequence[int] = DEFAULT_CAPS,
    gammas: Sequence[float] = (0.0,),
    step: int | str | None = None,
    against: str | Path | None = None,
) -> list[Row]:
    """Runs a checkpoint once on the validation images and evaluates it for every K and every gamma.

    Results are written for the largest K, into `WORKDIR/eval/sweep/gamma_G`; a smaller K takes the best K of them, as
    the detector itself would have. With views (`test.flip`, `test.scales`) that holds for the largest K alone: each
    view gives the pool its best K, so that a detector of a smaller K would have pooled fewer. Each gamma does the
    reading of scores, the last NMS and the masks again, no more.

    Args:
        config: as for `evaluate_run`; of `test`, `max_detections` and `norcal.gamma` are replaced.
        workdir: folder of the run.
        caps: numbers of detections an image.
        gammas: of NorCal; 0 is the loss's own score.
        step: of the checkpoint; `BEST` for the best one so far, None for the newest.
        against: `sweep.json` of another run, or the folder of that run: the table gets the improvements over it.

    Returns:
        The rows, which are also in `WORKDIR/eval/sweep/sweep.json`, on the first host; [] on the others.

    Raises:
        As `evaluate_run`; ValueError for caps or gammas without meaning, or a protocol other than LVIS's.
    """
    _check(config, caps, gammas)
    baseline = read_sweep(against) if against else None
    workdir, config = Path(workdir), config.copy_and_resolve_references()
    folder = workdir / "eval" / "sweep"
    config.test.max_detections = max(caps)
    with written_by_first_host(folder):
        annotations, truth = validation_set(config)
        model = evaluated_model(config, workdir, annotations, step)
        results = _results_by_gamma(model, annotations, truth, gammas, folder)
        if jax.process_index() != 0:
            return []
        return _finish(config, truth, results, caps, folder, model.facts, baseline)


def _results_by_gamma(
    model: EvaluatedModel, annotations: Annotations, truth: Truth, gammas: Sequence[float], folder: Path
) -> dict[float, ResultPaths]:
    mesh, config = data_mesh(), model.config
    folders = [folder / f"gamma_{gamma:g}" for gamma in gammas]
    batches, options = validation_batches(config, annotations), host_options(config)
    if any(gammas):
        counts = image_counts(model, config, truth)
        scores = gamma_scores(model.definition.loss, counts, config.test.norcal)
        predict = make_sweep_step(model.definition, mesh, scores, np.array(gammas, np.float32))
        run, where = run_sweep_inference, folders
    else:  # the detector as it is, whatever its loss
        predict = make_predict_step(model.definition, mesh)
        run, where = run_inference, folders[0]
    found = run(lambda batch: predict(model.state, to_devices(batch, mesh)), batches, annotations, where, **options)
    return dict(zip(gammas, found if any(gammas) else [found], strict=True))


def sweep_results(
    config: ConfigDict,
    results_json: str | Path | Sequence[str | Path],
    workdir: str | Path,
    caps: Sequence[int] = DEFAULT_CAPS,
    against: str | Path | None = None,
) -> list[Row]:
    """Evaluates anybody's results files for every K.

    Args:
        config: `data` and `test` are looked at.
        results_json: as for `evaluate_results`.
        workdir: the table goes to its sub-folder `eval/sweep`.
        caps: as for `sweep_run`.
        against: as for `sweep_run`.

    Returns:
        The rows, with gamma 0.

    Raises:
        As `evaluate_results` and `sweep_run`.
    """
    _check(config, caps, (0.0,))
    baseline = read_sweep(against) if against else None
    folder = Path(workdir) / "eval" / "sweep"
    with written_by_first_host(folder):
        results = results_by_kind(results_json)
        facts = {"results": {kind: str(path) for kind, path in results._asdict().items() if path is not None}}
        return _finish(config, evaluation_truth(config), {0.0: results}, caps, folder, facts, baseline)


def _check(config: ConfigDict, caps: Sequence[int], gammas: Sequence[float]) -> None:
    if protocol_of(config).name != "lvis":
        raise ValueError("A sweep is over LVIS's limit for an image: set config.test.protocol=lvis.")
    if not caps or min(caps) < 1 or len(set(caps)) < len(caps):
        raise ValueError(f"A sweep over {list(caps)} detections an image: give positive numbers, each once.")
    if not gammas or not all(map(math.isfinite, gammas)) or len(set(gammas)) < len(gammas):
        raise ValueError(f"A sweep over NorCal's gamma in {list(gammas)}: give finite numbers, each once.")


def _finish(
    config: ConfigDict,
    truth: Truth,
    results: Mapping[float, ResultPaths],
    caps: Sequence[int],
    folder: Path,
    facts: dict[str, Any],
    baseline: list[Row] | None,
) -> list[Row]:
    rows = sweep_figures(truth, results, caps, config.test.evaluator)
    print(format_sweep(rows, baseline))
    run = evaluation_facts(config) | facts
    print(write_json(folder / "sweep.json", {"schema": SCHEMA, "rows": rows, "run": run}))
    return rows


def sweep_figures(truth: Truth, results: Mapping[float, ResultPaths], caps: Sequence[int], evaluator: str) -> list[Row]:
    """LVIS's figures of results by gamma, each file read once: by kind, gamma, and falling K."""
    rows = []
    for kind in ResultPaths._fields:
        for gamma, paths in results.items():
            path = getattr(paths, kind)
            if path is None:
                continue
            _, found = read_both(truth, path, kind, evaluator)
            for cap in sorted(caps, reverse=True):
                precision, _ = lvis_curves(truth, keep_best(found, cap), evaluator)
                figures = precision_figures(truth, precision)
                rows.append({"kind": kind, "gamma": float(gamma), "max_detections": cap} | figures)
    return rows


def format_sweep(rows: Sequence[Row], baseline: Sequence[Row] | None = None) -> str:
    """A table of at most 80 columns: AP of all categories and of the groups in percent, each with its relative change.

    The change is that from the first row of the same kind or, with a baseline, from its row of the same kind, K and
    gamma, or else of gamma 0. "-" where there is nothing to compare with.
    """
    against = "baseline" if baseline is not None else "first row of its kind"
    lines = [f"kind  gamma     K  {''.join(f'{name:>14}' for name in COLUMNS)}"]
    for row in rows:
        reference = _reference(row, rows, baseline)
        cells = "".join(f"{_cell(row[name], reference.get(name)):>14}" for name in COLUMNS)
        lines.append(f"{row['kind']:<5} {row['gamma']:>5g} {row['max_detections']:>5d}  {cells}")
    return "\n".join([*lines, f"In brackets: relative to the {against}."])


def _reference(row: Row, rows: Sequence[Row], baseline: Sequence[Row] | None) -> Row:
    if baseline is None:
        first = next(other for other in rows if other["kind"] == row["kind"])
        return {} if first is row else first
    same = [other for other in baseline if all(other[key] == row[key] for key in ("kind", "max_detections"))]
    for gamma in (row["gamma"], 0.0):
        for other in same:
            if other["gamma"] == gamma:
                return other
    return {}


def _cell(value: float, reference: float | None) -> str:
    if math.isnan(value):
        return "-"
    if not reference or math.isnan(reference):
        return f"{100 * value:.1f} {'':>8}"
    return f"{100 * value:.1f} ({100 * (value / reference - 1):+.1f}%)"


def read_sweep(path: str | Path) -> list[Row]:
    """The rows of another run's sweep.

    Args:
        path: its `sweep.json`, or the run's folder.

    Raises:
        FileNotFoundError, ValueError: there is none, or it is no sweep.
    """
    path = Path(path)
    path = path / "eval" / "sweep" / "sweep.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: run eval.py --sweep on that run first.")
    try:
        content = json.loads(path.read_text())
        rows = [{key: math.nan if value is None else value for key, value in row.items()} for row in content["rows"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no sweep: run eval.py --sweep on that run again.") from error
    return rows
