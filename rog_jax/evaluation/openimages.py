"""The OpenImages Challenge's figure: AP at IoU 0.5, with group-of boxes, verified labels and frequency groups.

Matching is that of the challenge's evaluator (TensorFlow's object_detection, `OpenImagesChallengeEvaluator`) and of
MMDetection's `eval_map`, which agree: a detection belongs to the box that it overlaps most, and is wrong if a better
one has taken that.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

GROUPS = ("1", "2", "3", "4", "5")
IOU_THRESHOLD = 0.5
IOA_THRESHOLD = 0.5
"""Part of a detection that must lie in a group-of box."""


class OpenImagesTruth(NamedTuple):
    """Boxes and image labels of a data set, expanded along the hierarchy already.

    Attributes:
        images: int [O], place of each box's image, 0..I-1.
        labels: int [O], 0..C-1.
        boxes: float [O, 4], x1, y1, x2, y2 in any unit.
        group_of: bool [O], boxes around more objects than can be told apart.
        verified: bool [I, C], labels that are known to be, or not to be, in an image; None if all are.
        num_images: I.
        num_classes: C.
    """

    images: Int[np.ndarray, " O"]
    labels: Int[np.ndarray, " O"]
    boxes: Float[np.ndarray, "O 4"]
    group_of: Bool[np.ndarray, " O"]
    verified: Bool[np.ndarray, "I C"] | None
    num_images: int
    num_classes: int


class OpenImagesDetections(NamedTuple):
    """Detections of a data set.

    Attributes:
        images: int [M], place of each detection's image.
        labels: int [M], 0..C-1.
        boxes: float [M, 4], x1, y1, x2, y2 in the unit of the truth.
        scores: float [M].
    """

    images: Int[np.ndarray, " M"]
    labels: Int[np.ndarray, " M"]
    boxes: Float[np.ndarray, "M 4"]
    scores: Float[np.ndarray, " M"]

    def take(self, rows: np.ndarray) -> "OpenImagesDetections":
        """The detections at places `rows`, in that order."""
        return OpenImagesDetections(*(column[rows] for column in self))


def openimages_ap50(
    truth: OpenImagesTruth, detections: OpenImagesDetections, *, group_of: bool = True
) -> Float[np.ndarray, " C"]:
    """AP at IoU 0.5 of each category, the area under the whole curve of precision over recall.

    Detections of labels that are not verified for their image are left out. With `group_of`, the detections that find
    no single box and lie in a group-of box by half of their area at least are together one detection of that box, with
    the best score among them; a group-of box counts as one box to find, as in the challenge (weight 1).

    Args:
        truth: the boxes.
        detections: without a limit, or limited already.
        group_of: whether group-of boxes are treated so, or as any box.

    Returns:
        [C], fractions of 1, NaN for a category without boxes.
    """
    if truth.verified is not None:
        detections = detections.take(np.flatnonzero(truth.verified[detections.images, detections.labels]))
    detections = detections.take(np.lexsort((-detections.scores, detections.labels)))  # stable
    grouped = truth.group_of & group_of
    overlap, box = _most_overlapping(truth, ~grouped, detections, "iou")
    right = _first_of_each(box, overlap >= IOU_THRESHOLD)
    ap = np.full(truth.num_classes, np.nan)
    labels, scores = detections.labels, detections.scores
    if grouped.any():
        overlap, group = _most_overlapping(truth, grouped, detections, "ioa")
        in_group = ~right & (overlap >= IOA_THRESHOLD)
        first = _first_of_each(group, in_group)
        stays = np.flatnonzero(~in_group | first)
        labels, scores, right = labels[stays], scores[stays], (right | first)[stays]
    boxes = np.bincount(truth.labels, minlength=truth.num_classes)
    bounds = np.searchsorted(labels, np.arange(truth.num_classes + 1))
    for label in np.flatnonzero(boxes).tolist():
        ap[label] = _area_under_curve(right[bounds[label] : bounds[label + 1]], int(boxes[label]))
    return ap


def _most_overlapping(
    truth: OpenImagesTruth, chosen: np.ndarray, detections: OpenImagesDetections, kind: str
) -> tuple[Float[np.ndarray, " M"], Int[np.ndarray, " M"]]:
    """The overlap of each detection with the box of its image and category, among the chosen, that it overlaps most,
    and that box's place; overlap 0 and place -1 where there is none. The first of several wins."""
    boxes = np.flatnonzero(chosen)
    keys = truth.images[boxes].astype(np.int64) * truth.num_classes + truth.labels[boxes]
    boxes = boxes[np.argsort(keys, kind="stable")]
    keys = np.sort(keys)
    wanted = detections.images.astype(np.int64) * truth.num_classes + detections.labels
    first, last = np.searchsorted(keys, wanted, "left"), np.searchsorted(keys, wanted, "right")
    overlap, place = np.zeros(len(wanted)), np.full(len(wanted), -1)
    some = np.flatnonzero(last > first)
    if not some.size:
        return overlap, place
    count = (last - first)[some]
    starts = np.cumsum(count) - count
    detection = np.repeat(some, count)  # [pairs]
    box = boxes[np.arange(len(detection)) - np.repeat(starts - first[some], count)]
    pairs = _overlap(detections.boxes[detection], truth.boxes[box], kind)
    overlap[some] = np.maximum.reduceat(pairs, starts)
    is_best = pairs == np.repeat(overlap[some], count)
    place[some] = box[np.minimum.reduceat(np.where(is_best, np.arange(len(pairs)), len(pairs)), starts)]
    return overlap, place


def _overlap(
    detections: Float[np.ndarray, "P 4"], boxes: Float[np.ndarray, "P 4"], kind: str
) -> Float[np.ndarray, " P"]:
    """Intersection over union, or over the detection's own area, of each pair."""
    sides = np.minimum(detections[:, 2:], boxes[:, 2:]) - np.maximum(detections[:, :2], boxes[:, :2])
    common = np.prod(np.maximum(sides, 0), axis=1)
    areas = [np.prod(corners[:, 2:] - corners[:, :2], axis=1) for corners in (detections, boxes)]
    whole = areas[0] if kind == "ioa" else areas[0] + areas[1] - common
    return np.divide(common, whole, out=np.zeros_like(common), where=whole > 0)


def _first_of_each(box: Int[np.ndarray, " M"], close: Bool[np.ndarray, " M"]) -> Bool[np.ndarray, " M"]:
    """The first, which is the best, of the detections that are close to a box, for each box."""
    places = np.flatnonzero(close)
    first = np.zeros(len(close), bool)
    first[places[np.unique(box[places], return_index=True)[1]]] = True
    return first


def _area_under_curve(right: Bool[np.ndarray, " M"], boxes: int) -> float:
    if not right.any():
        return 0.0
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best_from_here[right].sum() / boxes)


def openimages_figures(ap: Float[np.ndarray, " C"], groups: Sequence[str]) -> dict[str, float]:
    """Means of the AP of categories, NaN left out: "AP50", and "AP50_1" .. "AP50_5" of the frequency groups.

    Args:
        ap: from `openimages_ap50`.
        groups: the group of each category, "1" (rarest) to "5" (`Annotations.frequencies`).
    """
    of_group = np.array(groups)
    names = {"AP50": np.ones(len(ap), bool)} | {f"AP50_{group}": of_group == group for group in GROUPS}
    return {name: _mean(ap[members]) for name, members in names.items()}


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
