"""The training step: the same on one device and on eight, compiled once, without a round trip to the host."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rog_jax.data import ClassStatistics
from rog_jax.losses import accumulate_counts, gap_loss
from rog_jax.training.config import check_config
from rog_jax.training.losses import ROI_KEY, LossMemory, compute_losses
from rog_jax.training.optimizer import create_optimizer, learning_rate
from rog_jax.training.state import AXIS, ModelDefinition, create_state, data_mesh
from rog_jax.training.step import make_train_step, to_devices
from tests.tiny import NUM_CLASSES, random_batch, tiny_config

STATISTICS = ClassStatistics((1, 2, 3, 5, 8), (1, 4, 6, 9, 12), 20)


@functools.cache
def build(devices: int, **gap):
    """The step of the tiny detector on some of the simulated devices, with its initial state's maker."""
    config = tiny_config()
    config.loss.gap.update({"weight": 1.0, **gap})
    return build_from(config, devices)


def build_from(config, devices: int):
    """The step of a config, the maker of its initial state, and the mesh."""
    mesh = data_mesh(jax.devices()[:devices])
    definition = ModelDefinition(config, STATISTICS)
    config = definition.config
    check_config(config, devices)
    schedule = learning_rate(config.optim, config.train.batch_size, [100])
    optimizer = create_optimizer(config.optim, schedule)
    step = make_train_step(definition, optimizer, schedule, mesh)
    return step, functools.partial(create_state, definition, optimizer, mesh), mesh


def run(devices: int, steps: int = 2, **gap):
    """State and metrics, as NumPy arrays, after some updates."""
    step, start, mesh = build(devices, **gap)
    state, history = start(), []
    for number in range(steps):
        state, metrics = step(state, to_devices(random_batch(number), mesh))
        history.append({name: float(value) for name, value in metrics.items()})
    return jax.device_get(state), history


