"""Naive twins of rog_jax.evaluation: one loop a sum, whole images."""

import math
from collections import defaultdict

import numpy as np


def paste_mask(probabilities: np.ndarray, box: np.ndarray, height: int, width: int, threshold: float) -> np.ndarray:
    """The mask uint8 [height, width]: bilinear sampling at each pixel centre inside the box, pixel by pixel."""
    pasted = np.zeros((height, width), np.uint8)
    x1, y1, x2, y2 = (float(edge) for edge in box)
    if x2 <= x1 or y2 <= y1:
        return pasted
    side = len(probabilities)
    for row in range(height):
        for column in range(width):
            x, y = column + 0.5, row + 0.5
            if x1 <= x <= x2 and y1 <= y <= y2:
                u, v = (x - x1) / (x2 - x1) * side - 0.5, (y - y1) / (y2 - y1) * side - 0.5
                pasted[row, column] = _bilinear(probabilities, v, u) >= threshold
    return pasted


def paste_mask_as_torchvision(probabilities, box, height, width, threshold) -> np.ndarray:
    """`paste_masks_in_image`: frame with a zero, enlarge the box (float32), cut to whole pixels, resize, place."""
    side = len(probabilities)
    framed = np.pad(probabilities, 1).astype(float)
    corners = np.asarray(box, np.float32).reshape(2, 2)
    centre, half = corners.sum(0) / np.float32(2), np.diff(corners, axis=0)[0] / np.float32(2)
    half *= np.float32((side + 2) / side)
    left, top = (int(edge) for edge in centre - half)
    right, bottom = (int(edge) for edge in centre + half)
    columns, rows = max(right - left + 1, 1), max(bottom - top + 1, 1)
    pasted = np.zeros((height, width), np.uint8)
    for row, column in np.ndindex(rows, columns):
        if 0 <= top + row < height and 0 <= left + column < width:
            v, u = (
                max((place + 0.5) * (side + 2) / count - 0.5, 0) for place, count in ((row, rows), (column, columns))
            )
            v, u = min(v, side + 1), min(u, side + 1)
            pasted[top + row, left + column] = _bilinear(framed, v, u) >= threshold
    return pasted


def _bilinear(cells: np.ndarray, v: float, u: float) -> float:
    """The value at row v and column u of a map that is zero outside."""
    total = 0.0
    for row in (math.floor(v), math.floor(v) + 1):
        for column in (math.floor(u), math.floor(u) + 1):
            if 0 <= row < len(cells) and 0 <= column < len(cells):
                total += float(cells[row, column]) * (1 - abs(v - row)) * (1 - abs(u - column))
    return total


def best_of_each(key: str, records: list[dict], number: int) -> list[dict]:
    """The best records of each image (as the official evaluator keeps them) or category, in the order of the file."""
    groups = defaultdict(list)
    for place, record in enumerate(records):
        groups[record[key]].append((place, record))
    kept = []
    for places in groups.values():
        kept += sorted(places, key=lambda item: item[1]["score"], reverse=True)[:number]
    return [record for _, record in sorted(kept, key=lambda item: item[0])]


THRESHOLDS = [0.5 + 0.05 * step for step in range(10)]
RECALL_POINTS = [step / 100 for step in range(101)]


def box_iou(one: dict, other: dict) -> float:
    """Of two records with "bbox" [x, y, width, height]."""
    (x1, y1, w1, h1), (x2, y2, w2, h2) = one["bbox"], other["bbox"]
    width, height = min(x1 + w1, x2 + w2) - max(x1, x2), min(y1 + h1, y2 + h2) - max(y1, y2)
    common = max(width, 0) * max(height, 0)
    return common / (w1 * h1 + w2 * h2 - common) if common else 0.0


def mask_iou(one: dict, other: dict) -> float:
    """Of two records with "pixels", a bool array of the whole image."""
    union = np.sum(one["pixels"] | other["pixels"])
    return float(np.sum(one["pixels"] & other["pixels"]) / union) if union else 0.0


def boundary_of(pixels: np.ndarray, ratio: float = 0.02) -> np.ndarray:
    """Pixels of a mask that have one outside of it, or of the image, within the boundary's width in x and y."""
    height, width = pixels.shape
    reach = max(1, round(ratio * math.sqrt(height**2 + width**2)))
    framed = np.pad(pixels, reach)
    inside = np.ones_like(pixels)
    for row in range(2 * reach + 1):
        for column in range(2 * reach + 1):
            inside &= framed[row : row + height, column : column + width]
    return pixels & ~inside


def boundary_iou(one: dict, other: dict) -> float:
    """min(mask IoU, IoU of the boundaries)."""
    edges = [{"pixels": boundary_of(record["pixels"])} for record in (one, other)]
    return min(mask_iou(one, other), mask_iou(*edges))


def lvis_average_precision(truth: dict, records: list[dict], iou, categories: set[int], threshold: float) -> float:
    """AP at one threshold of one ranking over some categories; one category gives LVIS's AP of it.

    Records and objects have "area"; the objects' order and the records' is that of their files.
    """
    images = sorted(truth["images"], key=lambda image: image["id"])
    ranked, number = [], 0
    for image in images:
        for category in sorted(categories):
            objects = [a for a in truth["annotations"] if (a["image_id"], a["category_id"]) == (image["id"], category)]
            objects = [a for a in objects if a["area"] > 0]
            number += sum(not a.get("ignore") for a in objects)
            found = [r for r in records if (r["image_id"], r["category_id"]) == (image["id"], category)]
            found = sorted((r for r in found if r["area"] > 0), key=lambda record: -record["score"])
            if not objects and category not in image["neg_category_ids"]:
                continue  # nobody looked
            exhaustive = category not in image["not_exhaustive_category_ids"]
            ranked += judge(found, objects, iou, threshold, exhaustive)
    if number == 0:
        return math.nan
    ranked = [right for _, right in sorted(ranked, key=lambda item: -item[0]) if right is not None]
    points = [(sum(ranked[: n + 1]) / number, sum(ranked[: n + 1]) / (n + 1)) for n in range(len(ranked))]
    best = [max((precision for recall, precision in points if recall >= wanted), default=0) for wanted in RECALL_POINTS]
    return sum(best) / len(best)


