"""Which figure of an evaluation says how good a checkpoint is, and the keeping of the best one."""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from rog_jax.evaluation.evaluated_model import EvaluatedModel
from rog_jax.training.best import held, keep_if_best

logger = logging.getLogger(__name__)

WITHOUT_EFFECT = ("batch_size", "best_figure", "evaluator", "figures", "pictures", "report", "written_detections")
"""Settings of `config.test` that change no figure; with other values of the others, figures are not compared."""


def chosen_figure(metrics: Mapping[str, Any], name: str) -> tuple[str, float]:
    """The figure that `config.test.best_figure` names.

    Args:
        metrics: of an evaluation, by kind.
        name: "auto", AP, or where there is none (OpenImages) AP50; or as in metrics.json, such as "APr" or "fixed/AP":
            of masks, where there are any, or else of boxes; or with the kind, "bbox/APr".

    Returns:
        Its full name and its value, NaN where it is not defined.

    Raises:
        KeyError: there is no such figure.
    """
    kind = "segm" if "segm" in metrics else "bbox"
    if name == "auto":
        name = "AP" if "AP" in metrics[kind] else "AP50"
    path = name if name.split("/")[0] in metrics else f"{kind}/{name}"
    found: Any = metrics
    for key in path.split("/"):
        found = found[key] if isinstance(found, Mapping) else {}[key]
    if not isinstance(found, float | int):
        raise KeyError(path)
    return path, float(found)


@contextlib.contextmanager
def keeping_best(config: ConfigDict, workdir: Path, model: EvaluatedModel) -> Iterator[Callable[[dict, dict], None]]:
    """Holds the model's checkpoint while it is evaluated.

    Args:
        config: `test.best_figure` is empty where nothing is to be kept.
        workdir: of the run.
        model: of one of the run's checkpoints; any other is not kept.

    Yields:
        A function of the metrics by kind and the facts of the evaluation that keeps the checkpoint if it is the best.

    Raises:
        StorageError: the folder cannot be written to.
    """
    name, step = config.test.best_figure, model.facts.get("step")
    if not name or step is None or jax.process_index() != 0:
        yield lambda metrics, facts: None
        return
    with held(workdir, step) as copy:
        yield lambda metrics, facts: _keep(workdir, copy, step, name, metrics, facts)


def _keep(
    workdir: Path, copy: Path | None, step: int, name: str, metrics: dict[str, Any], facts: dict[str, Any]
) -> None:
    try:
        figure, value = chosen_figure(metrics, name)
    except KeyError:
        logger.warning("config.test.best_figure=%r is no figure of this evaluation: no checkpoint is kept for it", name)
        return
    if math.isnan(value):
        logger.warning("%s is not defined for these annotations: no checkpoint is kept for it", figure)
        return
    if copy is None:
        logger.warning(
            "step %d: %s %.4f; training has deleted this checkpoint, so that it cannot be kept as the best: raise "
            "config.train.keep_checkpoints",
            *(step, figure, value),
        )
        return
    test = {key: setting for key, setting in facts["test"].items() if key not in WITHOUT_EFFECT}
    data = Path(facts["annotations"]).name  # the same on another machine
    measured = {"protocol": facts["protocol"], "annotations": data, "test": test}
    keep_if_best(workdir, copy, figure, value, measured)
