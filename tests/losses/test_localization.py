import jax
import jax.numpy as jnp
import numpy as np

from rog_jax.losses import binary_cross_entropy, dice_loss, giou_loss, smooth_l1
from tests.reference import ops, ranking


def test_smooth_l1_is_a_parabola_then_a_line():
    error = jnp.asarray([0.0, 0.5, -0.5, 1.0, 2.0, -3.0])
    np.testing.assert_allclose(smooth_l1(error, jnp.zeros(6), 1.0), [0, 0.125, 0.125, 0.5, 1.5, 2.5])
    np.testing.assert_allclose(smooth_l1(error, jnp.zeros(6), 0), np.abs(error))


def test_smooth_l1_gradient_is_continuous():
    slope = jax.vmap(jax.grad(lambda x: smooth_l1(x, jnp.zeros(()), 0.25)))
    np.testing.assert_allclose(slope(jnp.asarray([-1.0, -0.25, 0.0, 0.125, 0.25, 1.0])), [-1, -1, 0, 0.5, 1, 1])


def test_binary_cross_entropy_value_and_gradient():
    logits, targets = np.array([-3.0, -0.5, 0.0, 2.0, 5.0]), np.array([0.0, 1.0, 1.0, 0.0, 0.3])
    expected = targets * np.logaddexp(0, -logits) + (1 - targets) * np.logaddexp(0, logits)
    arguments = jnp.asarray(logits, jnp.float32), jnp.asarray(targets, jnp.float32)
    np.testing.assert_allclose(binary_cross_entropy(*arguments), expected, rtol=1e-6)
    slope = jax.grad(lambda x: binary_cross_entropy(x, arguments[1]).sum())(arguments[0])
    np.testing.assert_allclose(slope, 1 / (1 + np.exp(-logits)) - targets, rtol=1e-5, atol=1e-7)


def test_binary_cross_entropy_is_finite_at_huge_logits():
    logits = jnp.asarray([-1e4, 1e4, -1e4, 1e4])
    targets = jnp.asarray([0.0, 1.0, 1.0, 0.0])
    np.testing.assert_allclose(binary_cross_entropy(logits, targets), [0, 0, 1e4, 1e4])


def test_giou_loss_of_boxes_is_one_minus_their_giou():
    boxes = [[0.0, 0.0, 4.0, 4.0], [2.0, 1.0, 6.0, 5.0], [20.0, 0.0, 24.0, 4.0]]
    targets = [[0.0, 0.0, 4.0, 4.0]] * 3
    expected = [1 - ops.giou(*pair) for pair in zip(boxes, targets, strict=True)]
    np.testing.assert_allclose(giou_loss(jnp.asarray(boxes), jnp.asarray(targets)), expected, rtol=1e-6, atol=1e-7)
    assert expected[0] == 0
    assert expected[2] > 1


def test_dice_loss_equals_twin():
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, (2, 3, 5, 5)).astype(np.float32)
    targets = (generator.random((2, 3, 5, 5)) < 0.4).astype(np.float32)
    expected = [[ranking.dice(logits[i, j], targets[i, j]) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(dice_loss(jnp.asarray(logits), jnp.asarray(targets)), expected, rtol=1e-5)


def test_dice_loss_of_huge_logits_and_empty_masks_is_finite():
    logits = jnp.asarray([[[1e4, -1e4]] * 2, [[-1e4, -1e4]] * 2, [[1e4, -1e4]] * 2])
    targets = jnp.asarray([[[1.0, 0.0]] * 2, [[0.0, 0.0]] * 2, [[0.0, 1.0]] * 2])
    np.testing.assert_allclose(dice_loss(logits, targets), [0, 1, 1], atol=1e-5)
    assert np.all(np.isfinite(jax.jit(jax.grad(lambda x: dice_loss(x, targets).sum()))(logits)))
