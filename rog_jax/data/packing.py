"""Steps that readers of several formats share: from columns of a file to the arrays of `Annotations`."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rog_jax.data.annotations import DataError

logger = logging.getLogger(__name__)

SILENT_OVERHANG = 1.0
"""Pixels by which a box may stick out of its image without a word: what rounding leaves."""
MIN_BOX_SIDE = 1.0
"""Thinner objects are no training objects, in pixels of the file; MMDetection does the same."""


def places_of(known_ids: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The place of each id among `known_ids`, and whether it is one of them."""
    order = np.argsort(known_ids, kind="stable")
    ranks = np.minimum(np.searchsorted(known_ids[order], ids), len(known_ids) - 1)
    places = order[ranks]
    return places, known_ids[places] == ids


def offsets_of(places: np.ndarray, count: int) -> np.ndarray:
    """Where the entries of each of `count` owners begin and end among rising `places`, [count + 1]."""
    return np.searchsorted(places, np.arange(count + 1)).astype(np.int64)


def clipped_boxes(
    path: Path, ids: np.ndarray, image_ids: np.ndarray, boxes: np.ndarray, sizes: np.ndarray
) -> np.ndarray:
    """Boxes (x, y, width, height) as corners clipped to their images, [O, 4] float64.

    Args:
        path: for messages, as `ids` of the annotations and `image_ids` of their images, both [O].
        boxes: in pixels, [O, 4].
        sizes: (height, width) of the images, [O, 2].

    Raises:
        DataError: a side is negative, or nothing of a box is inside its image.
    """
    limits = np.concatenate([sizes[:, ::-1], sizes[:, ::-1]], axis=1).astype(np.float64)  # [O, 4]: x, y, x, y
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    clipped = np.clip(corners, 0, limits)
    outside = (corners[:, 2:] < 0).any(axis=1) | (corners[:, :2] > limits[:, 2:]).any(axis=1)
    outside |= ((clipped[:, 2:] <= clipped[:, :2]) & (boxes[:, 2:] > 0)).any(axis=1)
    for wrong, what in (
        ((boxes[:, 2:] < 0).any(axis=1), "has a negative width or height (the format is x, y, width, height)"),
        (outside, "lies outside its image of {height} x {width} pixels (the format is x, y, width, height)"),
    ):
        if wrong.any():
            i = int(np.argmax(wrong))
            reason = what.format(height=sizes[i, 0], width=sizes[i, 1])
            raise DataError(
                f"{path}: annotation {ids[i]}, image {image_ids[i]}: bbox {boxes[i].tolist()} {reason}. Correct it, or "
                "leave the annotation out."
            )
    overhang = np.abs(clipped - corners).max(axis=1, initial=0) > SILENT_OVERHANG
    warn_objects(path, ids, overhang, "stick out of their images: clipped")
    return clipped


def count_categories(
    labels: np.ndarray, offsets: np.ndarray, counted: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Images and instances of each category, [C] and [C], among the objects that are `counted` [O]."""
    images = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))[counted]
    pairs = np.unique(images * num_classes + labels[counted])
    return (
        np.bincount(pairs % num_classes, minlength=num_classes).astype(np.int64),
        np.bincount(labels[counted], minlength=num_classes).astype(np.int64),
    )


def unique_ids(path: Path, what: str, ids: Sequence[int] | np.ndarray | Any) -> np.ndarray:
    """Ids as int64.

    Raises:
        DataError: one occurs twice.
    """
    ids = np.array(ids, np.int64)
    values, counts = np.unique(ids, return_counts=True)
    if len(values) < len(ids):
        twice = values[counts > 1]
        raise DataError(
            f"{path}: {what} id {twice[0]} occurs {counts.max()} times ({len(twice)} such ids). Ids must be unique: "
            "renumber them, or remove the copies."
        )
    return ids


def warn_objects(path: Path, ids: np.ndarray, marked: np.ndarray, what: str) -> None:
    """Logs how many annotations are `marked` and the first of them."""
    if marked.any():
        first = ids[int(np.argmax(marked))]
        logger.warning("%s: %d objects %s (the first is annotation %d)", path, marked.sum(), what, first)


def warn_left_out(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Logs which objects training leaves out, and why."""
    ids, trainable, crowd = arrays["annotation_ids"], arrays["trainable"], arrays["crowd"]
    warn_objects(path, ids, ~trainable & ~crowd, "have no area or are thinner than a pixel: left out of training")
    warn_objects(path, ids, ~trainable & crowd, "are crowds: left out of training")
