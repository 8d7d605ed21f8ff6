"""What a detector found on one picture."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32

from rog_jax.evaluation.drawing import Objects
from rog_jax.evaluation.paste import Rle, encode_detection_mask, paste_whole
from rog_jax.evaluation.results import ImageDetections
from rog_jax.inference.categories import Categories


@dataclass(frozen=True, eq=False)
class Predictions:
    """The detections of one picture, best first; N of them.

    Attributes:
        boxes: x1, y1, x2, y2 in pixels of the picture, clipped to it.
        scores: descending.
        labels: 0..C-1.
        names: of their categories.
        category_ids: as in the annotations that the model was trained on.
        groups: frequency groups of their categories: "r", "c", "f", "1" to "5", or "" where they are not known.
        size: (height, width) of the picture in pixels.
        mask_probabilities: of cells that tile each box; None for a model without masks.
        mask_threshold: a pixel belongs to a mask from this probability on.
    """

    boxes: Float[np.ndarray, "N 4"]
    scores: Float32[np.ndarray, " N"]
    labels: Int32[np.ndarray, " N"]
    names: tuple[str, ...]
    category_ids: Int[np.ndarray, " N"]
    groups: tuple[str, ...]
    size: tuple[int, int]
    mask_probabilities: Float32[np.ndarray, "N M M"] | None
    mask_threshold: float

    @classmethod
    def of(
        cls, found: ImageDetections, categories: Categories, size: tuple[int, int], mask_threshold: float
    ) -> "Predictions":
        """From detections on the picture, with what their labels mean."""
        labels = found.labels.tolist()
        return cls(
            boxes=found.boxes,
            scores=found.scores,
            labels=found.labels,
            names=tuple(categories.names[label] for label in labels),
            category_ids=categories.ids[found.labels],
            groups=tuple(categories.groups[label] for label in labels),
            size=size,
            mask_probabilities=found.masks,
            mask_threshold=mask_threshold,
        )

    def __len__(self) -> int:
        return len(self.scores)

    @cached_property
    def masks(self) -> Bool[np.ndarray, "N H W"] | None:
        """Masks of the whole picture, made when first asked for: a byte for each pixel and detection."""
        if self.mask_probabilities is None:
            return None
        masks = np.zeros((len(self), *self.size), bool)
        for place, (probabilities, box) in enumerate(zip(self.mask_probabilities, self.boxes, strict=True)):
            masks[place] = paste_whole(probabilities, box, *self.size, self.mask_threshold)
        return masks

    def run_lengths(self) -> list[Rle] | None:
        """The masks as COCO's compressed run-length codes, without making them."""
        if self.mask_probabilities is None:
            return None
        return [
            encode_detection_mask(probabilities, box, *self.size, self.mask_threshold)
            for probabilities, box in zip(self.mask_probabilities, self.boxes, strict=True)
        ]

    def best(self, most: int, least_score: float = 0.0) -> "Predictions":
        """The first `most` detections at the most, of those that score `least_score` or more."""
        kept = min(most, int(np.sum(self.scores >= least_score)))
        cut = {name: getattr(self, name)[:kept] for name in ("boxes", "scores", "labels", "names", "category_ids")}
        masks = None if self.mask_probabilities is None else self.mask_probabilities[:kept]
        return dataclasses.replace(self, **cut, groups=self.groups[:kept], mask_probabilities=masks)

    def objects(self) -> Objects:
        """What `rog_jax.evaluation.drawing` draws."""
        masks = [None] * len(self) if self.masks is None else list(self.masks)
        return Objects(self.boxes, self.labels, self.scores, masks)
