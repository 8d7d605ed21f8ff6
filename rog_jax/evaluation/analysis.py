"""Where a detector loses its objects: cut off, taken for another category, or never seen; and what scores are worth.

The paper's Figure 1 names two causes of a poor tail: rare objects are misclassified, or detected with scores so low
that the cut at the best K detections of an image drops them. This tells them apart for any results file.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rog_jax.evaluation.lvis import GROUPS
from rog_jax.evaluation.matching import (
    IOU_THRESHOLDS,
    RECALLS,
    Candidates,
    Matches,
    candidates,
    category_curves,
    intersection_over_union,
    match,
)
from rog_jax.evaluation.results_file import Results, keep_best
from rog_jax.evaluation.truth import Truth

FOUND, CUT_OFF, OTHER_CATEGORY, MISSED = range(4)
OUTCOMES = ("found", "cut_off", "other_category", "missed")
"""Names of the outcomes, in the order of their numbers."""
_AT_50 = 0  # place of IoU 0.5 among the thresholds
SCORE_BINS = 10


class ObjectOutcomes(NamedTuple):
    """What became of each object that has to be found, at IoU 0.5.

    Attributes:
        objects: int [O], places in `truth.solid`.
        labels: int [O], places of their categories.
        outcomes: int [O]: FOUND among the best K detections of the image by its own category; CUT_OFF: found if all
            detections count; OTHER_CATEGORY: overlapped among the best K by a detection of another category; MISSED.
        taken_for: int [O], the category of the best such detection, -1 where the outcome is another.
    """

    objects: Int[np.ndarray, " O"]
    labels: Int[np.ndarray, " O"]
    outcomes: Int[np.ndarray, " O"]
    taken_for: Int[np.ndarray, " O"]


def object_outcomes(truth: Truth, results: Results, max_detections: int) -> ObjectOutcomes:
    """Follows every object through matching and cut.

    Detections of categories for which an image was never searched are not evaluated, but do show what an object was
    taken for, so they are looked at here.

    Args:
        truth: the ground truth.
        results: with more detections an image than the limit, or nothing can be cut off.
        max_detections: the limit K; -1 for none.
    """
    kept = keep_best(results, max_detections)
    required = np.array([not found.get("ignore") for found in truth.solid], bool)
    in_all, in_kept = _found(truth, results), _found(truth, kept)
    outcomes = np.where(in_kept, FOUND, np.where(in_all, CUT_OFF, MISSED))
    taken_for = np.full(len(outcomes), -1)
    lost = required & (outcomes == MISSED)
    taken_for[lost] = _taken_for(truth, kept, np.flatnonzero(lost))
    outcomes[taken_for >= 0] = OTHER_CATEGORY
    labels = np.searchsorted(truth.category_ids, np.array([found["category_id"] for found in truth.solid], np.int64))
    objects = np.flatnonzero(required)
    return ObjectOutcomes(objects, labels[objects], outcomes[objects], taken_for[objects])


def _found(truth: Truth, results: Results) -> np.ndarray:
    """Which objects of `truth.solid` a detection of their category finds."""
    sorted_out = candidates(truth, results)
    places = match(sorted_out).objects[_AT_50]
    found = np.zeros(len(truth.solid), bool)
    found[sorted_out.objects[places[places >= 0]]] = True
    return found


def _taken_for(truth: Truth, results: Results, objects: np.ndarray) -> np.ndarray:
    """The category of the best detection of another category over each object, -1 for none."""
    overlaps = intersection_over_union(truth, results)
    order = np.lexsort((-results.scores, results.image_ids))  # stable: the best first in each image
    image_ids = results.image_ids[order]
    labels = np.searchsorted(truth.category_ids, results.category_ids)
    taken_for = np.full(len(objects), -1)
    of_image: dict[int, list[int]] = {}
    for place, found in enumerate(objects.tolist()):
        of_image.setdefault(truth.solid[found]["image_id"], []).append(place)
    for image_id, places in of_image.items():
        rows = order[slice(*np.searchsorted(image_ids, [image_id, image_id + 1]))]
        if not rows.size:
            continue
        own = np.array([truth.solid[objects[place]]["category_id"] for place in places])
        over = overlaps(rows, objects[places]) >= IOU_THRESHOLDS[_AT_50]  # [D, G]
        over &= results.category_ids[rows][:, None] != own
        best = np.argmax(over, axis=0)
        taken_for[places] = np.where(over.any(axis=0), labels[rows[best]], -1)
    return taken_for


def outcomes_by_group(truth: Truth, found: ObjectOutcomes) -> dict[str, dict[str, int]]:
    """Numbers of objects of each outcome, of all categories ("all") and of each frequency group."""
    groups = _groups(truth)[found.labels]
    members = {"all": np.ones(len(groups), bool)} | {group: groups == group for group in GROUPS}
    return {
        name: {outcome: int(np.sum(found.outcomes[chosen] == number)) for number, outcome in enumerate(OUTCOMES)}
        for name, chosen in members.items()
    }


def confusion_of_groups(truth: Truth, found: ObjectOutcomes) -> dict[str, dict[str, int]]:
    """Objects of each group that were taken for a category of each group."""
    groups = _groups(truth)
    wrong = np.flatnonzero(found.taken_for >= 0)
    of, taken_for = groups[found.labels[wrong]], groups[found.taken_for[wrong]]
    return {group: {other: int(np.sum((of == group) & (taken_for == other))) for other in GROUPS} for group in GROUPS}


def confused_categories(truth: Truth, found: ObjectOutcomes, number: int = 20) -> list[dict[str, Any]]:
    """The pairs of categories that are confused most: "category_id", "taken_for", "objects", most first."""
    wrong = np.flatnonzero(found.taken_for >= 0)
    pairs = np.stack([found.labels[wrong], found.taken_for[wrong]], axis=1)
    pairs, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:number]
    ids = truth.category_ids
    return [
        {"category_id": int(ids[own]), "taken_for": int(ids[other]), "objects": int(count)}
        for (own, other), count in zip(pairs[order], counts[order], strict=True)
    ]


class Calibration(NamedTuple):
    """How often detections of a score are right, at IoU 0.5.

    Attributes:
        counts: int [10], detections with scores in [0, 0.1), [0.1, 0.2) .. [0.9, 1].
        scores: float [10], their mean score, NaN where there is none.
        precision: float [10], the part of them that is right, NaN where there is none.
        error: the expected calibration error: the mean of |score - precision| over detections; NaN without one.
    """

    counts: Int[np.ndarray, " 10"]
    scores: Float[np.ndarray, " 10"]
    precision: Float[np.ndarray, " 10"]
    error: float


def calibration(truth: Truth, found: Candidates, matches: Matches) -> dict[str, Calibration]:
    """Calibration of the evaluated detections of all categories ("all") and of each frequency group.

    Scores above 1, as those of some calibrations, count as 1 for their bin.
    """
    counted = ~matches.ignored[_AT_50]
    right = (matches.objects[_AT_50] >= 0)[counted]
    scores, groups = found.scores[counted], _groups(truth)[found.labels[counted]]
    members = {"all": np.ones(len(groups), bool)} | {group: groups == group for group in GROUPS}
    return {name: _calibration(scores[chosen], right[chosen]) for name, chosen in members.items()}


def _calibration(scores: Float[np.ndarray, " M"], right: np.ndarray) -> Calibration:
    bins = np.clip((scores * SCORE_BINS).astype(np.int64), 0, SCORE_BINS - 1)
    counts = np.bincount(bins, minlength=SCORE_BINS)
    with np.errstate(invalid="ignore"):
        mean_scores = np.bincount(bins, scores, SCORE_BINS) / counts
        precision = np.bincount(bins, right, SCORE_BINS) / counts
        gaps = np.where(counts > 0, np.abs(mean_scores - precision), 0.0)
        error = float(np.sum(gaps * counts) / counts.sum()) if counts.sum() else float("nan")
    return Calibration(counts, mean_scores, precision, error)


def precision_curves(truth: Truth, found: Candidates, matches: Matches) -> dict[str, Float[np.ndarray, " 101"]]:
    """Precision at the recalls 0.00 .. 1.00 at IoU 0.5, the mean over the categories of a group ("all", r, c, f) that
    have objects; NaN for a group that has none."""
    precision, _ = category_curves(found, matches, len(truth.category_ids))
    at_50 = precision[_AT_50]  # [101, C]
    defined, groups = at_50[0] > -1, _groups(truth)
    members = {"all": defined} | {group: defined & (groups == group) for group in GROUPS}
    nothing = np.full(len(RECALLS), np.nan)
    return {name: at_50[:, chosen].mean(axis=1) if chosen.any() else nothing for name, chosen in members.items()}


def _groups(truth: Truth) -> np.ndarray:
    return np.array([category["frequency"] for category in truth.categories], dtype="<U1")
