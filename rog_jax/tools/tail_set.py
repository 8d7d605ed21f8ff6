"""A made-up long-tailed set of features, small enough to train a classifier on within seconds.

It has what makes a detector forget rare classes: few objects of them, close to those of a frequent class, and many
backgrounds that are parts of the objects themselves.

Its numbers were fixed by the plain losses alone, until these showed what detectors show, high AP of frequent classes
and little, but not nothing, of rare ones. Ranking losses were tried on it afterwards, and it was not changed then.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

NUM_CLASSES = 120
MOST_OBJECTS = 1500
"""Of the most frequent class; the numbers fall geometrically to 1."""
RARE_LIMIT, COMMON_LIMIT = 10, 100
"""Most training objects of a rare class and of a common one."""
FEATURES = 64
IMAGE_OBJECTS = 8
TEST_IMAGES = 300
"""20 objects of each class; as many images serve to tune calibrations."""
SPREAD = 0.7
"""Standard deviation of an object's features about its class's centre; that of frequent classes' centres is 1."""
LIKENESS = 0.8
"""Correlation of each other class's centre with that of some frequent class; frequent ones have none."""
LEAST_OBJECT, MOST_PART = 0.6, 0.4
"""How much of an object a foreground row shows at least and a background row at most; the rest is clutter."""


class Objects(NamedTuple):
    """The objects of some images.

    Attributes:
        features: float32 [I, 8, D].
        labels: int32 [I, 8].
    """

    features: Array | np.ndarray
    labels: Array | np.ndarray


class TailSet(NamedTuple):
    """Training images with a long tail, and others in which every class is equally frequent."""

    train: Objects
    test: Objects
    tuning: Objects


class Rows(NamedTuple):
    """Proposals, image by image.

    Attributes:
        features: float32 [B * R, D].
        labels: int32 [B * R], C is the background.
        shown: float32 [B * R], the share of an object that each row shows.
    """

    features: Array
    labels: Array
    shown: Array


def train_labels() -> Int[np.ndarray, "I 8"]:
    """Labels of the training images' objects, the same for every seed, so that the set's statistics are."""
    counts = np.round(MOST_OBJECTS ** np.linspace(1, 0, NUM_CLASSES)).astype(int)
    counts[0] -= counts.sum() % IMAGE_OBJECTS  # no image is left with fewer objects than the others
    return _into_images(np.repeat(np.arange(NUM_CLASSES), counts), np.random.default_rng(0))


def class_counts() -> Int[np.ndarray, " C"]:
    """Training objects of each class, most frequent first."""
    return np.bincount(train_labels().reshape(-1), minlength=NUM_CLASSES)


def class_image_counts() -> Int[np.ndarray, " C"]:
    """Training images with each class."""
    return (train_labels()[:, :, None] == np.arange(NUM_CLASSES)).any(axis=1).sum(axis=0)


def make_tail_set(seed: int) -> TailSet:
    """The set of that seed, which decides on the classes' centres and on all objects."""
    generator = np.random.default_rng(seed)
    frequent = class_counts() > COMMON_LIMIT
    own = generator.standard_normal((NUM_CLASSES, FEATURES))
    like = own[generator.choice(np.flatnonzero(frequent), NUM_CLASSES)]
    near = LIKENESS * like + np.sqrt(1 - LIKENESS**2) * own
    centres = np.where(frequent[:, None], own, near)

    def draw(labels: Int[np.ndarray, "I 8"]) -> Objects:
        noise = generator.standard_normal((*labels.shape, FEATURES))
        return Objects((centres[labels] + SPREAD * noise).astype(np.float32), labels)

    balanced = np.arange(TEST_IMAGES * IMAGE_OBJECTS) % NUM_CLASSES
    return TailSet(
        train=draw(train_labels()),
        test=draw(_into_images(balanced, generator)),
        tuning=draw(_into_images(balanced, generator)),
    )


def _into_images(labels: Int[np.ndarray, " O"], generator: np.random.Generator) -> Int[np.ndarray, "I 8"]:
    return generator.permutation(labels).reshape(-1, IMAGE_OBJECTS).astype(np.int32)


def make_rows(key: Array, objects: Objects, parts: int) -> Rows:
    """A row for each object, which shows most of it, and backgrounds that show less of the same objects.

    Args:
        key: of the clutter, and of how much is shown.
        objects: of B images.
        parts: backgrounds to an object.
    """
    of_objects, of_parts, of_clutter = jax.random.split(key, 3)
    features, labels = objects
    images, number = labels.shape
    whole = jax.random.uniform(of_objects, (images, number), minval=LEAST_OBJECT)
    part = jax.random.uniform(of_parts, (images, number * parts), maxval=MOST_PART)
    shown = jnp.concatenate([whole, part], axis=1)  # [B, R]
    features = jnp.tile(features, (1, 1 + parts, 1))  # [B, R, D]
    clutter = jax.random.normal(of_clutter, features.shape)
    features = shown[..., None] * features + (1 - shown[..., None]) * clutter
    labels = jnp.pad(labels, ((0, 0), (0, number * parts)), constant_values=NUM_CLASSES)
    return Rows(features.reshape(-1, features.shape[-1]), labels.reshape(-1), shown.reshape(-1))
