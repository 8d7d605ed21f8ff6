"""How far an array is from its golden twin, and which rows of two lists of boxes belong together."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray


class Check(NamedTuple):
    """One key of a golden file, compared.

    Attributes:
        key: of the file.
        error: by the measure.
        tolerance: the largest error that passes, in the same unit.
        measure: name of the measure.
    """

    key: str
    error: float
    tolerance: float
    measure: str

    @property
    def passed(self) -> bool:
        """Whether the error is a number within the tolerance."""
        return bool(self.error <= self.tolerance)


def of_largest(ours: Array, theirs: Array) -> float:
    """Largest difference in units of the array's largest entry."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def absolute(ours: Array, theirs: Array) -> float:
    """Largest difference."""
    return float(np.abs(ours - theirs).max(initial=0))


def relative(ours: Array, theirs: Array) -> float:
    """Largest difference in units of their entry; entries of a millionth of the largest count as that."""
    floor = max(1e-6 * np.abs(theirs).max(), np.finfo(np.float32).tiny)
    return float((np.abs(ours - theirs) / np.maximum(np.abs(theirs), floor)).max())


def different(ours: Array, theirs: Array) -> float:
    """Number of entries that are not equal."""
    return float((ours != theirs).sum())


def mask_areas(ours: Array, theirs: Array) -> float:
    """Largest difference of two areas in pixels, in units of 0.2 % of the area and 5 pixels."""
    return float((np.abs(ours - theirs) / (0.002 * theirs + 5)).max())


def mask_pixels(ours: Array, theirs: Array) -> float:
    """Most pixels in which two masks of [n, H, W / 8], packed along x, differ, in units of 0.2 % of the area and 5."""
    pixels, area = (np.bitwise_count(packed).sum((1, 2), dtype=np.int64) for packed in (ours ^ theirs, theirs))
    return float((pixels / (0.002 * area + 5)).max())


MEASURES: dict[str, Callable[[Array, Array], float]] = {
    "of largest": of_largest,
    "absolute": absolute,
    "relative": relative,
    "different": different,
    "mask areas": mask_areas,
    "mask pixels": mask_pixels,
}


def compare(key: str, ours: Any, theirs: Any, measure: str, tolerance: float | int) -> Check:
    """The check of one key; another shape is an infinite error."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.dtype.kind == "f" or theirs.dtype.kind == "f":
        ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    error = MEASURES[measure](ours, theirs) if ours.shape == theirs.shape else np.inf
    return Check(key, error, tolerance, measure)


def matching_rows(ours: Array, theirs: Array, our_labels: Array | None = None, labels: Array | None = None) -> Array:
    """For each of their boxes the row of the nearest of ours that no earlier one took, of the same label if given.

    Lists sorted by score may swap neighbours whose scores differ by less than rounding, so rows are matched by what
    they hold. The distance of two boxes is the largest difference of their coordinates. Where ours has too few rows of
    a label the nearest of another label stands in, and its distance and label will show.
    """
    distance = np.abs(theirs[:, None].astype(np.float64) - ours[None]).max(-1)  # [theirs, ours]
    if labels is not None:
        distance = distance + 1e6 * (labels[:, None] != our_labels[None])
    rows = np.zeros(len(theirs), np.int64)
    for row in range(len(theirs)):
        rows[row] = distance[row].argmin()
        distance[:, rows[row]] = np.inf
    return rows


def disorder(scores: Array) -> float:
    """By how much a list that should fall rises at most: 0 for a sorted one."""
    return float(np.diff(scores).max(initial=0))
