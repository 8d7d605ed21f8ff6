"""TIDE: how much AP50 each kind of error costs (Bolya et al., arXiv:2008.08115), by hotcoco."""

from typing import Any

import numpy as np

from rog_jax.evaluation.evaluators import counted, hotcoco_evaluation, with_ignored_areas
from rog_jax.evaluation.results_file import Results
from rog_jax.evaluation.truth import Truth

ERRORS = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
"""Wrong category; overlap of 0.1 to 0.5; both; a second detection of a found object; background; never detected."""


def tide_errors(truth: Truth, results: Results) -> dict[str, Any]:
    """What AP50 would gain if one kind of error were mended, and how many errors of each kind there are.

    Detections that LVIS does not evaluate are no errors.

    Args:
        truth: the ground truth.
        results: the detections, limited already.

    Returns:
        "ap50"; "gain", {error: AP50 gained, a fraction of 1}; "share", {error: its part of the sum of gains}, NaN
        without gains; "counts", {error: number}.
    """
    solid = with_ignored_areas(truth.lvis_json())
    evaluated = results.take(np.flatnonzero(counted(truth, results)))
    measured = hotcoco_evaluation(solid, evaluated, lvis_style=True).tide_errors(0.5, 0.1)
    gain = {error: float(measured["delta_ap"][error]) for error in ERRORS}
    whole = sum(gain.values())
    return {
        "ap50": float(measured["ap_base"]),
        "gain": gain,
        "share": {error: value / whole if whole else float("nan") for error, value in gain.items()},
        "counts": {error: int(measured["counts"][error]) for error in ERRORS},
    }
