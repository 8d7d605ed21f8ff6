"""Losses with a memory: sums over a whole run, counts of one device or of all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rog_jax.losses import classification_loss
from tests.losses.classification_cases import (
    CLASSES,
    DEVICES,
    ROWS,
    on_devices,
    padded_batch,
    value_and_gradient,
)
from tests.reference import classification as reference


def test_eqlv2_over_steps_with_padding():
    loss = classification_loss("eqlv2", num_classes=CLASSES)
    state, expected = loss.init_state(), (np.zeros(CLASSES), np.zeros(CLASSES), np.full(CLASSES, 100.0))
    for seed in range(4):
        logits, labels, _ = padded_batch(CLASSES + 1, seed)
        value, gradient, state = value_and_gradient(loss, logits, labels, None, state)
        wanted, of_logits, expected = reference.eqlv2(np.nan_to_num(logits), labels, expected)
        np.testing.assert_allclose(value, wanted, rtol=1e-5)
        np.testing.assert_allclose(gradient, of_logits, rtol=1e-4, atol=1e-6)
        for name, array in zip(("pos_grad", "neg_grad", "ratio"), expected, strict=True):
            np.testing.assert_allclose(getattr(state, name), array, rtol=1e-5, err_msg=name)


def test_eqlv2_sums_lose_nothing_over_a_whole_run():
    """180,000 steps whose gradients have become 2e-8 of the sum, where float32 alone would not move."""
    loss = classification_loss("eqlv2", num_classes=1)
    steps, large = 180_000, 1e6
    logits = jnp.array([[-3.0, 0.0], [-4.0, 0.0]])
    labels = jnp.array([0, 1])
    start = loss.init_state()._replace(pos_grad=jnp.array([large]), neg_grad=jnp.array([large]))

    @jax.jit
    def run(state):
        def step(state, _):
            return loss(logits, labels, None, state._replace(ratio=start.ratio))[1], None

        return jax.lax.scan(step, state, None, length=steps)[0]

    after = run(start)
    for total, rest, once in (
        (after.pos_grad, after.pos_rest, 1 - 1 / (1 + np.exp(3.0))),
        (after.neg_grad, after.neg_rest, 1 / (1 + np.exp(4.0))),
    ):
        expected = large + steps * once
        np.testing.assert_allclose(total, expected, rtol=1e-7)
        np.testing.assert_allclose(np.float64(total) + np.float64(rest) - large, steps * once, rtol=1e-6)
    # What this guards against: the same sum in float32 alone.
    alone = np.float32(large)
    for _ in range(1000):
        alone += np.float32(1 / (1 + np.exp(4.0)))
    assert abs(alone - large - 1000 / (1 + np.exp(4.0))) > 10


@pytest.mark.parametrize("synchronise", [True, False])
def test_seesaw_counts_of_all_devices_or_of_each(synchronise):
    loss = classification_loss("seesaw", num_classes=CLASSES, synchronise=synchronise)
    assert loss.state_is_local == (not synchronise)
    logits, labels, weights = padded_batch(loss.num_outputs)
    seen = np.array([[np.sum(of_device == c) for c in range(CLASSES + 1)] for of_device in labels.reshape(DEVICES, -1)])
    values, gradient, states = on_devices(loss, logits, labels, weights)
    if synchronise:
        np.testing.assert_array_equal(states, np.tile(seen.sum(axis=0), (DEVICES, 1)))
        return
    np.testing.assert_array_equal(states, seen)
    # With its own counts each device computes what it would alone, up to the common number of rows.
    rows = sum(weights[labels >= 0] > 0) / DEVICES
    for device in range(DEVICES):
        own = slice(device * ROWS, (device + 1) * ROWS)
        value, of_logits, _ = reference.seesaw(
            np.nan_to_num(logits[own]), labels[own], weights[own], np.zeros(CLASSES + 1)
        )
        scale = max(sum(weights[own][labels[own] >= 0] > 0), 1) / rows
        np.testing.assert_allclose(values[device], value * scale, rtol=1e-5)
        np.testing.assert_allclose(gradient[own], of_logits * scale, rtol=1e-4, atol=1e-6)


def test_seesaw_counts_stop_at_the_largest_integer():
    loss = classification_loss("seesaw", num_classes=2)
    state = jnp.array([5, 0, 2**31 - 2], jnp.int32)
    value, _, after = value_and_gradient(loss, jnp.ones((4, 4)), jnp.array([2, 2, 2, 0]), None, state)
    np.testing.assert_array_equal(after, [6, 0, 2**31 - 1])
    assert np.isfinite(value)


def test_seesaw_without_a_least_probability():
    """eps = 0: the compensation of a class that is never predicted is not bounded, but finite all the same."""
    loss = classification_loss("seesaw", num_classes=CLASSES, eps=0)
    logits, labels, weights = padded_batch(loss.num_outputs)
    value, gradient, _ = value_and_gradient(loss, logits, labels, weights)
    expected = reference.seesaw(np.nan_to_num(logits), labels, weights, np.zeros(CLASSES + 1), eps=0.0)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-4, atol=1e-6)
    bounded, _, _ = value_and_gradient(classification_loss("seesaw", num_classes=CLASSES), logits, labels, weights)
    assert value != bounded
    value, gradient, _ = value_and_gradient(loss, jnp.full((2, 7), 1e4).at[:, 0].set(-1e4), jnp.array([0, 1]))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_seesaw_spares_rare_classes():
    """A frequent class's object hardly pushes a rare class down, a rare class's object pushes a frequent one fully."""
    loss = classification_loss("seesaw", num_classes=2)
    counts = jnp.array([10_000, 1, 0], jnp.int32)
    _, gradient, _ = value_and_gradient(loss, jnp.zeros((2, 4)), jnp.array([0, 1]), None, counts)
    assert gradient[0, 1] < 0.01 * gradient[1, 0]
