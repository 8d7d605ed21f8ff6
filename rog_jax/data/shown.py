"""The objects that an example shows, with masks that can be sampled at any place and size."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rog_jax.data.annotations import Annotations, Place
from rog_jax.data.batch import MASK_CROP
from rog_jax.data.segmentation import crop_mask
from rog_jax.data.views import View

MIN_SIDE = 1.0
"""Objects that are thinner are dropped, in pixels of the padded image."""
_CUT = 1e-3
"""Boxes that a view's edge moves by less are whole, in pixels."""


Sample = Callable[[np.ndarray, tuple[int, int]], np.ndarray]
"""An object's mask, bool [rows, columns], at the centres of the cells of a box [x1, y1, x2, y2] of the example."""
CELLS = (MASK_CROP, MASK_CROP)


class Shown(NamedTuple):
    """An object in an example: its label, its box in pixels of the padded image, and its mask, if it has one."""

    label: int
    box: np.ndarray
    sample: Sample | None


def shown_objects(
    annotations: Annotations, objects: Sequence[Place] | np.ndarray, view: View, area: tuple[int, int]
) -> list[Shown]:
    """Objects of an image as a view shows them, without those of which it shows nothing.

    The box of an object that the view cuts is that of what is left of its mask, or of its box where it has no mask.

    Args:
        annotations: of the data set.
        objects: of one image.
        view: of that image.
        area: (height, width) of the example's part that pictures may fill; what lies beyond is cut off.
    """
    whole = view.to_example(annotations.boxes[objects].astype(np.float64))
    cut = np.clip(view.clip(whole), 0, [area[1], area[0]] * 2)
    found = []
    for obj, before, box in zip(objects, whole, cut, strict=True):
        if not _is_solid(box):
            continue
        segmentation = annotations.segmentation(obj)
        sample = None if segmentation is None else _sampler(segmentation, view)
        shown = Shown(int(annotations.labels[obj]), box, sample)
        if np.abs(before - box).max() > _CUT:
            shown = fit_to_mask(shown)
        if shown is not None:
            found.append(shown)
    return found


def fit_to_mask(shown: Shown) -> Shown | None:
    """The object with the box around its mask inside its box; None where nothing thicker than a pixel is there."""
    if shown.sample is None:
        return shown
    box = shown.box
    # Each pass sees the mask on a finer grid than the one before, until the box stays.
    for _ in range(3):
        mask = shown.sample(box, CELLS)
        if not mask.any():
            return None
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        cell = (box[2:] - box[:2]) / MASK_CROP
        tight = np.concatenate(
            [box[:2] + cell * (columns[0], rows[0]), box[:2] + cell * (columns[-1] + 1, rows[-1] + 1)]
        )
        if not _is_solid(tight):
            return None
        if np.array_equal(tight, box):
            break
        box = tight
    return shown._replace(box=box)


def _is_solid(box: np.ndarray) -> bool:
    return bool((box[2:] - box[:2] >= MIN_SIDE).all())


def _sampler(segmentation: list | dict, view: View) -> Sample:
    def sample(box: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
        mask = crop_mask(segmentation, view.to_file(box), cells)
        return mask[:, ::-1] if view.flip else mask

    return sample
