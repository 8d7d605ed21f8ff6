"""Inference in two parts: one backbone pass, and what follows for each of several ways to read scores."""

import jax
import jax.numpy as jnp
import numpy as np

from rog_jax.training.optimizer import create_optimizer
from rog_jax.training.state import ModelDefinition, create_state, data_mesh
from rog_jax.training.step import make_predict_step, make_sweep_step, to_devices
from tests.tiny import NUM_CLASSES, random_batch, tiny_config

POWERS = np.array([0.0, 2.0])


def weighted(logits, power):
    """Softmax scores times rising weights: which detections are the best depends on the power."""
    return jax.nn.softmax(logits, axis=1)[:, :NUM_CLASSES] * jnp.arange(1.0, NUM_CLASSES + 1) ** power


def test_a_sweep_gives_what_each_value_alone_does():
    config = tiny_config()
    config.loss.classification = "softmax_ce"
    mesh = data_mesh()
    definition = ModelDefinition(config)
    # Untrained scores hardly differ: larger weights make some boxes sure and others not.
    definition.initial[0]["box_head"]["classifier"]["kernel"] *= 30
    state = create_state(definition, create_optimizer(definition.config.optim, lambda step: 0.0), mesh)
    batch = to_devices(random_batch(0), mesh)
    swept = jax.device_get(make_sweep_step(definition, mesh, weighted, POWERS)(state, batch))
    assert swept.boxes.shape[:2] == (8, len(POWERS))
    alone = (None, lambda logits: weighted(logits, POWERS[1]))  # power 0 is the loss's own score
    for place, score_function in enumerate(alone):
        expected = jax.device_get(make_predict_step(definition, mesh, score_function)(state, batch))
        np.testing.assert_array_equal(swept.labels[:, place], expected.labels)
        np.testing.assert_allclose(swept.scores[:, place], expected.scores, rtol=1e-5)
        np.testing.assert_allclose(swept.boxes[:, place], expected.boxes, atol=1e-3)
        np.testing.assert_allclose(swept.masks[:, place], expected.masks, atol=1e-4)
    assert (swept.labels[:, 0] != swept.labels[:, 1]).any()
