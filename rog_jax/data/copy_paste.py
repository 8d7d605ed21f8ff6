"""Simple copy-paste: objects of another image on top of this one (Ghiasi et al. 2021)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from rog_jax.data.annotations import Annotations
from rog_jax.data.shown import CELLS, Shown, fit_to_mask

MIN_VISIBLE = 0.1
"""Objects of which pasting leaves a smaller share are taken out."""


class PasteSource:
    """The objects that may be pasted: those of training that have a mask.

    With `even`, every category is as likely as any other, so that rare ones are pasted far more often than they occur;
    otherwise every image is.
    """

    def __init__(self, annotations: Annotations, even: bool):
        usable = np.flatnonzero(annotations.trainable & annotations.has_segmentation)
        self._even = even
        keys = annotations.labels[usable] if even else annotations.images_of_objects[usable]
        order = np.argsort(keys, kind="stable")
        self._objects = usable[order].astype(np.int32)
        self._starts = np.append(np.flatnonzero(np.diff(keys[order], prepend=-1)), len(order)).astype(np.int32)

    def draw(
        self, annotations: Annotations, limit: int, rng: np.random.Generator
    ) -> tuple[int, Int64[np.ndarray, "K"]] | None:
        """An image and 1 to `limit` of its objects, random ones, or with `even` those of the category drawn.

        None where the data has no object with a mask.
        """
        if len(self._starts) < 2:
            return None
        group = int(rng.integers(len(self._starts) - 1))
        members = self._objects[self._starts[group] : self._starts[group + 1]].astype(np.int64)
        if self._even:
            first = rng.choice(members)
            image = int(annotations.images_of(first))
            members = members[annotations.images_of(members) == image]
            return image, np.sort(rng.permutation(members)[:limit])
        image = int(annotations.images_of(members[0]))
        count = int(rng.integers(1, min(limit, len(members)) + 1))
        return image, np.sort(rng.choice(members, count, replace=False))


def paste(
    canvas: UInt8[np.ndarray, "H W 3"], other: UInt8[np.ndarray, "H W 3"], pasted: Sequence[Shown]
) -> Bool[np.ndarray, "H W"]:
    """Copies the pixels of objects from another example onto this one, in place; the pixels that they cover."""
    covered = np.zeros(canvas.shape[:2], bool)
    for shown in pasted:
        left, top, right, bottom = _pixels(shown.box)
        region = (slice(top, bottom), slice(left, right))
        mask = shown.sample(np.array([left, top, right, bottom], np.float64), (bottom - top, right - left))
        canvas[region][mask] = other[region][mask]
        covered[region] |= mask
    return covered


def uncovered(shown: Sequence[Shown], covered: Bool[np.ndarray, "H W"]) -> list[Shown]:
    """Objects under pasted ones: their masks without what is covered, their boxes around what is left.

    Objects of which less than MIN_VISIBLE is left are taken out. One without a mask keeps its box.
    """
    return [left for one in shown if (left := _uncovered(one, covered)) is not None]


def _uncovered(shown: Shown, covered: np.ndarray) -> Shown | None:
    left, top, right, bottom = _pixels(shown.box)
    if shown.sample is None or not covered[top:bottom, left:right].any():
        return shown
    before = shown.sample

    def sample(box: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
        x, y = (
            np.clip(
                (box[axis] + (np.arange(count) + 0.5) / count * (box[axis + 2] - box[axis])).astype(int),
                0,
                covered.shape[1 - axis] - 1,
            )
            for axis, count in enumerate(cells[::-1])
        )
        return before(box, cells) & ~covered[y[:, None], x[None, :]]

    after = sample(shown.box, CELLS)
    if after.sum() < MIN_VISIBLE * max(before(shown.box, CELLS).sum(), 1):
        return None
    return fit_to_mask(shown._replace(sample=sample))


def _pixels(box: np.ndarray) -> list[int]:
    """Left, top, right and bottom of the whole pixels that a box touches."""
    return [*np.floor(box[:2]).astype(int).tolist(), *np.ceil(box[2:]).astype(int).tolist()]