def judge(found: list[dict], objects: list[dict], iou, threshold: float, exhaustive: bool) -> list[tuple]:
    """(score, right or wrong or None for neither) of the detections of a category in an image, best first."""
    free, judged = list(objects), []
    for record in found:
        close = [(iou(record, a), place, a) for place, a in enumerate(free) if iou(record, a) >= threshold]
        needed = [item for item in close if not item[2].get("ignore")]
        if needed:
            _, place, _ = max(needed, key=lambda item: item[:2])
            judged.append((record["score"], True))
            del free[place]
        elif close:
            _, place, _ = max(close, key=lambda item: item[:2])
            judged.append((record["score"], None))
            del free[place]
        else:
            judged.append((record["score"], False if exhaustive else None))
    return judged


def mean_defined(values) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def openimages_average_precision(images: list[dict], label: int, use_groups: bool) -> float:
    """The challenge's AP of a class: the area under the precision envelope, one detection and one box at a time."""
    ranked, number = [], 0
    for image in images:
        truth = image["ground_truth"]
        boxes = [
            (box, group and use_groups)
            for box, owner, group in zip(truth["boxes"], truth["labels"], truth["group_of"], strict=True)
            if owner == label
        ]
        number += len(boxes)
        found = sorted((d for d in image["detections"] if d["label"] == label), key=lambda d: -d["score"])
        single, groups = [box for box, group in boxes if not group], [box for box, group in boxes if group]
        taken, group_score = set(), {}
        for detection in found:
            overlaps = [_overlap(detection["bbox"], box, of_union=True) for box in single]
            best = max(range(len(single)), key=lambda place: (overlaps[place], -place), default=None)
            if best is not None and overlaps[best] >= 0.5 and best not in taken:
                taken.add(best)
                ranked.append((detection["score"], label, True))
                continue
            overlaps = [_overlap(detection["bbox"], box, of_union=False) for box in groups]
            best = max(range(len(groups)), key=lambda place: (overlaps[place], -place), default=None)
            if best is not None and overlaps[best] >= 0.5:
                if best not in group_score:
                    group_score[best] = detection["score"]
                    ranked.append((detection["score"], label, True))
            else:
                ranked.append((detection["score"], label, False))
    if not number:
        return math.nan
    ranked = [right for _, _, right in sorted(ranked, key=lambda item: -item[0])]
    precision = [sum(ranked[: n + 1]) / (n + 1) for n in range(len(ranked))]
    return sum(max(precision[n:]) for n, right in enumerate(ranked) if right) / number


def _overlap(detection: list, box: list, of_union: bool) -> float:
    width = min(detection[2], box[2]) - max(detection[0], box[0])
    height = min(detection[3], box[3]) - max(detection[1], box[1])
    common = max(width, 0) * max(height, 0)
    own, other = ((b[2] - b[0]) * (b[3] - b[1]) for b in (detection, box))
    return common / (own + other - common if of_union else own)


def fate_of_objects(truth: dict, every: list[dict], kept: list[dict], iou) -> list[tuple[int, int]]:
    """(0 found, 1 cut off, 2 another category, 3 missed; that category or -1) of each object that has to be found.

    Category ids are places of categories here.
    """
    objects = [a for a in truth["annotations"] if a["area"] > 0]
    found_in_all, found_in_kept = found_objects(truth, every, iou), found_objects(truth, kept, iou)
    fates = []
    for place, annotation in enumerate(objects):
        if annotation.get("ignore"):
            continue
        over = [
            (-record["score"], order, record["category_id"])
            for order, record in enumerate(kept)
            if record["image_id"] == annotation["image_id"]
            and record["category_id"] != annotation["category_id"]
            and iou(record, annotation) >= 0.5
        ]
        if place in found_in_kept:
            fates.append((0, -1))
        elif place in found_in_all:
            fates.append((1, -1))
        elif over:
            fates.append((2, min(over)[2]))
        else:
            fates.append((3, -1))
    return fates


def found_objects(truth: dict, records: list[dict], iou) -> set[int]:
    """Places, among the objects with area, of those that a detection of their category finds at IoU 0.5."""
    objects = [a for a in truth["annotations"] if a["area"] > 0]
    found = set()
    for record in sorted((r for r in records if r["area"] > 0), key=lambda record: -record["score"]):
        close = [
            (not a.get("ignore"), iou(record, a), place)
            for place, a in enumerate(objects)
            if (a["image_id"], a["category_id"]) == (record["image_id"], record["category_id"])
            and place not in found
            and iou(record, a) >= 0.5
        ]
        if close:
            found.add(max(close)[2])
    return found


def gradient_sums(gradient: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """[2, C]: sizes of the gradient [N, Q] by each category's logit, over rows of the category and over the others."""
    sums = np.zeros((2, num_classes))
    for row, label in zip(gradient, labels, strict=True):
        for category in range(num_classes):
            sums[0 if label == category else 1, category] += abs(row[category])
    return sums
