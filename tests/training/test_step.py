"""The training step: the same on one device and on eight, compiled once, without a round trip to the host."""

import functools

import jax
import numpy as np
import pytest

from rog_jax.losses import accumulate_counts
from rog_jax.training.config import check_config
from rog_jax.training.optimizer import create_optimizer, learning_rate
from rog_jax.training.state import ModelDefinition, create_state, data_mesh
from rog_jax.training.step import make_train_step, to_devices
from tests.tiny import NUM_CLASSES, random_batch, tiny_config


@functools.cache
def build(devices: int, **gap):
    """The step of the tiny detector on some of the simulated devices, with its initial state's maker."""
    config = tiny_config()
    config.loss.gap.update({"weight": 1.0, **gap})
    mesh = data_mesh(jax.devices()[:devices])
    check_config(config, devices)
    definition = ModelDefinition(config)
    schedule = learning_rate(config.optim, config.train.batch_size, [100])
    optimizer = create_optimizer(config.optim, schedule)
    step = make_train_step(definition, optimizer, schedule, mesh, np.arange(1, NUM_CLASSES + 1, dtype=np.int32))
    return step, functools.partial(create_state, definition, optimizer, mesh), mesh


def run(devices: int, steps: int = 2, **gap):
    """State and metrics, as NumPy arrays, after some updates."""
    step, start, mesh = build(devices, **gap)
    state, history = start(), []
    for number in range(steps):
        state, metrics = step(state, to_devices(random_batch(number), mesh))
        history.append({name: float(value) for name, value in metrics.items()})
    return jax.device_get(state), history


@pytest.mark.parametrize("variant", ["paper", "published"])
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


def test_device_scope_ranks_each_device_by_itself(monkeypatch):
    """With scope `device` the GAP value is the mean of separate calls, one a device."""
    import rog_jax.training.step as step_module

    seen = []
    inner = step_module.gap_loss

    def spy(logits, labels, counts, **kwargs):
        value = inner(logits, labels, counts, **kwargs)
        jax.debug.callback(lambda *arrays: seen.append([np.asarray(x) for x in arrays]), logits, labels, counts, value)
        return value

    monkeypatch.setattr(step_module, "gap_loss", spy)
    build.cache_clear()
    _, history = run(8, steps=1, scope="device", variant="published")
    jax.effects_barrier()
    build.cache_clear()
    assert len(seen) == 8
    counts = np.zeros(NUM_CLASSES, np.int32)
    for _, labels, _, _ in seen:
        counts = np.asarray(accumulate_counts(counts, labels))
    separate = [float(inner(x, y, counts, weight=1.0, variant="published")) for x, y, _, _ in seen]
    np.testing.assert_allclose(history[0]["gap"], np.mean(separate), rtol=1e-5)
    assert np.std(separate) > 0
    for _, _, ranked, _ in seen:
        np.testing.assert_array_equal(ranked, counts)  # counts are global even where the ranking is not


def test_counts_of_each_device_add_up():
    per_device, _ = run(8, scope="device", counts_scope="device")
    together, _ = run(8, scope="device", counts_scope="global")
    assert per_device.class_counts.shape == (8, NUM_CLASSES)
    np.testing.assert_array_equal(per_device.class_counts.sum(0), together.class_counts[0])


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
    for a, b in zip(jax.tree.leaves(before)[1:], jax.tree.leaves(jax.device_get(after))[1:], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("classification", "ranking"),
    [
        ("sigmoid_ce", "none"),
        ("softmax_ce", "gap"),
        pytest.param("softmax_ce", "none", marks=pytest.mark.slow),
        pytest.param("sigmoid_ce", "gap", marks=pytest.mark.slow),
    ],
)
def test_losses_fall(classification, ranking):
    """Overfits one batch: every choice of losses trains."""
    config = tiny_config()
    config.loss.classification = classification
    config.loss.ranking = ranking
    mesh = data_mesh(jax.devices()[:1])
    definition = ModelDefinition(config)
    schedule = learning_rate(config.optim, 8, [100])
    optimizer = create_optimizer(config.optim, schedule)
    step = make_train_step(definition, optimizer, schedule, mesh, np.ones(NUM_CLASSES, np.int32))
    state = create_state(definition, optimizer, mesh)
    batch = to_devices(random_batch(0), mesh)
    history = []
    for _ in range(25):
        state, metrics = step(state, batch)
        history.append(float(metrics["loss"]))
    assert ("gap" in metrics) == (ranking == "gap")
    assert np.mean(history[-5:]) < 0.8 * np.mean(history[:3])
