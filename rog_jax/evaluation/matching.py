"""Which detection finds which object: LVIS's matching with the matches kept, where an evaluator gives only its curves.

`evaluate_lvis` does not come by here. What does is what needs single matches (AP-pool, the analysis of errors) or
another overlap (boundary AP).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from hotcoco import mask as hotcoco_mask
from jaxtyping import Bool, Float, Int

from rog_jax.evaluation.evaluators import counted
from rog_jax.evaluation.results_file import Results
from rog_jax.evaluation.truth import Truth
from rog_jax.evaluation.truth_masks import object_codes

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREA_RANGES = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
"""Pixels: all, small, medium, large; both ends belong to a range, as in lvis 0.5.3."""
_JUST_BELOW_ONE = 1 - 1e-10  # the evaluators' largest threshold, so that rounding cannot undo a perfect match

Overlaps = Callable[[Int[np.ndarray, " D"], Int[np.ndarray, " G"]], Float[np.ndarray, "D G"]]
"""Overlap of each of some detections (rows of the results) with each of some objects (places in `truth.solid`)."""


class Pair(NamedTuple):
    """What there is of one category in one image, where it has objects and a detection that overlaps one.

    Attributes:
        detections: places in `Candidates`, as a slice.
        objects: places in `Candidates`, as a slice.
        overlaps: [D, G].
    """

    detections: slice
    objects: slice
    overlaps: Float[np.ndarray, "D G"]


class Candidates(NamedTuple):
    """Detections and objects that LVIS evaluates, sorted by image and category, detections then by falling score.

    Attributes:
        rows: int64 [M], of the results.
        images: int64 [M], places in `truth.image_ids`.
        labels: int64 [M], places in `truth.category_ids`.
        scores: float64 [M].
        areas: float64 [M], pixels.
        not_exhaustive: bool [M], whether objects of the category may be missing in the image.
        objects: int64 [O], places in `truth.solid`.
        object_labels: int64 [O].
        object_areas: float64 [O], pixels.
        object_ignored: bool [O], by the annotation's own "ignore".
        pairs: those in which a detection overlaps an object by the smallest threshold at least.
    """

    rows: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    areas: np.ndarray
    not_exhaustive: np.ndarray
    objects: np.ndarray
    object_labels: np.ndarray
    object_areas: np.ndarray
    object_ignored: np.ndarray
    pairs: list[Pair]


class Matches(NamedTuple):
    """What the detections of `Candidates` found, at each threshold.

    Attributes:
        objects: int64 [T, M], the object's place in `Candidates`, -1 for none.
        ignored: bool [T, M], detections that count neither as right nor as wrong.
        object_ignored: bool [O], objects that need not be found.
    """

    objects: np.ndarray
    ignored: np.ndarray
    object_ignored: np.ndarray


def candidates(truth: Truth, results: Results, overlaps: Overlaps | None = None) -> Candidates:
    """Sorts what is evaluated and computes overlaps within each image and category.

    Args:
        truth: the ground truth.
        results: the detections, capped already.
        overlaps: IoU of boxes or of masks, as the results have them, if not given.
    """
    overlaps = overlaps or intersection_over_union(truth, results)
    rows = np.flatnonzero(counted(truth, results))
    images = np.searchsorted(truth.image_ids, results.image_ids[rows])
    labels = np.searchsorted(truth.category_ids, results.category_ids[rows])
    order = np.lexsort((-results.scores[rows], labels, images))  # stable
    rows, images, labels = rows[order], images[order], labels[order]
    object_images = np.searchsorted(truth.image_ids, np.array([found["image_id"] for found in truth.solid], np.int64))
    object_labels = np.searchsorted(
        truth.category_ids, np.array([found["category_id"] for found in truth.solid], np.int64)
    )
    objects = np.lexsort((object_labels, object_images))
    width = len(truth.category_ids)
    keys, object_keys = images * width + labels, (object_images * width + object_labels)[objects]
    return Candidates(
        rows=rows,
        images=images,
        labels=labels,
        scores=results.scores[rows],
        areas=results.areas[rows],
        not_exhaustive=truth.not_exhaustive[images, labels],
        objects=objects,
        object_labels=object_labels[objects],
        object_areas=np.array([truth.solid[place]["area"] for place in objects.tolist()], np.float64),
        object_ignored=np.array([bool(truth.solid[place].get("ignore")) for place in objects.tolist()], bool),
        pairs=_pairs(rows, keys, objects, object_keys, overlaps),
    )


def _pairs(
    rows: np.ndarray, keys: np.ndarray, objects: np.ndarray, object_keys: np.ndarray, overlaps: Overlaps
) -> list[Pair]:
    shared = np.intersect1d(keys, object_keys)
    bounds = [np.searchsorted(column, shared, side) for column in (keys, object_keys) for side in ("left", "right")]
    pairs = []
    for start, stop, first, last in zip(*(bound.tolist() for bound in bounds), strict=True):
        overlap = overlaps(rows[start:stop], objects[first:last])
        if overlap.max() >= IOU_THRESHOLDS[0]:
            pairs.append(Pair(slice(start, stop), slice(first, last), overlap))
    return pairs


def intersection_over_union(truth: Truth, results: Results) -> Overlaps:
    """IoU of boxes, or of masks, as the results have them."""
    if results.masks is None:
        object_boxes = np.array([found["bbox"] for found in truth.solid], np.float64).reshape(-1, 4)
        return lambda rows, objects: hotcoco_mask.bbox_iou(
            results.boxes[rows], object_boxes[objects], np.zeros(len(objects), bool)
        )
    codes, object_masks = results.masks, object_codes(truth)

    def overlaps(rows: np.ndarray, objects: np.ndarray) -> np.ndarray:
        theirs = [object_masks[place] for place in objects.tolist()]
        return hotcoco_mask.iou(codes.take(rows).codes(), theirs, [False] * len(theirs))

    return overlaps


def match(found: Candidates, area_range: tuple[float, float] = AREA_RANGES[0]) -> Matches:
    """Gives each detection, the best first, the free object that it overlaps most.

    An object outside the range of areas need not be found; a detection takes one only where it overlaps no other
    enough. A detection without an object counts as wrong unless its area is outside the range or the image is not
    exhaustively annotated for its category.
    """
    low, high = area_range
    object_ignored = found.object_ignored | (found.object_areas < low) | (found.object_areas > high)
    shape = len(IOU_THRESHOLDS), len(found.rows)
    objects, ignored = np.full(shape, -1), np.zeros(shape, bool)
    for pair in found.pairs:
        taken = _match_pair(pair.overlaps, object_ignored[pair.objects])  # [T, D]
        objects[:, pair.detections] = np.where(taken >= 0, taken + pair.objects.start, -1)
    some = objects >= 0
    ignored[some] = object_ignored[objects[some]]
    ignored |= ~some & ((found.areas < low) | (found.areas > high) | found.not_exhaustive)
    return Matches(objects, ignored, object_ignored)


def _match_pair(overlaps: Float[np.ndarray, "D G"], ignored: Bool[np.ndarray, " G"]) -> Int[np.ndarray, "T D"]:
    """The place of the object that each detection finds, -1 for none; the last of several that it overlaps equally."""
    needed = np.minimum(IOU_THRESHOLDS, _JUST_BELOW_ONE)
    free = np.ones((len(needed), overlaps.shape[1]), bool)
    found = np.full((len(needed), len(overlaps)), -1)
    for detection in np.flatnonzero(overlaps.max(axis=1) >= needed[0]).tolist():
        overlap = overlaps[detection]
        possible = free & (overlap >= needed[:, None])  # [T, G]
        required = possible & ~ignored
        possible = np.where(required.any(axis=1, keepdims=True), required, possible)
        best = len(overlap) - 1 - np.argmax(np.where(possible, overlap, -1.0)[:, ::-1], axis=1)  # [T]
        hit = np.flatnonzero(possible.any(axis=1))
        found[hit, detection] = best[hit]
        free[hit, best[hit]] = False
    return found


def curve(
    right: Bool[np.ndarray, "T M"], wrong: Bool[np.ndarray, "T M"], objects: int
) -> tuple[Float[np.ndarray, "T 101"], Float[np.ndarray, " T"]]:
    """Precision at the recalls 0.00 .. 1.00, and the recall of all, of detections in the order of their ranking.

    Args:
        right: detections that found an object.
        wrong: detections that found none; those that are neither are left out.
        objects: the number of objects to find, positive.
    """
    hits, misses = np.cumsum(right, axis=1, dtype=np.float64), np.cumsum(wrong, axis=1, dtype=np.float64)
    precision = np.zeros((len(right), len(RECALLS)))
    for place, (hit, miss) in enumerate(zip(hits, misses, strict=True)):
        at = hit / (miss + hit + np.spacing(1))
        best_from_here = np.maximum.accumulate(at[::-1])[::-1]
        reached = np.searchsorted(hit / objects, RECALLS, side="left")
        inside = reached < len(hit)
        precision[place, inside] = best_from_here[reached[inside]]
    return precision, hits[:, -1] / objects if hits.shape[1] else np.zeros(len(right))


def category_curves(found: Candidates, matches: Matches, categories: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision [T, 101, C] and recall [T, C] of each category, -1 where there is no object to find."""
    to_find = np.bincount(found.object_labels[~matches.object_ignored], minlength=categories)
    order = np.lexsort((-found.scores, found.labels))  # stable
    bounds = np.searchsorted(found.labels[order], np.arange(categories + 1))
    precision = np.full((len(IOU_THRESHOLDS), len(RECALLS), categories), -1.0)
    recall = np.full((len(IOU_THRESHOLDS), categories), -1.0)
    for label in np.flatnonzero(to_find).tolist():
        places = order[bounds[label] : bounds[label + 1]]
        precision[..., label], recall[:, label] = curve(*_right_and_wrong(matches, places), int(to_find[label]))
    return precision, recall


def pooled_curve(found: Candidates, matches: Matches, in_pool: Bool[np.ndarray, " C"]) -> np.ndarray:
    """Precision [T, 101] of one ranking over all categories of a pool; -1 where there is no object to find."""
    to_find = int(np.sum(in_pool[found.object_labels] & ~matches.object_ignored))
    if not to_find:
        return np.full((len(IOU_THRESHOLDS), len(RECALLS)), -1.0)
    places = np.flatnonzero(in_pool[found.labels])
    places = places[np.argsort(-found.scores[places], kind="stable")]
    return curve(*_right_and_wrong(matches, places), to_find)[0]


def _right_and_wrong(matches: Matches, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    some, ignored = matches.objects[:, places] >= 0, matches.ignored[:, places]
    return some & ~ignored, ~some & ~ignored
