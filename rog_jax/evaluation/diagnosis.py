"""The analysis of a kind of results as one json object, for reports."""

from typing import Any

import numpy as np

from rog_jax.evaluation.analysis import (
    FOUND,
    ObjectOutcomes,
    calibration,
    confused_categories,
    confusion_of_groups,
    object_outcomes,
    outcomes_by_group,
    precision_curves,
)
from rog_jax.evaluation.matching import candidates, match
from rog_jax.evaluation.results_file import Results, keep_best
from rog_jax.evaluation.tide import tide_errors
from rog_jax.evaluation.truth import Truth

_IMAGES = 6
"""Best, and worst, images that are named."""


def diagnose(truth: Truth, results: Results, max_detections: int) -> dict[str, Any]:
    """Where objects are lost and what scores are worth, at IoU 0.5 and the best K detections of an image.

    Args:
        truth: the ground truth.
        results: with more than K detections an image, or it cannot tell what the cut at K loses.
        max_detections: K; -1 for no limit.

    Returns:
        "max_detections"; "written_detections", the largest number of an image in the results; "outcomes",
        "confusion", "confused_categories", "calibration", "precision_curves" and "tide", as the functions of those
        names describe them; "best_images" and "worst_images", ids. docs/evaluation.md has the layout.
    """
    kept = keep_best(results, max_detections)
    outcomes = object_outcomes(truth, results, max_detections)
    sorted_out = candidates(truth, kept)
    matches = match(sorted_out)
    best, worst = _images(truth, outcomes)
    return {
        "max_detections": max_detections,
        "written_detections": int(np.unique(results.image_ids, return_counts=True)[1].max()),
        "outcomes": outcomes_by_group(truth, outcomes),
        "confusion": confusion_of_groups(truth, outcomes),
        "confused_categories": confused_categories(truth, outcomes),
        "calibration": {
            group: {name: np.asarray(value).tolist() for name, value in measured._asdict().items()}
            for group, measured in calibration(truth, sorted_out, matches).items()
        },
        "precision_curves": {
            group: curve.tolist() for group, curve in precision_curves(truth, sorted_out, matches).items()
        },
        "tide": tide_errors(truth, kept),
        "best_images": best,
        "worst_images": worst,
    }


def _images(truth: Truth, outcomes: ObjectOutcomes) -> tuple[list[int], list[int]]:
    """Ids of images with the most objects found and none lost, and with the most objects lost."""
    ids = np.array([truth.solid[place]["image_id"] for place in outcomes.objects.tolist()], np.int64)
    images, places = np.unique(ids, return_inverse=True)
    found = np.bincount(places[outcomes.outcomes == FOUND], minlength=len(images))
    lost = np.bincount(places[outcomes.outcomes != FOUND], minlength=len(images))
    best = [place for place in np.argsort(-found, kind="stable").tolist() if found[place] and not lost[place]]
    worst = [place for place in np.lexsort((found, -lost)).tolist() if lost[place]]
    return images[best[:_IMAGES]].tolist(), images[worst[:_IMAGES]].tolist()