@pytest.mark.parametrize("variant", [pytest.param("paper", marks=pytest.mark.slow), "published"])
def test_eight_devices_equal_one(variant):
    one, history_one = run(1, scope="global", variant=variant)
    eight, history_eight = run(8, scope="global", variant=variant)
    np.testing.assert_array_equal(one.class_counts, eight.class_counts)
    assert one.class_counts.sum() > 0
    for a, b in zip(history_one, history_eight, strict=True):
        assert a.keys() == b.keys()
        assert a["gap"] > 0
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=2e-5, atol=1e-6, err_msg=name)
    # After two updates the momentum is the sum of both gradients, the first times 0.9: all of them are compared.
    flat_one, flat_eight = (jax.tree_util.tree_flatten_with_path(state.optimizer)[0] for state in (one, eight))
    scale = max(np.abs(leaf).max() for _, leaf in flat_one if leaf.ndim)
    for (path, a), (_, b) in zip(flat_one, flat_eight, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5 * scale, err_msg=jax.tree_util.keystr(path))
    for a, b in zip(jax.tree.leaves(one.trainable), jax.tree.leaves(eight.trainable), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_images_and_objects_left_out_are_summed_over_devices():
    step, start, mesh = build(8, scope="global", variant="paper")
    left_out = {"unreadable": np.array([1, 0, 0, 1, 0, 0, 0, 1], np.int32), "dropped": np.arange(8, dtype=np.int32)}
    _, metrics = step(start(), to_devices(random_batch(0)._replace(**left_out), mesh))
    assert (float(metrics["unreadable"]), float(metrics["dropped"])) == (3, 28)


def test_device_scope_ranks_each_device_by_itself():
    """With scope `device` the GAP value is the mean of separate calls, one a device."""
    config = tiny_config()
    config.loss.gap.update({"weight": 1.0, "scope": "device", "variant": "published"})
    definition, mesh = ModelDefinition(config), data_mesh(jax.devices()[:8])
    key = jax.random.key(0)

    def probe(batch):
        model = definition.merge(*definition.initial)
        outputs = model.train_outputs(batch, jax.random.fold_in(key, ROI_KEY))
        losses, memory = compute_losses(model, batch, LossMemory(np.zeros(NUM_CLASSES, np.int32), (), ()), key)
        return outputs.logits, outputs.rois.labels, losses["gap"][None], memory.class_counts[None]

    rows = PartitionSpec(AXIS)
    mapped = jax.shard_map(probe, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)
    logits, labels, values, counts = jax.device_get(jax.jit(mapped)(to_devices(random_batch(0), mesh)))
    total = np.zeros(NUM_CLASSES, np.int32)
    for of_image in labels:
        total = np.asarray(accumulate_counts(total, of_image))
    for counted in counts:
        np.testing.assert_array_equal(counted, total)  # counts are global even where the ranking is not
    separate = [
        gap_loss(x, y, total, weight=1.0, variant="published") for x, y in zip(logits[..., :-1], labels, strict=True)
    ]
    np.testing.assert_allclose(values, separate, rtol=1e-5)
    assert np.std(separate) > 0


def test_counts_of_each_device_add_up():
    per_device, _ = run(8, scope="device", counts_scope="device")
    together, _ = run(8, scope="device", counts_scope="global")
    assert per_device.class_counts.shape == (8, NUM_CLASSES)
    np.testing.assert_array_equal(per_device.class_counts.sum(0), together.class_counts)


def test_compiles_once_and_never_asks_the_host():
    step, start, mesh = build(8, scope="global", variant="paper")
    state, _ = step(start(), to_devices(random_batch(0), mesh))
    compiled = step._cache_size()
    with jax.transfer_guard("disallow"), jax.log_compiles(False):
        for number in range(1, 4):
            state, _ = step(state, to_devices(random_batch(number), mesh))
    assert step._cache_size() == compiled == 1
    assert int(state.step) == 4


def test_padding_images_take_part_in_nothing():
    step, start, mesh = build(1, scope="global", variant="paper")
    batch = random_batch(3)
    changed = batch._replace(image=batch.image.copy(), boxes=batch.boxes.copy(), labels=batch.labels.copy())
    changed.image[-1] = 255 - changed.image[-1]
    changed.boxes[-1] = [0, 0, 40, 40]
    changed.labels[-1] = 2
    for a, b in zip(*(jax.tree.leaves(step(start(), to_devices(x, mesh))) for x in (batch, changed)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_loss_that_is_not_finite_changes_nothing():
    step, start, mesh = build(1, scope="global", variant="paper")
    state = start()
    poisoned = state._replace(trainable=jax.tree.map(lambda x: x, state.trainable))
    kernel = poisoned.trainable["box_head"]["classifier"]["kernel"]
    poisoned.trainable["box_head"]["classifier"]["kernel"] = kernel.at[0, 0].set(np.inf)
    before = jax.device_get(poisoned)
    after, metrics = step(poisoned, to_devices(random_batch(0), mesh))
    assert float(metrics["finite"]) == 0
    assert int(after.step) == 1
    after = jax.device_get(after)
    for a, b in zip(jax.tree.leaves(before)[1:], jax.tree.leaves(after)[1:], strict=True):
        if any(a is count for count in jax.tree.leaves(before.optimizer)) and np.issubdtype(a.dtype, np.integer):
            assert b == a + 1  # the schedule goes on with the steps
        else:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("classification", "ranking"),
    [
        ("sigmoid_ce", "none"),
        pytest.param("softmax_ce", "gap", marks=pytest.mark.slow),
        pytest.param("softmax_ce", "none", marks=pytest.mark.slow),
        pytest.param("sigmoid_ce", "gap", marks=pytest.mark.slow),
    ],
)
def test_losses_fall(classification, ranking):
    """Overfits one batch: every choice of losses trains."""
    config = tiny_config()
    config.loss.classification = classification
    config.loss.ranking = ranking
    step, start, mesh = build_from(config, 1)
    state = start()
    batch = to_devices(random_batch(0), mesh)
    history = []
    for _ in range(25):
        state, metrics = step(state, batch)
        history.append(float(metrics["loss"]))
    assert ("gap" in metrics) == (ranking == "gap")
    assert np.mean(history[-5:]) < 0.8 * np.mean(history[:3])
