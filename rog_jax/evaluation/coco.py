"""COCO figures of a results file."""

from pathlib import Path
from typing import Any

import numpy as np

from rog_jax.evaluation.evaluators import COCO_CAPS, Evaluator, coco_curves
from rog_jax.evaluation.lvis import category_figures, precision_figures, read_both, recall_figures
from rog_jax.evaluation.results_file import IouType, Results
from rog_jax.evaluation.truth import Truth


def evaluate_coco(
    annotations_json: str | Path | Truth,
    results_json: str | Path | Results,
    iou_type: IouType,
    evaluator: Evaluator = "hotcoco",
) -> dict[str, Any]:
    """The COCO metrics of a results file, as pycocotools defines them.

    Every category counts as annotated in every image, the best 100 detections of each image and category take part,
    and detections on a crowd (`iscrowd`) count neither as right nor as wrong.

    Args:
        annotations_json: the ground truth in COCO format, or what `load_truth` made of it.
        results_json: as for `evaluate_lvis`.
        iou_type: "bbox" or "segm".
        evaluator: "hotcoco" is compiled; "official" is pycocotools.

    Returns:
        AP, AP50, AP75, APs, APm, APl; APr, APc, APf where the file has frequencies; AR@1, AR@10, AR@100 (detections of
        each image and category), ARs@100, ARm@100, ARl@100; and "per_category", {category id: AP}. Fractions of 1, NaN
        where there is no object to find.

    Raises:
        FileNotFoundError, ValueError: as `evaluate_lvis`.
    """
    truth, results = read_both(annotations_json, results_json, iou_type, evaluator)
    precision, recall = coco_curves(truth, results, evaluator)
    return coco_figures(truth, precision, recall)


def coco_figures(truth: Truth, precision: np.ndarray, recall: np.ndarray) -> dict[str, Any]:
    """What `evaluate_coco` returns, of the curves of `coco_curves`."""
    figures = precision_figures(truth, precision[..., -1])
    for place, cap in enumerate(COCO_CAPS):
        by_area = recall_figures(recall[..., place], f"@{cap}")
        figures |= by_area if cap == COCO_CAPS[-1] else {f"AR@{cap}": by_area[f"AR@{cap}"]}
    per_category, _ = category_figures(truth, precision[..., -1])
    return figures | {"per_category": per_category}
