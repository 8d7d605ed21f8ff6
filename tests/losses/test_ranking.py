"""What holds of every ranking loss: its methods, batches without rows or positives, types."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from rog_jax.losses import ap_loss, ap_loss_of_rows, gap_loss, rank_sort_loss, rank_sort_loss_of_rows, ranking
from tests.losses.ranking import METHODS, rows

CLASSES = 5


def gap(logits, labels, ious, **options):
    return gap_loss(logits, labels, np.arange(CLASSES) * 7, **options)


def gap_published(logits, labels, ious, **options):
    return gap_loss(logits, labels, np.arange(CLASSES) * 7, variant="published", exclude_foreground=False, **options)


def average_precision(logits, labels, ious, **options):
    return ap_loss_of_rows(logits, labels, **options)


def rank_and_sort(logits, labels, ious, **options):
    return sum(rank_sort_loss_of_rows(logits, labels, ious, **options))


LOSSES = [gap, gap_published, average_precision, rank_and_sort]


@pytest.mark.parametrize("loss", LOSSES)
def test_auto_takes_products_on_tpus_and_looks_up_elsewhere(loss, monkeypatch):
    batch = rows(40, CLASSES)

    def products(method, platform):
        run = jax.jit(jax.value_and_grad(partial(loss, method=method, max_positives=40)))
        traced = run.trace(*(jnp.asarray(x) for x in batch))
        return traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.dot_general")

    assert products("one_hot", "tpu") > products("dense", "tpu") >= products("interval", "tpu")
    assert products("auto", "tpu") == products("one_hot", "tpu")
    assert products("auto", "cuda") == products("auto", "cpu") == products("interval", "cpu")
    monkeypatch.setattr(ranking, "ONE_HOT_ON_TPU", 39)
    assert products("auto", "tpu") == products("interval", "tpu")


def test_auto_looks_at_the_positives_of_a_group(monkeypatch):
    """A long list has a slot for each entry, but its positives are ranked in groups."""
    monkeypatch.setattr(ranking, "ONE_HOT_ON_TPU", 8)
    shapes = jax.ShapeDtypeStruct((40,), jnp.float32), jax.ShapeDtypeStruct((40,), jnp.int32)

    def products(method, slots):
        run = jax.jit(partial(ap_loss, method=method, max_positives=slots))
        return run.trace(*shapes).lower(lowering_platforms=("tpu",)).as_text().count("stablehlo.dot_general")

    assert products("auto", 8) == products("one_hot", 8) > products("interval", 8)
    assert products("auto", 9) == products("interval", 9)


@pytest.mark.parametrize("loss", LOSSES)
def test_auto_under_a_mesh_axis_is_the_joined_batch(loss):
    logits, labels, ious = rows(32, CLASSES, positives=9, padding=5, seed=3)
    logits, ious = logits.astype(np.float32), ious.astype(np.float32)
    expected = jax.jit(jax.value_and_grad(partial(loss, method="dense")))(logits, labels, ious)
    spread = PartitionSpec("data")
    step = jax.shard_map(
        jax.value_and_grad(partial(loss, axis_name="data")),
        mesh=Mesh(np.array(jax.devices()[:4]), ("data",)),
        in_specs=(spread, spread, spread),
        out_specs=(PartitionSpec(), spread),
    )
    value, gradient = jax.jit(step)(logits, labels, ious)
    np.testing.assert_allclose(value, expected[0], rtol=2e-5)
    np.testing.assert_allclose(gradient / 4, expected[1], rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("labels", [[], [-1], [CLASSES, -1, CLASSES]])
def test_nothing_without_positives(loss, labels):
    logits = jnp.asarray(np.random.default_rng(0).normal(0, 1, (len(labels), CLASSES)), jnp.bfloat16)
    labels = jnp.asarray(labels, jnp.int32)
    value, gradient = jax.jit(jax.value_and_grad(loss))(logits, labels, jnp.zeros(len(labels)))
    assert value.dtype == jnp.float32
    assert value == 0
    assert gradient.shape == logits.shape
    assert gradient.dtype == logits.dtype
    assert not np.any(gradient)


@pytest.mark.parametrize("loss", [ap_loss, lambda *list_: sum(rank_sort_loss(*list_))])
def test_an_empty_list_gives_zero(loss):
    value, gradient = jax.value_and_grad(loss)(jnp.zeros(0), jnp.zeros(0))
    assert value == 0
    assert gradient.shape == (0,)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_results_have_the_type_of_the_logits_under_x64(loss, dtype):
    with jax.enable_x64(True):
        logits, labels, ious = rows(14, CLASSES)
        for method in METHODS:
            run = jax.jit(jax.value_and_grad(partial(loss, method=method)))
            value, gradient = run(jnp.asarray(logits, dtype), labels, ious)
            assert value.dtype == (jnp.float64 if dtype == "float64" else jnp.float32)
            assert gradient.dtype == dtype
            assert value > 0
