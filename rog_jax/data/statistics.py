"""How often each category occurs in a training set: what long-tail losses and calibrations are built from."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from rog_jax.data.annotations import Annotations


class ClassStatistics(NamedTuple):
    """Counts over a training set, crowds aside; they travel with a run's checkpoints, since evaluation needs them too.

    Attributes:
        image_counts: images in which each category occurs, C of them.
        instance_counts: objects of each category.
        num_images: images with at least one object.
    """

    image_counts: tuple[int, ...]
    instance_counts: tuple[int, ...]
    num_images: int

    @property
    def image_shares(self) -> Float64[np.ndarray, "C"]:
        """Share of the images in which each category occurs: the frequency f of EQL and DropLoss."""
        return np.asarray(self.image_counts) / max(self.num_images, 1)

    @staticmethod
    def of(annotations: Annotations) -> "ClassStatistics":
        """The counts of a data set."""
        counts = (tuple(array.tolist()) for array in (annotations.image_counts, annotations.instance_counts))
        return ClassStatistics(*counts, int(np.count_nonzero(np.diff(annotations.offsets))))

    @staticmethod
    def from_json(values: dict[str, Any]) -> "ClassStatistics":
        """From the json object that `_asdict` becomes."""
        return ClassStatistics(tuple(values["image_counts"]), tuple(values["instance_counts"]), values["num_images"])
