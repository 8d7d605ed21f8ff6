"""LVIS figures of a results file: average precision for boxes and masks, by size and by frequency of the category."""

import contextlib
import importlib.metadata
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import hotcoco
import numpy as np
from jaxtyping import Float

from rog_jax.evaluation.results_file import IouType, Results, keep_best, read_results
from rog_jax.evaluation.truth import Truth, load_truth

Evaluator = Literal["hotcoco", "official"]
Precision = Float[np.ndarray, "10 101 C 4"]
Recall = Float[np.ndarray, "10 C 4"]

_AREAS = {"": 0, "s": 1, "m": 2, "l": 3}  # all, below 32², below 96², above
_AREA_IN_NO_RANGE = 1e12  # the largest range ends at 1e10
_IOU_50, _IOU_75 = 0, 5  # places among the thresholds 0.50, 0.55 .. 0.95


def evaluate_lvis(
    annotations_json: str | Path | Truth,
    results_json: str | Path,
    iou_type: IouType,
    max_detections: int = 300,
    evaluator: Evaluator = "hotcoco",
) -> dict[str, Any]:
    """The LVIS metrics of a results file, as the official evaluator (lvis 0.5.3) defines them.

    Args:
        annotations_json: the ground truth in LVIS format, or what `load_truth` made of it.
        results_json: detections in LVIS format (.json or .json.gz); `read_results` says what each record must have.
        iou_type: "bbox" or "segm".
        max_detections: the best so many of each image, over all categories, take part; -1 for all (AP-fixed where no
            category has over 10,000 detections).
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
    if iou_type not in get_args(IouType) or evaluator not in get_args(Evaluator):
        raise ValueError(f"No evaluation {iou_type!r} by {evaluator!r}: take bbox or segm, hotcoco or official.")
    if max_detections < 1 and max_detections != -1:
        raise ValueError(f"max_detections is {max_detections}: it must be positive, or -1 for no limit.")
    truth = annotations_json if isinstance(annotations_json, Truth) else load_truth(annotations_json)
    category_ids = [category["id"] for category in truth.categories]
    results = keep_best(read_results(results_json, iou_type, truth.image_sizes, category_ids), max_detections)
    precision, recall = {"hotcoco": _run_hotcoco, "official": _run_official}[evaluator](truth, results, iou_type)
    return _metrics(truth, precision, recall, max_detections)


def _metrics(truth: Truth, precision: Precision, recall: Recall, max_detections: int) -> dict[str, Any]:
    """Means over what is defined: an evaluator marks the cells of a category without objects to find by -1."""
    frequency = np.array([category["frequency"] for category in truth.categories])
    metrics = {"AP": _mean(precision[..., 0]), "AP50": _mean(precision[_IOU_50, ..., 0])}
    metrics["AP75"] = _mean(precision[_IOU_75, ..., 0])
    metrics |= {f"AP{size}": _mean(precision[..., area]) for size, area in _AREAS.items() if size}
    metrics |= {f"AP{group}": _mean(precision[:, :, frequency == group, 0]) for group in "rcf"}
    metrics |= {f"AR{size}@{max_detections}": _mean(recall[..., area]) for size, area in _AREAS.items()}
    per_category = {
        category["id"]: _mean(precision[:, :, place, 0])
        for place, category in enumerate(truth.categories)
        if (precision[:, :, place, 0] > -1).any()
    }
    return metrics | {"per_category": per_category}


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")


def _run_hotcoco(truth: Truth, results: Results, iou_type: IouType) -> tuple[Precision, Recall]:
    """Precision [10, 101, C, 4] and recall [10, C, 4] by the compiled evaluator."""
    results = results.take(np.flatnonzero(results.areas > 0))  # the official evaluator drops these, hotcoco does not
    ground_truth = hotcoco.COCO(truth.as_json() | {"annotations": [_by_area(found) for found in truth.annotations]})
    columns = (results.image_ids[:, None], results.boxes, results.scores[:, None], results.category_ids[:, None])
    detections = ground_truth.load_res(np.concatenate(columns, axis=1), segmentation=results.masks)
    if iou_type == "segm":  # load_res gives masks the area of their boxes
        detections.update_anns(ids=np.arange(1, len(results.areas) + 1), area=results.areas)
    detections = detections.cap_detections_per_image(None)  # capped already; without this it would be again, at 300
    evaluation = hotcoco.COCOeval(ground_truth, detections, iou_type, lvis_style=True)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"][..., 0], evaluation.eval["recall"][..., 0]


def _by_area(annotation: dict[str, Any]) -> dict[str, Any]:
    """hotcoco does not know "ignore", but does ignore an object whose area lies in no range."""
    return annotation | {"area": _AREA_IN_NO_RANGE} if annotation.get("ignore") else annotation


def _run_official(truth: Truth, results: Results, iou_type: IouType) -> tuple[Precision, Recall]:
    """Precision [10, 101, C, 4] and recall [10, C, 4] by the package lvis."""
    with _official_lvis() as lvis, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "truth.json"
        path.write_text(json.dumps(truth.as_json()))
        ground_truth = lvis.LVIS(str(path))
        detections = lvis.LVISResults(ground_truth, list(_records(results)), max_dets=-1)
        evaluation = lvis.LVISEval(ground_truth, detections, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def _records(results: Results) -> Iterator[dict[str, Any]]:
    geometry = results.boxes.tolist() if results.masks is None else results.masks
    key = "bbox" if results.masks is None else "segmentation"
    for image_id, category_id, score, shape in zip(
        results.image_ids.tolist(), results.category_ids.tolist(), results.scores.tolist(), geometry, strict=True
    ):
        yield {"image_id": image_id, "category_id": category_id, "score": score, key: shape}


@contextlib.contextmanager
def _official_lvis() -> Iterator[Any]:
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
