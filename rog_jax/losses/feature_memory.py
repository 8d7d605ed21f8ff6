"""LOCE's memory of RoI features, from which classes with low scores are drawn again (Feng et al., ICCV 2021).

Pure functions on a pytree: make it once, insert the features of jittered ground truths at each step, draw rows for the
losses. As published, every device has a memory of its own, of the objects on its images.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rog_jax.losses.conventions import is_foreground

CHANCE_EPS = 1e-7
SHIFT = 1 / 6
SIGNS = np.array(list(itertools.product((-1.0, 1.0), repeat=4)), np.float32)
"""[16, 4], every combination of directions for x1, y1, x2, y2."""


class FeatureMemory(NamedTuple):
    """Features of each class, in rings of K places: new ones take the places of the oldest.

    Attributes:
        features: [C, K, S, S, D], pooled features of jittered objects.
        deltas: float32 [C, K, 4], box targets that belong to them.
        filled: int32 [C], places that hold something.
        position: int32 [C], the place that is written next.
    """

    features: Array
    deltas: Array
    filled: Array
    position: Array


class MemoryRows(NamedTuple):
    """Features drawn from the memory.

    Attributes:
        features: [M, S, S, D], as stored.
        deltas: float32 [M, 4].
        labels: int32 [M], class of each row; -1 where the class had nothing.
    """

    features: Array
    deltas: Array
    labels: Array


def create_memory(
    num_classes: int, cells: int, channels: int, capacity: int = 80, dtype: Any = jnp.bfloat16
) -> FeatureMemory:
    """An empty memory.

    For LVIS (1,203 classes, 80 places, 7x7 cells, 256 channels) it takes 2.4 GB in bfloat16 and 4.8 GB in float32 on
    each device; the published program keeps it in the host's memory. Whoever inserts should donate the old one to the
    compiled step, or there are two of them.

    Args:
        num_classes: C.
        cells: S, cells of a pooled feature along a side.
        channels: D.
        capacity: K, places of each class.
        dtype: of the features.
    """
    return FeatureMemory(
        features=jnp.zeros((num_classes, capacity, cells, cells, channels), dtype),
        deltas=jnp.zeros((num_classes, capacity, 4), jnp.float32),
        filled=jnp.zeros(num_classes, jnp.int32),
        position=jnp.zeros(num_classes, jnp.int32),
    )


def insert(
    memory: FeatureMemory,
    features: Float[Array, "M S S D"],
    deltas: Float[Array, "M 4"],
    labels: Int[Array, " M"],
) -> FeatureMemory:
    """The memory with these rows in it, over its oldest.

    Of more rows of a class than it has places, the first are stored and the rest left out, as published.

    Args:
        memory: before.
        features: pooled features; they get no gradient.
        deltas: box targets from each jittered box to its object.
        labels: class of each row; a row of the background or of -1 is not stored.
    """
    num_classes, capacity = memory.features.shape[:2]
    stored = is_foreground(labels, num_classes)
    slots = jnp.where(stored, labels, num_classes)
    place = _place_within_class(slots)
    stored &= place < capacity
    slots = jnp.where(stored, labels, num_classes)  # out of range, which "drop" leaves out
    column = (memory.position[jnp.clip(labels, 0, num_classes - 1)] + place) % capacity
    new = jnp.zeros(num_classes, jnp.int32).at[slots].add(1, mode="drop")
    features = jax.lax.stop_gradient(features).astype(memory.features.dtype)
    deltas = jax.lax.stop_gradient(deltas).astype(jnp.float32)
    return FeatureMemory(
        features=memory.features.at[slots, column].set(features, mode="drop"),
        deltas=memory.deltas.at[slots, column].set(deltas, mode="drop"),
        filled=jnp.minimum(memory.filled + new, capacity),
        position=(memory.position + new) % capacity,
    )


def _place_within_class(slots: Int[Array, " M"]) -> Int[Array, " M"]:
    """How many earlier rows have the same class."""
    order = jnp.argsort(slots, stable=True)
    ordered = slots[order]
    place = jnp.arange(len(slots)) - jnp.searchsorted(ordered, ordered, side="left")
    return jnp.zeros_like(slots).at[order].set(place.astype(slots.dtype))


def draw(
    memory: FeatureMemory,
    mean_scores: Float[Array, " Q"],
    key: Any,
    classes: int = 8,
    rows_per_class: int = 4,
) -> MemoryRows:
    """Rows of classes drawn with chances proportional to 1 / (m + 1e-7), with replacement, as are the rows of a class.

    As published, a class that has nothing stored may be drawn: its rows are then empty.

    Args:
        memory: the features.
        mean_scores: [C + 1], the state of the loss `loce` from the step before; the background's is not used.
        key: random key; another on each device, whose memories differ.
        classes: drawn.
        rows_per_class: drawn for each.

    Returns:
        `classes * rows_per_class` rows; those of label -1 are none.
    """
    of_classes, of_places = jax.random.split(key)
    chances = -jnp.log(mean_scores[:-1] + CHANCE_EPS)
    drawn = jax.random.categorical(of_classes, chances, shape=(classes,)).astype(jnp.int32)
    filled = memory.filled[drawn][:, None]  # [classes, 1]
    place = jax.random.randint(of_places, (classes, rows_per_class), 0, jnp.maximum(filled, 1))
    labels = jnp.broadcast_to(jnp.where(filled > 0, drawn[:, None], -1), place.shape)
    owner = jnp.broadcast_to(drawn[:, None], place.shape).reshape(-1)
    place = place.reshape(-1)
    return MemoryRows(memory.features[owner, place], memory.deltas[owner, place], labels.reshape(-1))


def jittered_boxes(
    boxes: Float[Array, "G 4"], key: Any, image_size: Float[Array | np.ndarray, "2"]
) -> Float[Array, "G 16 4"]:
    """16 boxes about each object of an image, for the memory's features.

    Each of the four coordinates moves by up to a sixth of the box's width or height, in every combination of
    directions; how far is drawn once for all objects of an image, as published. Clipped to the image.

    Args:
        boxes: ground truths of one image.
        key: random key of the image.
        image_size: (height, width) inside the padding.
    """
    far = jax.random.uniform(key, SIGNS.shape)  # [16, 4]
    sides = jnp.tile(boxes[:, 2:] - boxes[:, :2], (1, 2))  # [G, 4]: w, h, w, h
    moved = boxes[:, None] + SHIFT * SIGNS * far * sides[:, None]
    limits = jnp.tile(jnp.asarray(image_size)[::-1], 2)
    return jnp.clip(moved, 0, limits)
