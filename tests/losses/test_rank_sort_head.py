from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from rog_jax.losses import rank_sort_head_loss, rank_sort_mask_loss
from rog_jax.losses.rank_sort_head import balance, weighted_mean
from tests.reference import ranking as reference

IMAGES, ROWS, SLOTS, CLASSES, PIXELS = 8, 6, 3, 4, 4


def batch():
    generator = np.random.default_rng(0)
    labels = np.full((IMAGES, ROWS), CLASSES)
    labels[:, :SLOTS] = generator.integers(0, CLASSES + 1, (IMAGES, SLOTS))
    labels[generator.random(labels.shape) < 0.2] = -1
    labels[1] = CLASSES  # an image without positives
    corner = generator.uniform(0, 20, (IMAGES, SLOTS, 2))
    truths = np.concatenate([corner, corner + generator.uniform(5, 30, corner.shape)], -1)
    boxes = truths + generator.normal(0, 2, truths.shape)
    boxes[2, 0] = truths[2, 0] + 100  # no overlap
    labels[2, 0] = 1
    logits = generator.normal(0, 1, (IMAGES, ROWS, CLASSES))
    mask_logits = generator.normal(0, 1, (IMAGES, SLOTS, PIXELS, PIXELS))
    mask_targets = generator.random(mask_logits.shape) < 0.4
    arrays = (logits, labels, boxes, truths, mask_logits, mask_targets)
    return [x if x.dtype == labels.dtype else x.astype(np.float32) for x in arrays]


def losses(logits, labels, boxes, truths, mask_logits, mask_targets, **options):
    head = rank_sort_head_loss(logits, labels, boxes, truths, **options)
    classification = head.rank + head.sort
    axis = options.get("axis_name")
    mask = rank_sort_mask_loss(mask_logits, mask_targets, head.weights, classification, axis)
    return jnp.stack([head.rank, head.sort, head.box, mask])


def pulled(*arrays, **options):
    """The four losses, and the gradient of their sum at logits, boxes and mask logits."""
    logits, labels, boxes, truths, mask_logits, mask_targets = arrays
    values, pull = jax.vjp(
        lambda s, b, m: losses(s, labels, b, truths, m, mask_targets, **options), logits, boxes, mask_logits
    )
    return values, pull(jnp.ones_like(values))


def _value_and_slope(function, x, step=1e-5):
    """A float64 function and its central differences."""
    gradient = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        move = np.zeros(x.shape)
        move[at] = step
        gradient[at] = (function(x + move) - function(x - move)) / (2 * step)
    return function(x), gradient


@pytest.fixture(scope="module")
def expected():
    """Values and gradients from the twins: the factors of balancing are constants."""
    logits, labels, boxes, truths, mask_logits, mask_targets = (np.asarray(x, np.float64) for x in batch())
    labels = labels.astype(int)
    rank, sort, of_logits = reference.rank_sort_rows(logits, labels, boxes, truths)
    box, of_boxes = _value_and_slope(lambda x: reference.box_loss(logits, labels, x, truths), boxes)
    mask, of_masks = _value_and_slope(lambda x: reference.mask_loss(logits, labels, x, mask_targets), mask_logits)
    both = rank + sort
    return (rank, sort, both, both), (of_logits, both / box * of_boxes, both / mask * of_masks)


def check(values, gradients, expected):
    np.testing.assert_allclose(values, expected[0], rtol=1e-5)
    for got, want in zip(gradients, expected[1], strict=True):
        assert np.abs(want).max() > 1e-3
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5 * np.abs(want).max())


def test_head_equals_twin(expected):
    check(*jax.jit(pulled)(*batch()), expected)


def on_devices(**options):
    mesh = Mesh(np.array(jax.devices()[:IMAGES]), ("data",))
    images = PartitionSpec("data")

    def step(*arrays):
        values, gradients = pulled(*arrays, axis_name="data", **options)
        return jax.lax.pmean(values, "data")[None], gradients

    return jax.jit(jax.shard_map(step, mesh=mesh, in_specs=images, out_specs=images, check_vma=False))


def test_mean_over_devices_is_the_joined_batch(expected):
    values, gradients = on_devices()(*batch())
    check(values[0], [gradient / IMAGES for gradient in gradients], expected)


def test_each_device_may_rank_its_own_rows():
    values, gradients = on_devices(joint_ranking=False)(*batch())
    alone = jax.jit(lambda *arrays: jnp.mean(jax.vmap(losses)(*(x[:, None] for x in arrays)), axis=0))(*batch())
    np.testing.assert_allclose(values[0][:2], alone[:2], rtol=1e-5)
    np.testing.assert_allclose(values[0][2:], [alone[0] + alone[1]] * 2, rtol=1e-5)  # balanced all the same
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


def test_weight_acts_on_all_losses_of_the_head():
    plain, weighted = (jax.jit(partial(losses, weight=weight))(*batch()) for weight in (1.0, 0.2))
    np.testing.assert_allclose(weighted, 0.2 * plain, rtol=1e-5)


def test_without_positives_all_is_zero():
    logits, labels, *others = batch()
    values, gradients = jax.jit(pulled)(logits, np.where(labels >= 0, CLASSES, -1), *others)
    assert not np.any(values)
    assert not any(np.any(gradient) for gradient in gradients)


def test_perfect_boxes_and_huge_logits_are_finite():
    logits, labels, _, truths, mask_logits, mask_targets = batch()
    arrays = np.sign(logits) * np.float32(1e4), labels, truths, truths, np.sign(mask_logits) * 1e4, mask_targets
    values, gradients = jax.jit(pulled)(*arrays)
    assert values[2] == 0  # nothing to balance
    assert np.all(np.isfinite(values))
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


def test_scores_of_zero_leave_the_mean_finite():
    value = weighted_mean(jnp.ones(3), jnp.zeros(3))
    assert value == 0
    assert balance(value, jnp.asarray(2.0)) == 0


def test_nothing_of_empty_slots_reaches_a_gradient():
    arrays = batch()
    labels = arrays[1]
    empty = (labels[:, :SLOTS] < 0) | (labels[:, :SLOTS] == CLASSES)
    assert empty.any()
    for place in (2, 3, 4):  # boxes, truths, mask logits
        arrays[place][empty] = np.nan
    values, gradients = jax.jit(pulled)(*arrays)
    clean_values, clean_gradients = jax.jit(pulled)(*batch())
    np.testing.assert_allclose(values, clean_values, rtol=1e-6)
    for gradient, clean in zip(gradients, clean_gradients, strict=True):
        np.testing.assert_allclose(gradient, clean, rtol=1e-5, atol=1e-7)
