"""The programs that match detections with objects: hotcoco, and the official lvis and pycocotools to check it against.

All of them give precision [10, 101, C, 4] at the IoU thresholds 0.50, 0.55 .. 0.95, the recalls 0.00, 0.01 .. 1.00, the
categories by rising id and the areas all, small, medium and large; and recall [10, C, 4]. The cells of a category
without an object to find hold -1.
"""

import contextlib
import importlib.metadata
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import hotcoco
import numpy as np
from jaxtyping import Float
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rog_jax.evaluation.results_file import Results
from rog_jax.evaluation.truth import Truth

Evaluator = Literal["hotcoco", "official"]
Precision = Float[np.ndarray, "10 101 C 4"]
Recall = Float[np.ndarray, "10 C 4"]
_AREA_IN_NO_RANGE = 1e12  # the largest range ends at 1e10


def lvis_curves(truth: Truth, results: Results, evaluator: Evaluator) -> tuple[Precision, Recall]:
    """Precision and recall as LVIS defines them, of all the given detections.

    Raises:
        ImportError: the official evaluator is asked for and not installed.
    """
    if evaluator == "official":
        return _official_lvis_curves(truth, results)
    results = results.take(np.flatnonzero(counted(truth, results)))
    evaluation = hotcoco_evaluation(with_ignored_areas(truth.lvis_json()), results, lvis_style=True)
    return evaluation.eval["precision"][..., 0], evaluation.eval["recall"][..., 0]


def counted(truth: Truth, results: Results) -> np.ndarray:
    """[M], the detections that LVIS evaluates: of positive area, and of a category that is in the image or was looked
    for there. hotcoco would keep those without area."""
    images = np.searchsorted(truth.image_ids, results.image_ids)
    categories = np.searchsorted(truth.category_ids, results.category_ids)
    return (results.areas > 0) & truth.evaluated[images, categories]


def hotcoco_evaluation(truth_json: dict[str, Any], results: Results, **style: bool) -> hotcoco.COCOeval:
    """hotcoco's matching of all the given detections, with the curves computed."""
    ground_truth = hotcoco.COCO(truth_json)
    columns = (results.image_ids[:, None], results.boxes, results.scores[:, None], results.category_ids[:, None])
    masks = None if results.masks is None else results.masks.codes()
    detections = ground_truth.load_res(np.concatenate(columns, axis=1), segmentation=masks)
    if masks is not None:  # load_res gives masks the area of their boxes
        detections.update_anns(ids=np.arange(1, len(results.areas) + 1), area=results.areas)
    detections = detections.cap_detections_per_image(None)  # capped already; else LVIS style would cap again, at 300
    evaluation = hotcoco.COCOeval(ground_truth, detections, results.iou_type, **style)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def with_ignored_areas(truth_json: dict[str, Any]) -> dict[str, Any]:
    """hotcoco does not know "ignore", but does ignore an object whose area lies in no range."""
    annotations = [
        found | {"area": _AREA_IN_NO_RANGE} if found.get("ignore") else found for found in truth_json["annotations"]
    ]
    return truth_json | {"annotations": annotations}


def _official_lvis_curves(truth: Truth, results: Results) -> tuple[Precision, Recall]:
    with official_lvis() as lvis, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "truth.json"
        path.write_text(json.dumps(truth.lvis_json()))
        ground_truth = lvis.LVIS(str(path))
        detections = lvis.LVISResults(ground_truth, list(_records(results)), max_dets=-1)
        evaluation = lvis.LVISEval(ground_truth, detections, results.iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def _records(results: Results) -> Iterator[dict[str, Any]]:
    geometry = results.boxes.tolist() if results.masks is None else results.masks.codes()
    key = "bbox" if results.masks is None else "segmentation"
    for image_id, category_id, score, shape in zip(
        results.image_ids.tolist(), results.category_ids.tolist(), results.scores.tolist(), geometry, strict=True
    ):
        yield {"image_id": image_id, "category_id": category_id, "score": score, key: shape}


@contextlib.contextmanager
def official_lvis() -> Iterator[Any]:
    """The package lvis, which still uses the name `numpy.float` that numpy 1.24 removed."""
    try:
        version = importlib.metadata.version("lvis")
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError(
            "The official evaluator is not installed: run `pip install --no-deps lvis==0.5.3` (without --no-deps it "
            "replaces the headless OpenCV by one that needs libGL), or take evaluator='hotcoco'."
        ) from error
    if version != "0.5.3":
        raise ImportError(f"lvis {version} is installed, but the figures are those of 0.5.3: install that version.")
    np.float = float  # noqa: NPY001
    try:
        import lvis

        yield lvis
    finally:
        del np.float  # noqa: NPY001


COCO_CAPS = (1, 10, 100)
"""Detections of an image and category that COCO's recall counts; AP takes the last."""
CocoPrecision = Float[np.ndarray, "10 101 C 4 3"]
CocoRecall = Float[np.ndarray, "10 C 4 3"]


def coco_curves(truth: Truth, results: Results, evaluator: Evaluator) -> tuple[CocoPrecision, CocoRecall]:
    """Precision and recall as COCO defines them; the last axis is that of `COCO_CAPS`."""
    if evaluator == "hotcoco":
        evaluation = hotcoco_evaluation(truth.coco_json(), results)
        return evaluation.eval["precision"], evaluation.eval["recall"]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools says what it is doing
        ground_truth = COCO()
        ground_truth.dataset = truth.coco_json()
        ground_truth.createIndex()
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(list(_records(results))), results.iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]
