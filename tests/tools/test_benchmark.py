"""Made-up batches of the benchmark have everything that a config's loss asks for."""

import numpy as np

from rog_jax.models.recipe import with_recipe
from rog_jax.tools.benchmark import made_up_batch
from tests.tiny import tiny_config


def test_a_batch_says_what_is_verified_where_the_loss_asks_for_it():
    config = tiny_config()
    assert made_up_batch(with_recipe(config), 2).verified is None
    config.loss.classification, config.loss.federated.negatives = "federated", "verified"
    config.model.num_classes = 1203
    batch = made_up_batch(with_recipe(config), 2, objects=4)
    assert batch.verified.shape == (2, 1203)
    for verified, labels in zip(batch.verified, batch.labels, strict=True):
        assert verified[labels[labels >= 0]].all()
        assert len(np.unique(labels[labels >= 0])) < verified.sum() < 100
