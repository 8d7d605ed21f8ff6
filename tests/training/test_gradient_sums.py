"""Sums of gradients by category against a plain gradient by the logits, on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rog_jax.training.gradient_sums import tapped
from rog_jax.training.losses import LossMemory, compute_losses
from rog_jax.training.state import AXIS, ModelDefinition, data_mesh
from rog_jax.training.step import to_devices
from tests.reference.evaluation import gradient_sums
from tests.tiny import NUM_CLASSES, random_batch, tiny_config
from tests.training.test_step import STATISTICS, build_from


def test_the_tap_takes_sums_and_changes_nothing():
    rng = np.random.default_rng(0)
    logits, labels = jnp.asarray(rng.normal(size=(12, 4)), jnp.float32), rng.integers(-1, 4, 12)
    tap, pull = jnp.zeros((2, 3)), jnp.asarray(rng.normal(size=(12, 4)), jnp.float32)

    def loss(logits, tap):
        return (pull * jnp.sin(tapped(logits, tap, jnp.asarray(labels)))).sum()

    value, (gradient, sums) = jax.value_and_grad(loss, argnums=(0, 1))(logits, tap)
    np.testing.assert_allclose(value, (pull * np.sin(logits)).sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient, pull * np.cos(logits), rtol=1e-5)
    np.testing.assert_allclose(sums, gradient_sums(np.asarray(gradient), labels, 3), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("classification", "ranking"), [("seesaw", "gap"), ("none", "rank_sort")])
def test_the_steps_sums_are_those_of_the_joined_batch(classification, ranking):
    config = tiny_config()
    config.loss.classification, config.loss.ranking = classification, ranking
    config.loss.gap.scope = config.loss.rank_sort.scope = "global"
    config.train.gradient_sums = True
    after = {}
    for devices in (1, 8):
        step, start, mesh = build_from(config, devices)
        state = start()
        assert state.gradients.shape == (2, NUM_CLASSES)
        state, _ = step(state, to_devices(random_batch(0), mesh))
        after[devices] = jax.device_get(state.gradients)
    np.testing.assert_allclose(after[8], after[1], rtol=1e-3)
    np.testing.assert_allclose(after[1], sums_by_hand(config), rtol=1e-3)
    assert (after[1] > 0).any(axis=1).all()


def test_sums_where_each_device_ranks_its_own_rows():
    """The default scope: the loss is the mean over devices, and so is what they sum up."""
    config = tiny_config()
    assert config.loss.gap.scope == "device"
    config.loss.gap.weight, config.train.gradient_sums = 1.0, True
    step, start, mesh = build_from(config, 8)
    state, _ = step(start(), to_devices(random_batch(0), mesh))
    first = jax.device_get(state.gradients)
    np.testing.assert_allclose(first, sums_by_hand(config, 8), rtol=1e-3)
    assert (first > 0).any(axis=1).all()

    kernel = state.trainable["box_head"]["classifier"]["kernel"]
    state.trainable["box_head"]["classifier"]["kernel"] = kernel.at[0, 0].set(np.inf)
    state, metrics = step(state, to_devices(random_batch(0), mesh))
    assert float(metrics["finite"]) == 0
    np.testing.assert_array_equal(jax.device_get(state.gradients), first)


def sums_by_hand(config, devices: int = 1) -> np.ndarray:
    """The naive twin on the gradient by an offset that is added to the logits, the mean over devices."""
    definition, mesh = ModelDefinition(config, STATISTICS), data_mesh(jax.devices()[:devices])
    key = jax.random.fold_in(jax.random.key(config.train.seed), 0)
    model = definition.merge(*definition.initial)

    def total(offset, batch):
        labels = []
        plain = type(model).train_outputs

        def moved(self, *args):
            outputs = plain(self, *args)
            labels.append(outputs.rois.labels)
            return outputs._replace(logits=outputs.logits + offset)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(model), "train_outputs", moved)
            memory = LossMemory(np.zeros(NUM_CLASSES, np.int32), definition.loss.init_state(), ())
            losses, _ = compute_losses(model, batch, memory, key)
        return sum(losses.values()), labels[0]

    columns = definition.loss.num_outputs
    offset = jnp.zeros((8, config.roi.samples, columns))
    mapped = jax.shard_map(
        jax.grad(total, has_aux=True),
        mesh=mesh,
        in_specs=(PartitionSpec(AXIS), PartitionSpec(AXIS)),
        out_specs=PartitionSpec(AXIS),
        check_vma=False,
    )
    gradient, labels = jax.device_get(jax.jit(mapped)(offset, to_devices(random_batch(0), mesh)))
    return gradient_sums(gradient.reshape(-1, columns) / devices, labels.reshape(-1), NUM_CLASSES)
