"""AP loss and Rank & Sort over the union of the batches of eight simulated devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from rog_jax.losses import ap_loss, ap_loss_of_rows, rank_sort_loss_of_rows
from tests.losses.ranking import METHODS, check
from tests.reference import ranking as reference

DEVICES = 8
ROWS, CLASSES = 6, 4  # of each device


def joined_batch():
    generator = np.random.default_rng(5)
    labels = generator.integers(0, CLASSES + 1, DEVICES * ROWS)
    labels[generator.random(labels.size) < 0.2] = -1
    labels[:ROWS] = CLASSES  # a device without positives
    labels[-ROWS:] = 1  # a device without background
    ious = generator.choice([0, 0.5, 0.75, 0.875, 1], labels.size).astype(np.float32)
    return generator.normal(0, 0.7, (labels.size, CLASSES)).astype(np.float32), labels, ious


def on_devices(loss, check_vma=False, **options):
    mesh = Mesh(np.array(jax.devices()[:DEVICES]), ("data",))
    rows = PartitionSpec("data")

    def step(logits, *others):
        values, pull = jax.vjp(lambda s: loss(s, *others, axis_name="data", **options), logits)
        gradient = pull(jax.tree.map(jnp.ones_like, values))[0]
        return jnp.atleast_1d(jnp.stack(values) if isinstance(values, tuple) else values)[None], gradient

    return jax.jit(jax.shard_map(step, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=check_vma))


# With three slots the last device overflows them, and all follow it.
@pytest.mark.parametrize(("method", "slots"), [("interval", 3), ("interval", ROWS), ("one_hot", 3), ("dense", 4)])
def test_ap_of_devices_is_that_of_the_joined_batch(method, slots):
    logits, labels, _ = joined_batch()
    expected = reference.ap(logits.ravel(), reference.flat_targets(labels, CLASSES).ravel())
    values, gradient = on_devices(ap_loss_of_rows, method=method, max_positives=slots)(logits, labels)
    assert len(set(values[:, 0].tolist())) == 1
    check((values[0, 0], gradient / DEVICES), (expected[0], expected[1].reshape(logits.shape)), 2e-5)


@pytest.mark.parametrize(("method", "slots"), [("interval", 3), ("interval", ROWS), ("one_hot", 3), ("dense", 4)])
def test_rank_sort_of_devices_is_that_of_the_joined_batch(method, slots):
    logits, labels, ious = joined_batch()
    targets = reference.flat_targets(labels, CLASSES, ious)
    *expected, expected_gradient = reference.rank_sort(logits.ravel(), targets.ravel())
    values, gradient = on_devices(rank_sort_loss_of_rows, method=method, max_positives=slots)(logits, labels, ious)
    assert len({tuple(row) for row in values.tolist()}) == 1
    check((*values[0], gradient / DEVICES), (*expected, expected_gradient.reshape(logits.shape)), 2e-5)


@pytest.mark.parametrize(("method", "slots"), [("interval", 3), ("interval", ROWS), ("one_hot", 3), ("dense", ROWS)])
@pytest.mark.parametrize("loss", [ap_loss_of_rows, rank_sort_loss_of_rows])
def test_the_checks_of_shard_map_change_nothing(loss, method, slots):
    arrays = joined_batch()[: 2 if loss is ap_loss_of_rows else 3]
    plain, checked = (on_devices(loss, vma, method=method, max_positives=slots)(*arrays) for vma in (False, True))
    check(tuple(checked), tuple(plain), 1e-6)


def test_flat_lists_of_devices_are_joined():
    logits, labels, _ = joined_batch()
    targets = reference.flat_targets(labels, CLASSES).ravel()
    expected = reference.ap(logits.ravel(), targets)
    values, gradient = on_devices(ap_loss, max_positives=4)(logits.ravel(), targets)
    check((values[0, 0], gradient / DEVICES), expected, 2e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("loss", [ap_loss_of_rows, rank_sort_loss_of_rows])
def test_scores_stay_on_their_device(loss, method):
    rows, classes, slots = 32, 500, 4
    shapes = [
        ((DEVICES * rows, classes), jnp.float32),
        ((DEVICES * rows,), jnp.int32),
        ((DEVICES * rows,), jnp.float32),
    ]
    arguments = [jax.ShapeDtypeStruct(*shape) for shape in shapes[: 2 if loss is ap_loss_of_rows else 3]]
    text = on_devices(loss, method=method, max_positives=slots).lower(*arguments).compile().as_text()
    results = re.findall(r"= (.*?) (?:all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)\(", text)
    shape = re.compile(r"\w+\[([\d,]*)\]")
    elements = [
        sum(int(np.prod([int(n) for n in dims.split(",") if n])) for dims in shape.findall(result))
        for result in results
    ]
    assert len(elements) >= 6
    # Both paths, the usual one and that of groups, exchange a few tables of 2 breakpoints a slot.
    assert sum(elements) < 10 * 2 * DEVICES * (slots + rows) < rows * classes
