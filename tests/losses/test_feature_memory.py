from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rog_jax.losses.feature_memory import create_memory, draw, insert, jittered_boxes

CLASSES, CAPACITY = 4, 5
inserting = jax.jit(insert)


class Rings:
    """The memory as lists, row by row."""

    def __init__(self):
        self.places = [[None] * CAPACITY for _ in range(CLASSES)]
        self.position = [0] * CLASSES

    def insert(self, rows, labels):
        stored = [0] * CLASSES
        for row, label in zip(rows, labels, strict=True):
            if 0 <= label < CLASSES and stored[label] < CAPACITY:
                self.places[label][self.position[label]] = row
                self.position[label] = (self.position[label] + 1) % CAPACITY
                stored[label] += 1


def rows_for(labels, start):
    """Features and deltas that tell rows apart."""
    numbers = start + np.arange(len(labels), dtype=np.float32)
    return (
        jnp.asarray(np.broadcast_to(numbers[:, None, None, None], (len(labels), 2, 2, 3))),
        jnp.asarray(np.broadcast_to(numbers[:, None], (len(labels), 4))),
    )


def test_rings_over_many_steps():
    memory, rings = create_memory(CLASSES, 2, 3, CAPACITY, jnp.float32), Rings()
    generator = np.random.default_rng(0)
    for step in range(12):
        # Now and then more rows of a class than there are places.
        chances = [0.1, 0.2, 0.6, 0.05, 0.0, 0.05] if step % 3 else [0.2, 0.2, 0.1, 0.0, 0.2, 0.3]
        labels = generator.choice([-1, 0, 1, 2, 3, CLASSES], 9, p=chances)
        features, deltas = rows_for(labels, 100 * step)
        memory = inserting(memory, features, deltas, jnp.asarray(labels))
        rings.insert(np.asarray(deltas)[:, 0], labels)
        np.testing.assert_array_equal(memory.position, rings.position)
        filled = [sum(row is not None for row in places) for places in rings.places]
        np.testing.assert_array_equal(memory.filled, filled)
        for c, places in enumerate(rings.places):
            expected = [0 if row is None else row for row in places]
            np.testing.assert_array_equal(memory.deltas[c, :, 2], expected)
            np.testing.assert_array_equal(memory.features[c, :, 1, 0, 2], expected)
        assert min(filled) < CAPACITY or step
    assert filled == [CAPACITY] * CLASSES


def test_features_are_stored_short_and_without_gradient():
    memory = create_memory(CLASSES, 2, 3)
    assert memory.features.shape == (CLASSES, 80, 2, 2, 3)
    assert memory.features.dtype == jnp.bfloat16
    features, deltas = rows_for([0, 1], 1)

    def total(features):
        after = insert(memory, features, deltas, jnp.array([0, 1]))
        return after.features.astype(jnp.float32).sum()

    value, gradient = jax.value_and_grad(total)(features)
    assert value == 12 * 3
    assert not np.any(gradient)


def test_lvis_size_is_as_documented():
    shapes = jax.eval_shape(partial(create_memory, 1203, 7, 256))
    assert np.prod(shapes.features.shape) * 2 == pytest.approx(2.4e9, rel=0.01)


def test_draws_follow_the_mean_scores_and_skip_what_is_empty():
    memory = create_memory(CLASSES, 1, 1, CAPACITY, jnp.float32)
    labels = jnp.array([0, 0, 1, 3, 3, 3])  # class 2 has nothing
    numbers = jnp.arange(6.0)
    memory = insert(memory, numbers[:, None, None, None], jnp.tile(numbers[:, None], (1, 4)), labels)
    mean_scores = jnp.array([0.1, 0.2, 0.05, 0.4, 0.01])
    drawing = jax.jit(jax.vmap(lambda key: draw(memory, mean_scores, key, classes=8, rows_per_class=4)))
    rows = drawing(jax.random.split(jax.random.key(0), 500))
    assert rows.features.shape == (500, 32, 1, 1, 1)
    drawn = np.asarray(rows.labels)
    by_class = drawn.reshape(500, 8, 4)
    assert (by_class == by_class[:, :, :1]).all()
    inverse = 1 / (np.array([0.1, 0.2, 0.05, 0.4]) + 1e-7)
    expected = inverse / inverse.sum()
    shares = np.array([(by_class[:, :, 0] == c).mean() for c in (0, 1, -1, 3)])
    assert np.abs(shares - expected).max() < 5 * np.sqrt(0.25 / 4000)
    for c, stored in ((0, [0, 1]), (1, [2]), (3, [3, 4, 5])):
        found, times = np.unique(np.asarray(rows.features)[drawn == c], return_counts=True)
        np.testing.assert_array_equal(found, stored)
        assert times.max() / times.min() < 1.2
        np.testing.assert_array_equal(rows.deltas[drawn == c][:, 3], np.asarray(rows.features)[drawn == c].ravel())


def test_an_empty_memory_gives_empty_rows():
    rows = draw(create_memory(CLASSES, 2, 3), jnp.full(CLASSES + 1, 0.01), jax.random.key(0))
    np.testing.assert_array_equal(rows.labels, np.full(32, -1))


def test_jittered_boxes_move_every_way_and_stay_inside():
    boxes = jnp.array([[30.0, 40.0, 90.0, 64.0], [0.0, 0.0, 200.0, 100.0]])
    moved = np.asarray(jax.jit(jittered_boxes)(boxes, jax.random.key(1), np.array([100.0, 200.0])))
    assert moved.shape == (2, 16, 4)
    shift = moved[0] - np.asarray(boxes[0])
    assert (np.abs(shift) <= np.array([10, 4, 10, 4]) + 1e-4).all()
    assert len({tuple(signs) for signs in np.sign(shift)}) == 16
    assert (np.abs(shift) / [10, 4, 10, 4]).std() > 0.2
    assert (moved[1, :, :2] >= 0).all()
    assert (moved[1, :, 2:] <= [200, 100]).all()
    # The draw is the image's: the same share of each box's sides.
    other = np.asarray(jittered_boxes(boxes + 300, jax.random.key(1), np.array([900.0, 900.0])))
    shares = (other - np.asarray(boxes[:, None] + 300)) / np.array([[60, 24, 60, 24], [200, 100, 200, 100]])[:, None]
    np.testing.assert_allclose(shares[0], shares[1], atol=1e-4)
