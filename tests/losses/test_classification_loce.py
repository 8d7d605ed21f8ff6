"""LOCE's mean scores over objects, devices and memory rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rog_jax.losses import classification_loss
from tests.losses.classification_cases import CLASSES, DEVICES, ROWS, on_devices, padded_batch, value_and_gradient
from tests.reference import classification as reference

MEMORY = 3  # rows a device
LOSS = classification_loss("loce", num_classes=CLASSES)


def scene(seed):
    logits, labels, weights = padded_batch(CLASSES + 1, seed)
    generator = np.random.default_rng(seed + 100)
    gt_ids = generator.integers(0, 3, len(labels)) * 10 + np.maximum(labels, 0)  # an object has one class
    memory_logits = generator.normal(0, 2, (DEVICES * MEMORY, CLASSES + 1)).astype(np.float32)
    memory_labels = generator.integers(-1, CLASSES, DEVICES * MEMORY)
    memory_logits[memory_labels < 0] = np.inf
    return (
        logits,
        labels,
        weights,
        {
            "gt_ids": gt_ids,
            "memory_logits": memory_logits,
            "memory_labels": memory_labels,
        },
    )


def expected_step(scores, logits, labels, weights, inputs, devices):
    """Value, gradients of both kinds of rows and next mean scores, from the twins."""
    memory_logits = np.where(inputs["memory_labels"][:, None] < 0, 0, inputs["memory_logits"])
    logits = np.nan_to_num(logits)
    parts = [
        [np.array_split(array, devices)[d] for array in (logits, labels, inputs["gt_ids"])]
        + [np.array_split(array, devices)[d] for array in (memory_logits, inputs["memory_labels"])]
        for d in range(devices)
    ]
    scores = reference.loce_mean_scores(scores, parts)
    value, gradient = reference.loce(
        np.concatenate([logits, memory_logits]),
        np.concatenate([labels, inputs["memory_labels"]]),
        np.concatenate([weights, np.ones(len(memory_logits))]),
        scores,
    )
    return value, gradient[: len(logits)], scores


@pytest.mark.parametrize("devices", [1, DEVICES])
def test_steps_with_memory_rows(devices):
    names = ("gt_ids", "memory_logits", "memory_labels")
    state, scores = LOSS.init_state(), np.full(CLASSES + 1, 0.01)
    for seed in range(3):
        logits, labels, weights, inputs = scene(seed)
        values, gradient, states = on_devices(
            LOSS, logits, labels, weights, state, inputs, per_row=names, devices=devices
        )
        value, of_rows, scores = expected_step(scores, logits, labels, weights, inputs, devices)
        state = states[0]
        np.testing.assert_allclose(states, np.tile(scores, (devices, 1)), rtol=1e-5)
        np.testing.assert_allclose(np.mean(values), value, rtol=1e-5)
        np.testing.assert_allclose(gradient / devices, of_rows, rtol=1e-4, atol=1e-7)
        assert scores[0] > 0.01  # something is learnt


def test_without_ids_the_mean_scores_stay():
    logits, labels, weights, inputs = scene(0)
    before = LOSS.init_state().at[2].set(0.4)
    memory = {name: inputs[name] for name in ("memory_logits", "memory_labels")}
    _, _, after = value_and_gradient(LOSS, logits, labels, weights, before, **memory)
    np.testing.assert_array_equal(after, before)


def test_memory_rows_are_learnt_from():
    logits, labels, weights, inputs = scene(1)

    def value(memory_logits):
        return LOSS(logits, labels, weights, LOSS.init_state(), **{**inputs, "memory_logits": memory_logits})[0]

    gradient = np.asarray(jax.jit(jax.grad(value))(inputs["memory_logits"]))
    empty = inputs["memory_labels"] < 0
    assert empty.any()
    assert not gradient[empty].any()
    assert np.abs(gradient[~empty]).max(axis=1).min() > 0


def test_a_class_that_is_never_predicted_keeps_a_finite_margin():
    state = LOSS.init_state()
    logits = jnp.full((2, CLASSES + 1), 0.0).at[:, 0].set(-1e4)
    for _ in range(20):
        value, gradient, state = value_and_gradient(
            LOSS, logits, jnp.array([0, 0]), None, state * 1e-3, gt_ids=jnp.array([0, 1])
        )
    assert state[0] == 0
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_memory_comes_with_labels():
    with pytest.raises(ValueError, match="together or not at all"):
        LOSS(jnp.ones((2, 6)), jnp.zeros(2, jnp.int32), None, LOSS.init_state(), memory_logits=jnp.ones((3, 6)))


def test_rows_of_one_object_make_one_value():
    logits = jnp.zeros((ROWS, CLASSES + 1))
    labels = jnp.zeros(ROWS, jnp.int32)
    for ids, values in (([0, 0, 0, 0], 1), ([0, 1, 0, 1], 2), ([3, 1, 0, 2], 4)):
        _, _, state = value_and_gradient(LOSS, logits, labels, gt_ids=jnp.array(ids))
        kept = 0.9**values
        np.testing.assert_allclose(state[0], kept * 0.01 + (1 - kept) / 6, rtol=1e-5)
