"""AP-pool: one ranking over all categories (Dave et al., arXiv:2102.01066, section 5)."""

from pathlib import Path

import numpy as np

from rog_jax.evaluation.lvis import GROUPS, read_both
from rog_jax.evaluation.matching import candidates, match, pooled_curve
from rog_jax.evaluation.results_file import IouType, Results
from rog_jax.evaluation.truth import Truth


def evaluate_lvis_pooled(
    annotations_json: str | Path | Truth, results_json: str | Path | Results, iou_type: IouType
) -> dict[str, float]:
    """AP of a pool of categories: matched per category as always, then ranked together as if they were one.

    AP is blind to how the scores of one category compare with those of another; AP-pool is not: a detector that gives
    rare categories low scores for right detections loses. As in the authors' program, all detections take part, with
    no limit for an image or a category.

    Args:
        annotations_json: as for `evaluate_lvis`.
        results_json: as for `evaluate_lvis`.
        iou_type: "bbox" or "segm".

    Returns:
        AP, AP50, AP75 of all categories in one pool; APr, APc, APf of one pool a frequency group. Fractions of 1, NaN
        for a pool without an object to find.

    Raises:
        FileNotFoundError, ValueError: as `evaluate_lvis`.
    """
    truth, results = read_both(annotations_json, results_json, iou_type)
    found = candidates(truth, results)
    matches = match(found)
    frequency = np.array([category["frequency"] for category in truth.categories])
    every = pooled_curve(found, matches, np.ones(len(frequency), bool))  # [10, 101]
    pools = {"AP": every, "AP50": every[0], "AP75": every[5]}
    pools |= {f"AP{group}": pooled_curve(found, matches, frequency == group) for group in GROUPS}
    return {
        name: float(precision.mean()) if precision.max() >= 0 else float("nan") for name, precision in pools.items()
    }
