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
