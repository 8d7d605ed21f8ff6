"""Steps in micro-batches against each micro-batch by itself, joined by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from rog_jax.training.accumulation import mean_gradient, over_micro_batches
from rog_jax.training.checkpoint import Checkpoints
from rog_jax.training.config import check_config
from rog_jax.training.losses import compute_losses
from rog_jax.training.optimizer import create_optimizer, learning_rate
from rog_jax.training.state import AXIS, ModelDefinition, TrainState, own_memory, state_specs
from rog_jax.training.step import to_devices
from tests.tiny import random_batch, tiny_config
from tests.training.test_step import STATISTICS, build_from

DEVICES, COUNT = 4, 2
SIZE = 2 * COUNT * DEVICES


def accumulating_config(classification="seesaw", count=COUNT):
    config = tiny_config()
    config.loss.classification = classification
    config.loss.gap.update({"weight": 1.0, "scope": "global"})
    config.loss.memory.update({"slots": 6, "objects": 3})
    config.train.update({"batch_size": SIZE, "accumulate": count, "gradient_sums": True})
    config.train.max_skipped_steps = 1  # where a run stops at once, LOCE's memory takes a bad step's rows
    return config


@functools.cache
def built(classification="seesaw"):
    return build_from(accumulating_config(classification), DEVICES)


def micro_batch(batch, number):
    """Of each device's images those of one micro-batch."""

    def of(array):
        apart = array.reshape(DEVICES, COUNT, SIZE // DEVICES // COUNT, *array.shape[1:])
        return apart[:, number].reshape(-1, *array.shape[1:])

    return jax.tree.map(of, batch)


def by_hand(config, state: TrainState, batch, mesh):
    """The next state and the mean losses: a gradient of each micro-batch, with what the one before left in the losses'
    memory, and one update by their mean."""
    definition = ModelDefinition(config, STATISTICS)
    config = definition.config
    schedule = learning_rate(config.optim, config.train.batch_size, [100])
    specs = state_specs(definition)
    rows = PartitionSpec(AXIS)

    def of_micro_batch(state, images, key):
        memory = own_memory(state, definition.local)

        def total(trainable, tap):
            losses, after = compute_losses(definition.merge(trainable, state.fixed), images, memory, key, tap)
            return sum(losses.values()), (losses, after)

        found = jax.grad(total, argnums=(0, 1), has_aux=True)(state.trainable, state.gradients)
        (gradient, sums), (losses, after) = found
        means = jax.lax.pmean((gradient, sums, losses), AXIS)
        features = jax.tree.map(lambda x: x[None], after.features)
        return *means, state._replace(class_counts=after.class_counts, loss=after.loss, features=features)

    nowhere = PartitionSpec()
    mapped = jax.shard_map(
        of_micro_batch,
        mesh=mesh,
        in_specs=(specs, rows, nowhere),
        out_specs=(nowhere, nowhere, nowhere, specs),
        check_vma=False,
    )
    compiled, found, memory = jax.jit(mapped), [], state
    key = jax.random.fold_in(jax.random.key(config.train.seed), int(state.step))
    for number in range(COUNT):
        images = to_devices(micro_batch(batch, number), mesh)
        *means, memory = compiled(memory, images, jax.random.fold_in(key, number))
        found.append(jax.device_get(means))
    gradient, sums, losses = jax.tree.map(lambda *parts: np.mean(parts, axis=0), *found)
    optimizer = create_optimizer(config.optim, schedule)
    updates, after = jax.jit(optimizer.update)(gradient, state.optimizer, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    sums = jax.tree.map(np.add, state.gradients, sums)
    state = memory._replace(step=state.step + 1, trainable=trainable, optimizer=after, gradients=sums)
    return jax.device_get(state), losses


def check_against_hand(classification):
    step, start, mesh = built(classification)
    batch = random_batch(0, SIZE)
    expected, losses = by_hand(accumulating_config(classification), start(), batch, mesh)
    state, metrics = step(start(), to_devices(batch, mesh))
    for name, value in losses.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    state, metrics = jax.device_get((state, metrics))
    assert metrics["positives"] == state.class_counts.sum() > 0
    # After one update the momentum is the gradient, and the weights times their decay.
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected.optimizer) if leaf.ndim)
    pairs = zip(jax.tree_util.tree_flatten_with_path(expected)[0], jax.tree.leaves(state), strict=True)
    for (path, a), b in pairs:
        tolerance = {"rtol": 1e-3, "atol": 2e-5 * scale} if a.dtype == np.float32 else {"rtol": 0}
        np.testing.assert_allclose(a, b, **tolerance, err_msg=jax.tree_util.keystr(path))
    return state


