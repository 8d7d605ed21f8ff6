"""Which figure of an evaluation says how good a checkpoint is, and the keeping of the best one."""

import contextlib
import functools
import hashlib
import json
import logging
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from rog_jax.data import Annotations
from rog_jax.evaluation.evaluated_model import EvaluatedModel
from rog_jax.evaluation.figures import Protocol, figure_names
from rog_jax.training.best import held, keep_if_best

logger = logging.getLogger(__name__)

WITHOUT_EFFECT = ("batch_size", "best_figure", "evaluator", "figures", "pictures", "report", "written_detections")
"""Settings of `config.test` that change no figure; with other values of the others, figures are not compared."""
DATA = ("test_short_side", "max_long_side", "shapes")
MODEL = {
    "rpn": ("test_pre_nms", "test_proposals", "proposals_per_level", "nms_iou", "min_size"),
    "roi": ("sampling_ratio", "max_sampling_ratio", "temperature"),
}
OPENIMAGES_FILES = ("hierarchy_json", "val_labels_csv")
"""Settings of `config.data`, of the detector where another value takes the same weights, and files of
`config.data.openimages`, that change figures besides the annotations."""


def figure_path(name: str, protocol: Protocol, masks: bool) -> str:
    """Where the figure that `config.test.best_figure` names stands in the metrics, such as "segm/fixed/AP".

    Args:
        name: "auto", AP, or where there is none (OpenImages) AP50; or a name of metrics.json, such as "APr" or
            "fixed/AP": of masks, where there are any, or else of boxes; or with the kind, "bbox/APr".
        protocol: of the evaluation.
        masks: whether the detector has any.

    Raises:
        ValueError: the evaluation has no such figure; says which it has.
    """
    kinds = ("bbox", "segm") if masks and protocol.name != "openimages" else ("bbox",)
    known = {kind: figure_names(protocol, kind) for kind in kinds}
    figure = ("AP50" if protocol.name == "openimages" else "AP") if name == "auto" else name
    path = figure if figure.split("/")[0] in kinds else f"{kinds[-1]}/{figure}"
    kind, _, figure = path.partition("/")
    if figure not in known[kind]:
        raise ValueError(
            f"config.test.best_figure={name!r} is no figure of this evaluation; choose auto, one of "
            f"{', '.join(known[kinds[-1]])}, or one with {' or '.join(f'{kind}/' for kind in kinds)} before it; empty "
            "keeps no checkpoint"
        )
    return path


def measured_how(config: ConfigDict, protocol: Protocol, annotations: Annotations) -> dict[str, Any]:
    """What a figure depends on besides the weights, as a json object that is the same on another machine.

    Args:
        config: of the evaluated model.
        protocol: of the evaluation.
        annotations: that it is evaluated on.
    """
    data, test = json.loads(config.data.to_json()), json.loads(config.test.to_json())
    model = {section: json.loads(config[section].to_json()) for section in MODEL}
    digest = hashlib.sha256()
    for ids in (annotations.image_ids, annotations.category_ids):
        digest.update(json.dumps(np.asarray(ids).tolist()).encode())
    return {
        "protocol": protocol.name,
        "annotations": f"{data['source']} {data['val_split']}" if data["source"] else Path(data["val_json"]).name,
        "images": annotations.num_images,
        "ids": digest.hexdigest(),
        "data": {name: data[name] for name in DATA} | {n: Path(data["openimages"][n]).name for n in OPENIMAGES_FILES},
        "model": {section: {name: model[section][name] for name in names} for section, names in MODEL.items()},
        "test": {name: setting for name, setting in test.items() if name not in WITHOUT_EFFECT},
    }


@contextlib.contextmanager
def keeping_best(
    config: ConfigDict, workdir: Path, model: EvaluatedModel, protocol: Protocol, annotations: Annotations
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Holds the model's checkpoint while it is evaluated.

    Args:
        config: `test.best_figure` is empty where nothing is to be kept.
        workdir: of the run.
        model: of one of the run's checkpoints; any other is not kept.
        protocol: of the evaluation.
        annotations: that it is evaluated on.

    Yields:
        A function of the metrics by kind that keeps the checkpoint if it is the best.

    Raises:
        StorageError: the folder cannot be written to.
        ValueError: `test.best_figure` names no figure of the evaluation.
    """
    name, step = config.test.best_figure, model.facts.get("step")
    path = figure_path(name, protocol, model.config.model.masks) if name else ""
    if not name or step is None or jax.process_index() != 0:
        yield lambda metrics: None
        return
    measured = measured_how(model.config, protocol, annotations)
    with held(workdir, step) as copy:
        yield lambda metrics: _keep(workdir, copy, step, path, metrics, measured)


def _keep(
    workdir: Path, copy: Path | None, step: int, path: str, metrics: Mapping[str, Any], measured: dict[str, Any]
) -> None:
    value = functools.reduce(operator.getitem, path.split("/"), metrics)
    if math.isnan(value):
        logger.warning("%s is not defined for these annotations: no checkpoint is kept for it", path)
        return
    if copy is None:
        logger.warning(
            "step %d: %s %.4f; training has deleted this checkpoint, so that it cannot be kept as the best: raise "
            "config.train.keep_checkpoints",
            *(step, path, value),
        )
        return
    keep_if_best(workdir, copy, path, value, measured)
