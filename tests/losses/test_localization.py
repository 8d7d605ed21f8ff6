import jax
import jax.numpy as jnp
import numpy as np

from rog_jax.losses import binary_cross_entropy, smooth_l1


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
