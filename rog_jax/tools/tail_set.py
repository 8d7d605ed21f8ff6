"""A made-up long-tailed set of features, small enough to train a classifier on within seconds.

It has what makes a detector forget rare classes: few samples of them, close to those of a frequent class, and many
backgrounds that are parts of the objects themselves.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

NUM_CLASSES = 120
MOST_OBJECTS = 1500
"""Of the most frequent class; the numbers fall geometrically to 1."""
FEATURES = 64
IMAGE_OBJECTS = 8
PARTS_PER_OBJECT = 3
"""Backgrounds to an object in training: a quarter of the rows are foreground, as the RoI sampler aims at."""
TEST_IMAGES = 300
"""20 objects of each class."""
TEST_PARTS_PER_OBJECT = 7
SPREAD = 0.7
"""Standard deviation of an object's features about its class's centre; centres have one of 1."""
LIKENESS = 0.6
"""Distance of a rare class's centre from a frequent one's, in units of that between two frequent ones."""
LEAST_OBJECT, MOST_PART = 0.6, 0.4
"""How much of an object a foreground row shows at least, and a background row at most; the rest is clutter."""


class TailSet(NamedTuple):
    """Objects, image by image.

    Attributes:
        objects: float32 [I, 8, D], features of the training images' objects.
        labels: int32 [I, 8].
        test_objects: float32 [T, 8, D], every class equally often.
        test_labels: int32 [T, 8].
    """

    objects: np.ndarray
    labels: np.ndarray
    test_objects: np.ndarray
    test_labels: np.ndarray

    @property
    def counts(self) -> Int[np.ndarray, " C"]:
        """Training objects of each class."""
        return np.bincount(self.labels.reshape(-1), minlength=NUM_CLASSES)

    @property
    def image_counts(self) -> Int[np.ndarray, " C"]:
        """Training images with each class."""
        return (self.labels[:, :, None] == np.arange(NUM_CLASSES)).any(axis=1).sum(axis=0)


def object_counts() -> Int[np.ndarray, " C"]:
    """Training objects of each class, most frequent first, before they are cut to whole images."""
    return np.round(MOST_OBJECTS ** np.linspace(1, 0, NUM_CLASSES)).astype(int)


def make_tail_set(seed: int) -> TailSet:
    """The set of that seed; the number of objects of each class is the same for every seed.

    Args:
        seed: of the centres, the objects, and which of them share an image.
    """
    generator = np.random.default_rng(seed)
    counts = object_counts()
    frequent = counts > 100
    centres = generator.standard_normal((NUM_CLASSES, FEATURES))
    models = generator.choice(np.flatnonzero(frequent), NUM_CLASSES)
    # Squares of distances add up: a centre at LIKENESS times a fresh one's distance, and of the same length.
    share = LIKENESS**2
    like = np.sqrt(1 - share) * centres[models] + np.sqrt(share) * centres
    centres = np.where(frequent[:, None], centres, like)

    def draw(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        labels = generator.permutation(labels)
        labels = labels[: len(labels) // IMAGE_OBJECTS * IMAGE_OBJECTS].reshape(-1, IMAGE_OBJECTS)
        noise = generator.standard_normal((*labels.shape, FEATURES))
        return (centres[labels] + SPREAD * noise).astype(np.float32), labels.astype(np.int32)

    # The objects that a last, incomplete image would have are left to the most frequent class.
    counts[0] -= counts.sum() % IMAGE_OBJECTS
    train = draw(np.repeat(np.arange(NUM_CLASSES), counts))
    test = draw(np.arange(TEST_IMAGES * IMAGE_OBJECTS) % NUM_CLASSES)
    return TailSet(*train, *test)


class Rows(NamedTuple):
    """Proposals of images, image by image.

    Attributes:
        features: [B * R, D].
        labels: int32 [B * R], the background is C.
        shown: [B * R], share of its object that each row shows.
    """

    features: Array
    labels: Array
    shown: Array


def make_rows(key: Array, objects: Float[Array, "B O D"], labels: Int[Array, "B O"], parts: int) -> Rows:
    """For each object one row that shows at least half of it, and `parts` backgrounds that show less.

    Args:
        key: of the clutter, and of how much is shown.
        objects: features of the images' objects.
        labels: their classes.
        parts: backgrounds an object.
    """
    of_object, of_part, of_clutter = jax.random.split(key, 3)
    images, number, features = objects.shape
    whole = jax.random.uniform(of_object, labels.shape, minval=LEAST_OBJECT)
    part = jax.random.uniform(of_part, (images, number * parts), maxval=MOST_PART)
    shown = jnp.concatenate([whole, part], axis=1)  # [B, R]
    objects = jnp.tile(objects, (1, 1 + parts, 1))  # [B, R, D]
    clutter = jax.random.normal(of_clutter, objects.shape)
    rows = shown[..., None] * objects + (1 - shown[..., None]) * clutter
    labels = jnp.pad(labels, ((0, 0), (0, number * parts)), constant_values=NUM_CLASSES)
    return Rows(rows.reshape(-1, features), labels.reshape(-1), shown.reshape(-1))
