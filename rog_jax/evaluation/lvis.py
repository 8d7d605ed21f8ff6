"""LVIS figures of a results file: average precision for boxes and masks, by size and by frequency of the category."""

from pathlib import Path
from typing import Any, get_args

import numpy as np

from rog_jax.evaluation.evaluators import Evaluator, Precision, Recall, lvis_curves
from rog_jax.evaluation.results_file import IouType, Results, keep_best, keep_best_of_categories, read_results
from rog_jax.evaluation.truth import Truth, load_truth

AREAS = {"": 0, "s": 1, "m": 2, "l": 3}
"""Places on the last axis of precision: all, below 32², below 96², above (pixels)."""
GROUPS = ("r", "c", "f")
FIXED_LIMIT = 10_000
"""Detections of a category over the whole data set that AP-fixed counts."""
_IOU_50, _IOU_75 = 0, 5  # places among the thresholds 0.50, 0.55 .. 0.95


def evaluate_lvis(
    annotations_json: str | Path | Truth,
    results_json: str | Path | Results,
    iou_type: IouType,
    max_detections: int = 300,
    evaluator: Evaluator = "hotcoco",
) -> dict[str, Any]:
    """The LVIS metrics of a results file, as the official evaluator (lvis 0.5.3) defines them.

    Args:
        annotations_json: the ground truth in LVIS format, or what `load_truth` made of it.
        results_json: detections in LVIS format (.json or .json.gz; `read_results` says what each record must have), or
            what `read_results` made of them.
        iou_type: "bbox" or "segm".
        max_detections: the best so many of each image, over all categories, take part; -1 for all.
        evaluator: "hotcoco" is compiled; "official" is lvis 0.5.3 itself, which takes minutes and 20 GB for the whole
            validation set. They agree to 1e-6.

    Returns:
        AP, AP50, AP75, APs, APm, APl (by the object's area), APr, APc, APf (by the category's frequency), AR@n, ARs@n,
        ARm@n, ARl@n with n = max_detections, all as fractions of 1 and NaN where no category of the group has an object
        to find; and "per_category", {category id: AP} of the categories that have one.

    Raises:
        FileNotFoundError, ValueError: a file is missing or wrong, as `load_truth` and `read_results` say; an unknown
            `iou_type` or `evaluator`; a `max_detections` that is neither positive nor -1.
        ImportError: the official evaluator is asked for and not installed.
    """
    if max_detections < 1 and max_detections != -1:
        raise ValueError(f"max_detections is {max_detections}: it must be positive, or -1 for no limit.")
    truth, results = read_both(annotations_json, results_json, iou_type, evaluator)
    precision, recall = lvis_curves(truth, keep_best(results, max_detections), evaluator)
    return all_figures(truth, precision, recall, f"@{max_detections}")


def evaluate_lvis_fixed(
    annotations_json: str | Path | Truth,
    results_json: str | Path | Results,
    iou_type: IouType,
    max_per_category: int = FIXED_LIMIT,
    evaluator: Evaluator = "hotcoco",
) -> dict[str, Any]:
    """AP-fixed (Dave et al., "Evaluating Large-Vocabulary Object Detectors", arXiv:2102.01066, section 4).

    The same metrics with another limit: the best 10,000 detections of each category over the whole data set, and as
    many in an image as there are, so that categories do not compete for the places of an image.

    Args:
        annotations_json: as for `evaluate_lvis`.
        results_json: as for `evaluate_lvis`; to mean what its name says, written without a limit an image.
        iou_type: "bbox" or "segm".
        max_per_category: the limit.
        evaluator: as for `evaluate_lvis`.

    Returns:
        What `evaluate_lvis` returns, with AR, ARs, ARm, ARl without a number behind them.

    Raises:
        As `evaluate_lvis`.
    """
    if max_per_category < 1:
        raise ValueError(f"max_per_category is {max_per_category}: it must be positive.")
    truth, results = read_both(annotations_json, results_json, iou_type, evaluator)
    precision, recall = lvis_curves(truth, keep_best_of_categories(results, max_per_category), evaluator)
    return all_figures(truth, precision, recall, "")


def read_both(
    annotations_json: str | Path | Truth,
    results_json: str | Path | Results,
    iou_type: IouType,
    evaluator: Evaluator = "hotcoco",
) -> tuple[Truth, Results]:
    """Ground truth and detections, read from their files where they are not given.

    Raises:
        FileNotFoundError, ValueError: as `evaluate_lvis`.
    """
    if iou_type not in get_args(IouType) or evaluator not in get_args(Evaluator):
        raise ValueError(f"No evaluation {iou_type!r} by {evaluator!r}: take bbox or segm, hotcoco or official.")
    truth = annotations_json if isinstance(annotations_json, Truth) else load_truth(annotations_json)
    if not isinstance(results_json, Results):
        return truth, read_results(results_json, iou_type, truth.image_sizes, truth.category_ids.tolist())
    if results_json.iou_type != iou_type:
        raise ValueError(f"The results were read as {results_json.iou_type} and cannot be evaluated as {iou_type}.")
    return truth, results_json


def precision_figures(truth: Truth, precision: Precision) -> dict[str, float]:
    """AP and its parts, means over what is defined: an evaluator marks what is not by -1."""
    frequency = np.array([category["frequency"] for category in truth.categories])
    metrics = {"AP": _mean(precision[..., 0]), "AP50": _mean(precision[_IOU_50, ..., 0])}
    metrics["AP75"] = _mean(precision[_IOU_75, ..., 0])
    metrics |= {f"AP{size}": _mean(precision[..., area]) for size, area in AREAS.items() if size}
    return metrics | {f"AP{group}": _mean(precision[:, :, frequency == group, 0]) for group in GROUPS}


def category_figures(truth: Truth, precision: Precision) -> tuple[dict[int, float], dict[int, float]]:
    """AP and AP50 by the id of each category that has an object to find."""
    defined = np.flatnonzero((precision[..., 0] > -1).any(axis=(0, 1))).tolist()
    ids = truth.category_ids.tolist()
    return (
        {ids[place]: _mean(precision[:, :, place, 0]) for place in defined},
        {ids[place]: _mean(precision[_IOU_50, :, place, 0]) for place in defined},
    )


def recall_figures(recall: Recall, suffix: str) -> dict[str, float]:
    """AR, ARs, ARm, ARl, each with a suffix."""
    return {f"AR{size}{suffix}": _mean(recall[..., area]) for size, area in AREAS.items()}


def all_figures(truth: Truth, precision: Precision, recall: Recall, suffix: str) -> dict[str, Any]:
    """What `evaluate_lvis` returns; `suffix` follows the names of the recalls."""
    per_category, _ = category_figures(truth, precision)
    figures = precision_figures(truth, precision) | recall_figures(recall, suffix)
    return figures | {"per_category": per_category}


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")
