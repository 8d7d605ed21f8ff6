"""Schedule and SGD against hand-written NumPy."""

import jax.numpy as jnp
import numpy as np
import optax

from rog_jax.models.recipe import with_recipe
from rog_jax.training.optimizer import create_optimizer, learning_rate
from tests.tiny import tiny_config


def test_learning_rate_warms_up_steps_down_and_scales_with_the_batch():
    optim = with_recipe(tiny_config()).optim
    optim.update({"lr": 0.02, "lr_batch_size": 16, "warmup_steps": 10, "warmup_ratio": 0.1, "decay": 0.1})
    rate = learning_rate(optim, 32, [20, 30])
    values = [float(rate(jnp.asarray(step))) for step in range(40)]
    np.testing.assert_allclose(values[0], 0.004, rtol=1e-6)
    np.testing.assert_allclose(values[5], 0.04 * 0.55, rtol=1e-6)
    np.testing.assert_allclose(values[10:20], 0.04, rtol=1e-6)
    np.testing.assert_allclose(values[20:30], 0.004, rtol=1e-6)
    np.testing.assert_allclose(values[30:], 0.0004, rtol=1e-5)


def test_sgd_is_pytorchs():
    """Clip, then decay, then momentum, then the rate: PyTorch's order after `clip_grad_norm_`."""
    optim = with_recipe(tiny_config()).optim
    optim.update({"clip_norm": 1.0, "weight_decay": 0.01, "momentum": 0.9})
    optimizer = create_optimizer(optim, lambda step: 0.1)
    weight = np.array([1.0, -2.0])
    buffer, twin = np.zeros(2), weight.copy()
    state = optimizer.init(jnp.asarray(weight))
    params = jnp.asarray(weight)
    for gradient in (np.array([3.0, 4.0]), np.array([0.3, -0.1])):
        updates, state = optimizer.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
        clipped = gradient * min(1.0, 1.0 / np.linalg.norm(gradient))
        buffer = 0.9 * buffer + clipped + 0.01 * twin
        twin = twin - 0.1 * buffer
    np.testing.assert_allclose(params, twin, rtol=1e-5)
