"""Which images are in which batch: a pure function of the step, the same on every host."""

import logging
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from rog_jax.data.annotations import Annotations, DataError
from rog_jax.data.samplers import make_sampler
from rog_jax.data.transforms import smallest_shape
from rog_jax.data.views import resized_size

logger = logging.getLogger(__name__)

_ORDER_STREAM = 2


class PlannedBatch(NamedTuple):
    """Epoch of a batch, its padded (height, width), and its images as places in `Annotations`; -1 is padding."""

    epoch: int
    shape: tuple[int, int]
    indices: Int64[np.ndarray, "B"]


class _Epoch(NamedTuple):
    shapes: Int64[np.ndarray, "S"]
    indices: Int64[np.ndarray, "S B"]
    leftovers: Int64[np.ndarray, "L"]


class TrainPlan:
    """The batches of a training run, to be had by step in any order.

    An epoch is what the sampler draws of the images that take part. Its images fall into groups by padded shape; each
    batch has one shape. What does not fill a batch opens that shape's first batch of the next epoch, so no image is
    lost.

    Of computed epochs only the first steps and the images left over are kept, so a plan of any length is small; and
    these are the same whoever computes them, so threads may share a plan.
    """

    def __init__(self, annotations: Annotations, data: Any, sampler: Any, batch_size: int, seed: int):
        """Plans batches of `batch_size` images over all hosts, by the settings config.data and config.sampler.

        Raises:
            DataError: no batch can be filled, or an image fits into none of config.data.shapes.
            ValueError: a sampler that there is not, or a negative threshold.
        """
        self.batch_size = batch_size
        self._seed = seed
        self._shapes = [tuple(shape) for shape in data.shapes]
        categories = annotations.object_categories()
        self._images = usable_images(annotations, categories, data.keep_empty_images, data.min_image_side)
        if not len(self._images):
            raise DataError(self._too_few(annotations))
        self.sampler = make_sampler(sampler, [categories[i] for i in self._images])
        # The largest scale decides, so an image has one shape whatever scale is drawn.
        self._shape_of = np.full(annotations.num_images, -1, np.int32)
        self._shape_of[self._images] = padded_shapes(annotations, self._images, max(data.short_sides), data)
        self._leftovers = {0: np.zeros(0, np.int64)}
        self._first_steps = [0]
        self._recent: tuple[int, _Epoch | None] = (-1, None)
        if self.steps_per_epoch(0) == 0:
            raise DataError(self._too_few(annotations))
        logger.info(
            "an epoch of %s sampling shows %.0f images, %d different ones take part: %d steps of %d",
            sampler.name,
            self.sampler.mean_length,
            self.num_images,
            self.steps_per_epoch(0),
            batch_size,
        )

    def _too_few(self, annotations: Annotations) -> str:
        return (
            f"{annotations.source}: {len(self._images)} of {annotations.num_images} images can be trained on, too few "
            f"for a batch of {self.batch_size} images of one shape. Lower config.train.batch_size, add images, or look "
            "at config.data.min_image_side and config.data.keep_empty_images."
        )

    @property
    def num_images(self) -> int:
        """Images that take part."""
        return len(self._images)

    def steps_per_epoch(self, epoch: int) -> int:
        return self.step_of_epoch(epoch + 1) - self.step_of_epoch(epoch)

    def step_of_epoch(self, epoch: int) -> int:
        """The first step of an epoch, counted from 0."""
        while len(self._first_steps) <= epoch:
            self._epoch(len(self._first_steps) - 1)
        return self._first_steps[epoch]

    def batch(self, step: int) -> PlannedBatch:
        """The batch of a step, counted from 0."""
        while self._first_steps[-1] <= step:
            self._epoch(len(self._first_steps) - 1)
        epoch = int(np.searchsorted(self._first_steps, step, side="right")) - 1
        place = step - self._first_steps[epoch]
        batches = self._epoch(epoch)
        return PlannedBatch(epoch, self._shapes[batches.shapes[place]], batches.indices[place])

    def _epoch(self, epoch: int) -> _Epoch:
        """The batches of an epoch all of whose predecessors have been computed."""
        recent, batches = self._recent
        if recent != epoch:
            batches = self._compute_epoch(epoch)
            self._leftovers[epoch + 1] = batches.leftovers
            if len(self._first_steps) == epoch + 1:
                self._first_steps = [*self._first_steps, self._first_steps[epoch] + len(batches.shapes)]
            self._recent = (epoch, batches)
        return batches

    def _compute_epoch(self, epoch: int) -> _Epoch:
        drawn = self._images[self.sampler.epoch(self._seed, epoch)]
        queue = np.concatenate([self._leftovers[epoch], drawn])
        shapes, batches, leftovers = [], [], []
        for shape in range(len(self._shapes)):
            group = queue[self._shape_of[queue] == shape]
            full = len(group) // self.batch_size
            batches.append(group[: full * self.batch_size].reshape(full, self.batch_size))
            shapes.append(np.full(full, shape))
            leftovers.append(group[full * self.batch_size :])
        joined = np.concatenate(shapes)
        order = np.random.default_rng([self._seed, epoch, _ORDER_STREAM]).permutation(len(joined))
        return _Epoch(joined[order], np.concatenate(batches)[order], np.concatenate(leftovers))


def eval_batches(annotations: Annotations, data: Any, batch_size: int) -> list[PlannedBatch]:
    """Every image once, at the test scale, grouped by padded shape; each group's last batch is padded with -1."""
    everything = np.arange(annotations.num_images)
    shape_of = padded_shapes(annotations, everything, data.test_short_side, data)
    batches = []
    for place, shape in enumerate(data.shapes):
        group = everything[shape_of == place]
        padded = np.full(-(-len(group) // batch_size) * batch_size, -1, np.int64)
        padded[: len(group)] = group
        batches += [PlannedBatch(0, tuple(shape), indices) for indices in padded.reshape(-1, batch_size)]
    return batches


def usable_images(
    annotations: Annotations, categories: list[np.ndarray], keep_empty: bool, min_side: int
) -> Int64[np.ndarray, "N"]:
    """Images that training uses: with an object (unless `keep_empty`) and with no side below `min_side` pixels."""
    large = annotations.image_sizes.min(axis=1) >= min_side
    filled = np.array([len(labels) > 0 for labels in categories], bool)
    return np.flatnonzero(large & (filled | keep_empty))


def padded_shapes(
    annotations: Annotations, images: Int64[np.ndarray, "N"], short_side: int, data: Any
) -> Int32[np.ndarray, "N"]:
    """For each image the place of its padded shape in config.data.shapes.

    Raises:
        DataError: an image fits into none.
    """
    sizes, inverse = np.unique(annotations.image_sizes[images], axis=0, return_inverse=True)
    places = np.empty(len(sizes), np.int32)
    for i, size in enumerate(sizes):
        resized = resized_size(size, short_side, data.max_long_side)
        place = smallest_shape(resized, data.shapes)
        if place is None:
            image = images[np.argmax(inverse == i)]
            raise DataError(
                f"{annotations.image_path(image)} (image {annotations.image_ids[image]}) becomes {resized[0]} x "
                f"{resized[1]} pixels (height x width), which no shape of config.data.shapes = "
                f"{tuple(map(tuple, data.shapes))} holds. Add a larger shape, or lower config.data.max_long_side or "
                "the short sides."
            )
        places[i] = place
    return places[inverse]
