"""GAP over the union of the batches of eight simulated devices."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from rog_jax.losses import gap_loss
from tests.reference import losses as reference

DEVICES = 8
ROWS, CLASSES = 6, 5  # of each device


def joined_batch():
    generator = np.random.default_rng(3)
    labels = generator.integers(0, CLASSES + 1, DEVICES * ROWS)
    labels[generator.random(labels.size) < 0.2] = -1
    labels[:ROWS] = CLASSES  # a device without positives
    labels[-ROWS:] = 1  # a device without negative rows
    logits = generator.normal(0, 0.7, (DEVICES * ROWS, CLASSES)).astype(np.float32)
    return logits, labels, generator.integers(1, 90, CLASSES)


def on_devices(check_vma=False, **options):
    mesh = Mesh(np.array(jax.devices()[:DEVICES]), ("data",))
    rows = PartitionSpec("data")

    def step(logits, labels, counts):
        value, gradient = jax.value_and_grad(gap_loss)(logits, labels, counts, axis_name="data", **options)
        return value[None], gradient

    replicated = PartitionSpec()
    specs = {"in_specs": (rows, rows, replicated), "out_specs": (rows, rows)}
    return jax.jit(jax.shard_map(step, mesh=mesh, **specs, check_vma=check_vma))


@pytest.mark.parametrize(
    ("method", "variant", "exclude_foreground", "max_positives"),
    [
        ("interval", "paper", False, ROWS),
        ("interval", "published", False, 3),  # the last device overflows its slots, and all follow it
        ("one_hot", "paper", False, 3),
        ("dense", "paper", False, ROWS),
        ("dense", "published", True, ROWS),
    ],
)
def test_devices_agree_with_the_joined_batch(method, variant, exclude_foreground, max_positives):
    batch = joined_batch()
    options = {"variant": variant, "exclude_foreground": exclude_foreground}
    expected = reference.gap(*batch, **options)
    values, gradient = on_devices(method=method, max_positives=max_positives, **options)(*batch)
    assert len(set(np.asarray(values).tolist())) == 1
    np.testing.assert_allclose(values[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(gradient / DEVICES, expected[1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("method", "max_positives"), [("interval", ROWS), ("interval", 3), ("one_hot", 3), ("dense", ROWS)]
)
def test_values_and_gradients_under_the_checks_of_shard_map(method, max_positives):
    batch = joined_batch()
    expected = reference.gap(*batch)
    values, gradient = on_devices(check_vma=True, method=method, max_positives=max_positives)(*batch)
    np.testing.assert_allclose(values, np.full(DEVICES, expected[0]), rtol=1e-5)
    np.testing.assert_allclose(gradient / DEVICES, expected[1], rtol=1e-4, atol=1e-7)


def test_scores_stay_on_their_device():
    rows, classes, slots = 32, 500, 4
    shapes = [((DEVICES * rows, classes), jnp.float32), ((DEVICES * rows,), jnp.int32), ((classes,), jnp.int32)]
    arguments = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    text = on_devices(max_positives=slots).lower(*arguments).compile().as_text()
    results = re.findall(r"= (.*?) (?:all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)\(", text)
    shape = re.compile(r"\w+\[([\d,]*)\]")
    elements = [
        sum(int(np.prod([int(n) for n in dims.split(",") if n])) for dims in shape.findall(result))
        for result in results
    ]
    assert len(elements) >= 6
    # Both paths, the usual one and that of a slot a row, exchange a few tables of 2 breakpoints a slot.
    assert sum(elements) < 10 * 2 * DEVICES * (slots + rows) < rows * classes


@pytest.mark.parametrize("variant", ["paper"])
def test_without_an_axis_devices_rank_alone(variant):
    logits, labels, counts = joined_batch()
    alone = [
        reference.gap(logits[i : i + ROWS], labels[i : i + ROWS], counts, variant=variant)[0]
        for i in range(0, DEVICES * ROWS, ROWS)
    ]
    mesh = Mesh(np.array(jax.devices()[:DEVICES]), ("data",))
    rows = PartitionSpec("data")
    loss = partial(gap_loss, variant=variant, max_positives=ROWS)
    mapped = jax.shard_map(
        lambda s, y, n: loss(s, y, n)[None],
        mesh=mesh,
        in_specs=(rows, rows, PartitionSpec()),
        out_specs=rows,
        check_vma=False,
    )
    np.testing.assert_allclose(jax.jit(mapped)(logits, labels, counts), alone, rtol=1e-5)
