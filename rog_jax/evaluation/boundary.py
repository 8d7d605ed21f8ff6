"""Boundary AP: masks compared by their boundaries too (Cheng et al., "Boundary IoU", arXiv:2103.16562)."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from hotcoco import mask as hotcoco_mask
from jaxtyping import UInt8
from pycocotools import mask as coco_mask

from rog_jax.evaluation.lvis import all_figures, read_both
from rog_jax.evaluation.matching import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    Overlaps,
    candidates,
    category_curves,
    intersection_over_union,
    match,
)
from rog_jax.evaluation.paste import encode_crop
from rog_jax.evaluation.results_file import Results, keep_best
from rog_jax.evaluation.truth import Truth
from rog_jax.evaluation.truth_masks import object_codes

DILATION_RATIO = 0.02
"""Width of a boundary as a part of the image's diagonal, the paper's for LVIS and COCO."""


def evaluate_boundary(
    annotations_json: str | Path | Truth,
    results_json: str | Path | Results,
    max_detections: int = 300,
) -> dict[str, Any]:
    """The LVIS metrics of masks with min(mask IoU, boundary IoU) for the IoU.

    As in the authors' program, except that an area on the limit of two ranges belongs to both, as in lvis 0.5.3.

    Args:
        annotations_json: as for `evaluate_lvis`.
        results_json: as for `evaluate_lvis`, of masks.
        max_detections: the best so many of each image take part; -1 for all.

    Returns:
        What `evaluate_lvis` returns.

    Raises:
        FileNotFoundError, ValueError: as `evaluate_lvis`; an object without a mask.
    """
    truth, results = read_both(annotations_json, results_json, "segm")
    results = keep_best(results, max_detections)
    found = candidates(truth, results, boundary_overlaps(truth, results))
    categories = len(truth.category_ids)
    curves = [category_curves(found, match(found, area_range), categories) for area_range in AREA_RANGES]
    precision, recall = (np.stack(parts, axis=-1) for parts in zip(*curves, strict=True))
    return all_figures(truth, precision, recall, f"@{max_detections}")


def boundary_overlaps(truth: Truth, results: Results) -> Overlaps:
    """min(mask IoU, boundary IoU), the second looked at only where the first could be a match."""
    mask_overlaps, object_masks = intersection_over_union(truth, results), object_codes(truth)

    def overlaps(rows: np.ndarray, objects: np.ndarray) -> np.ndarray:
        least = mask_overlaps(rows, objects)
        close = least >= IOU_THRESHOLDS[0]
        ours, theirs = np.flatnonzero(close.any(axis=1)), np.flatnonzero(close.any(axis=0))
        if ours.size:
            detected = [boundary_code(code) for code in results.masks.take(rows[ours]).codes()]
            true = [boundary_code(object_masks[place]) for place in objects[theirs].tolist()]
            block = np.ix_(ours, theirs)
            least[block] = np.minimum(least[block], hotcoco_mask.iou(detected, true, [False] * len(true)))
        return least

    return overlaps


def boundary_code(code: dict[str, Any], dilation_ratio: float = DILATION_RATIO) -> dict[str, Any]:
    """The pixels of a mask that lie no further from its outline than the boundary is wide.

    Beyond the edge of the image nothing belongs to the mask, so a mask that ends there has a boundary there.

    Args:
        code: of the mask, {"size": [height, width], "counts": text}.
        dilation_ratio: width of the boundary as a part of the image's diagonal; a pixel at least.
    """
    height, width = code["size"]
    reach = max(round(dilation_ratio * float(np.hypot(height, width))), 1)
    left, top, columns, rows = (int(edge) for edge in hotcoco_mask.to_bbox(code))
    if not columns or not rows:
        return code
    crop = coco_mask.decode(code)[top : top + rows, left : left + columns]
    return encode_crop(_boundary(crop, reach).astype(bool), top, left, height, width)


def _boundary(mask: UInt8[np.ndarray, "h w"], reach: int) -> UInt8[np.ndarray, "h w"]:
    """Pixels of a mask from which a square of 2 * reach + 1 pixels a side reaches beyond it."""
    framed = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inside = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=reach)
    return mask - inside[1:-1, 1:-1]