def test_a_step_is_the_mean_of_its_micro_batches_gradients_and_memory_goes_from_one_to_the_next():
    state = check_against_hand("seesaw")
    assert state.gradients.sum() > 0
    np.testing.assert_array_equal(state.loss[: len(state.class_counts)], state.class_counts)


@pytest.mark.slow
@pytest.mark.parametrize("classification", ["eqlv2", "loce", "gol"])
def test_other_memories_go_from_one_to_the_next_too(classification):
    check_against_hand(classification)


def test_it_compiles_once_and_goes_on_bit_for_bit_from_a_checkpoint(tmp_path):
    step, start, mesh = built()
    batches = [to_devices(random_batch(number, SIZE), mesh) for number in range(2)]
    state, _ = step(start(), batches[0])
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, {})
    checkpoints.wait()
    with jax.transfer_guard("disallow"):
        whole, _ = step(state, batches[1])
    resumed, _ = step(checkpoints.restore(start()), batches[1])
    for (path, a), b in zip(jax.tree_util.tree_flatten_with_path(whole)[0], jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))
    assert step._cache_size() == 1


@pytest.mark.parametrize(
    ("classification", "image"),
    [
        ("seesaw", 0),
        pytest.param("seesaw", SIZE - 2, marks=pytest.mark.slow),
        pytest.param("loce", SIZE - 2, marks=pytest.mark.slow),
    ],
)
def test_one_bad_micro_batch_spoils_the_step(classification, image):
    """The first micro-batch of the first device, the second of the last: nothing is learnt from the others either."""
    step, start, mesh = built(classification)
    batch = random_batch(0, SIZE)
    batch.boxes[image] = np.nan
    before = jax.device_get(start())
    state, metrics = step(start(), to_devices(batch, mesh))
    assert float(metrics["finite"]) == 0
    assert int(state.step) == 1
    for name in ("trainable", "optimizer", "class_counts", "loss", "gradients", "features"):
        for a, b in zip(*map(jax.tree.leaves, (getattr(before, name), getattr(state, name))), strict=True):
            if name != "optimizer" or np.ndim(a):  # its number of the step goes on
                np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.slow
def test_without_micro_batches_the_program_has_no_loop_of_them():
    counts = []
    for count in (1, COUNT):
        step, start, mesh = build_from(accumulating_config(count=count), DEVICES)
        lowered = step.lower(start(), to_devices(random_batch(0, SIZE), mesh))
        counts.append(lowered.as_text().count("stablehlo.while"))
    assert counts[1] == counts[0] + 1


def test_micro_batches_are_consecutive_images_with_keys_of_their_own():
    batch, key = random_batch(0, 6), jax.random.key(3)

    def function(carry, images, key):
        return carry * 10 + images.index[0], (images.index, jax.random.key_data(key))

    batch = batch._replace(index=np.arange(6, dtype=np.int32))
    carry, (index, keys) = over_micro_batches(function, jnp.int32(0), batch, key, 3)
    assert int(carry) == 24
    np.testing.assert_array_equal(index, [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(keys, [jax.random.key_data(jax.random.fold_in(key, number)) for number in range(3)])
    with pytest.raises(ValueError, match=r"6 images of a device are not 4 micro-batches .*config\.train\.batch_size"):
        over_micro_batches(function, jnp.int32(0), batch, key, 4)


def test_with_one_micro_batch_the_functions_own_results_come_back():
    batch, key = random_batch(0), jax.random.key(0)
    gradients, losses, given = mean_gradient(lambda *given: ({"a": 1}, {"b": 2}, given), {}, "memory", batch, key, 1)
    assert (gradients, losses) == ({"a": 1}, {"b": 2})
    assert given[0] == "memory"
    assert given[1] is batch
    assert given[2] is key


@pytest.mark.parametrize(
    ("size", "count", "message"),
    [
        (16, 3, r"config\.train\.batch_size=16 .* multiple of their number, 8, times config\.train\.accumulate=3"),
        (16, 0, r"config\.train\.accumulate=0: a step has 1 micro-batch or more"),
    ],
)
def test_batches_that_cannot_be_shared_are_refused(size, count, message):
    config = tiny_config()
    config.train.update({"batch_size": size, "accumulate": count})
    with pytest.raises(ValueError, match=message):
        check_config(config, 8)
    check_config(config, 8, trains=False)  # of a run that was trained elsewhere
