from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from rog_jax.models.fpn import STRIDES
from rog_jax.models.layers import ParameterDraws
from rog_jax.models.rpn import RPNHead, RPNOutputs, anchors_inside, propose, rpn_losses, rpn_targets
from rog_jax.ops.anchors import make_anchors
from tests.reference import models as reference
from tests.tiny import tiny_config

SHAPE = (64, 96)
SIZES = np.float32([[64, 96], [40, 50], [0, 0]])  # the second fills 64x64 cells; the third is a padding image
SETTINGS = FrozenConfigDict(tiny_config().rpn)
ANCHORS = make_anchors(SHAPE, STRIDES, SETTINGS.anchor_scale, SETTINGS.ratios)
PRE_NMS, PROPOSALS = 100, 60


def head_outputs(seed: int) -> RPNOutputs:
    """Random logits and deltas; some of the best boxes lie outside of the image."""
    rng = np.random.default_rng(seed)
    counts = [len(level) for level in ANCHORS]
    logits = [rng.standard_normal((len(SIZES), count)).astype(np.float32) for count in counts]
    deltas = [rng.normal(0, 0.4, (len(SIZES), count, 4)).astype(np.float32) for count in counts]
    for level_logits, level_deltas in zip(logits, deltas, strict=True):
        best = level_logits.argmax(axis=1)
        level_deltas[np.arange(len(SIZES)), best, 0] = 60
    return RPNOutputs([jnp.asarray(x) for x in logits], [jnp.asarray(x) for x in deltas])


@jax.jit
def propose_jit(outputs, sizes):
    return propose(outputs, sizes, SHAPE, SETTINGS, pre_nms=PRE_NMS, proposals=PROPOSALS)


def naive_inside(size):
    return reference.anchors_inside(size, SHAPE, STRIDES, len(SETTINGS.ratios))


def test_head_lists_anchors_by_row_column_and_ratio():
    head = RPNHead(4, 3, dtype=jnp.bfloat16, rngs=ParameterDraws(0))
    rng = np.random.default_rng(0)
    features = [jnp.asarray(rng.standard_normal((2, h, w, 4)), jnp.bfloat16) for h, w in ((4, 6), (2, 3))]
    outputs = head(features)
    for feature, logits, deltas in zip(features, *outputs, strict=True):
        assert logits.dtype == deltas.dtype == jnp.float32
        x = jax.nn.relu(head.conv(feature))
        height, width = feature.shape[1:3]
        all_logits, all_deltas = (np.asarray(layer(x), np.float32) for layer in (head.objectness, head.deltas))
        for row, column, ratio in np.ndindex(height, width, 3):
            anchor = (row * width + column) * 3 + ratio
            np.testing.assert_array_equal(logits[:, anchor], all_logits[:, row, column, ratio])
            np.testing.assert_array_equal(deltas[:, anchor], all_deltas[:, row, column, 4 * ratio : 4 * ratio + 4])


def test_anchors_inside_are_those_of_the_image_padded_to_32_pixels():
    masks = jax.jit(lambda sizes: anchors_inside(sizes, SHAPE, 3))(jnp.asarray(SIZES))
    for image, size in enumerate(SIZES):
        for got, want in zip(masks, naive_inside(size), strict=True):
            np.testing.assert_array_equal(got[image], want)
    assert [int(mask[1].sum()) for mask in masks] == [3 * 16 * 16, 3 * 8 * 8, 3 * 4 * 4, 3 * 2 * 2, 3]
    assert all(mask[0].all() and not mask[2].any() for mask in masks)


@pytest.mark.parametrize("seed", [0, 1])
def test_proposals_equal_the_naive_pipeline(seed):
    outputs = head_outputs(seed)
    boxes, _, valid = propose_jit(outputs, jnp.asarray(SIZES))
    assert boxes.shape == (len(SIZES), PROPOSALS, 4)
    for image, size in enumerate(SIZES):
        logits, deltas = ([np.asarray(level[image]) for level in part] for part in outputs)
        inside = naive_inside(size)
        expected = reference.propose(logits, deltas, ANCHORS, inside, size, PRE_NMS, SETTINGS.nms_iou, PROPOSALS)
        assert int(valid[image].sum()) == len(expected) == (0 if image == 2 else PROPOSALS)
        np.testing.assert_allclose(boxes[image][: len(expected)], expected, rtol=1e-4, atol=1e-3)
        assert not valid[image][len(expected) :].any()


@pytest.mark.parametrize("changes", [{"proposals_per_level": 4}, {"min_size": 40.0}])
def test_a_level_gives_at_most_its_share_and_boxes_too_small_none(changes):
    outputs, size = head_outputs(0), SIZES[0]
    settings = FrozenConfigDict({**SETTINGS, **changes})
    boxes, _, valid = propose(outputs, jnp.asarray(SIZES), SHAPE, settings, pre_nms=PRE_NMS, proposals=PROPOSALS)
    logits, deltas = ([np.asarray(level[0]) for level in part] for part in outputs)
    counts = PRE_NMS, SETTINGS.nms_iou, PROPOSALS, settings.proposals_per_level, settings.min_size
    expected = reference.propose(logits, deltas, ANCHORS, naive_inside(size), size, *counts)
    assert int(valid[0].sum()) == len(expected) < PROPOSALS
    np.testing.assert_allclose(boxes[0][: len(expected)], expected, rtol=1e-4, atol=1e-3)


def test_fewer_boxes_than_slots_leave_empty_slots():
    outputs = RPNOutputs([x[:, :3] for x in head_outputs(0).logits], [x[:, :3] for x in head_outputs(0).deltas])
    shape, size = (4, 4), jnp.full((len(SIZES), 2), 4.0)
    few = jax.jit(lambda outputs, size: propose(outputs, size, shape, SETTINGS, pre_nms=5, proposals=20))
    boxes, _, valid = few(outputs, size)
    assert boxes.shape == (len(SIZES), 20, 4)
    assert (valid.sum(axis=1) <= 15).all()
    assert valid.any(axis=1).all()
    np.testing.assert_array_equal(valid, np.sort(valid, axis=1)[:, ::-1])  # the valid ones come first


def test_proposals_do_not_depend_on_cells_of_the_padding():
    outputs = head_outputs(2)
    inside = [jnp.asarray(level) for level in naive_inside(SIZES[1])]
    changed = RPNOutputs(
        [jnp.where(mask, x, 100.0) for mask, x in zip(inside, outputs.logits, strict=True)],
        [jnp.where(mask[:, None], x, 0.0) for mask, x in zip(inside, outputs.deltas, strict=True)],
    )
    for got, want in zip(
        propose_jit(changed, jnp.asarray(SIZES)), propose_jit(outputs, jnp.asarray(SIZES)), strict=True
    ):
        np.testing.assert_array_equal(got[1], want[1])
        assert (np.asarray(got[0]) == np.asarray(want[0])).all() == (
            got.dtype == bool
        )  # the first image fills the shape


def truths():
    """Three slots an image; the second has one object, and the third, a padding image, would have some."""
    rng = np.random.default_rng(5)
    corner = rng.uniform(0, 24, (len(SIZES), 3, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(8, 24, corner.shape)], axis=-1).astype(np.float32)
    labels = np.int32([[0, 4, 2], [1, -1, -1], [0, 1, 2]])
    return boxes, labels, np.int32([7, 3, -1])


@partial(jax.jit, static_argnames="settings")
def losses_jit(outputs, boxes, labels, sizes, index, keys, settings):
    targets = rpn_targets(boxes, labels, sizes, index, SHAPE, settings, keys)
    return rpn_losses(outputs, targets, index, settings)


def losses(outputs, boxes, labels, index, sizes, settings, seed=0):
    keys = jax.random.split(jax.random.key(seed), len(sizes))
    return losses_jit(outputs, *(jnp.asarray(x) for x in (boxes, labels, sizes, index)), keys, settings=settings)


@pytest.mark.parametrize("with_objects", [True, False])
@pytest.mark.parametrize("beta", [0.0, 1 / 9])
def test_losses_equal_the_naive_ones_where_every_anchor_is_drawn(with_objects, beta):
    settings = FrozenConfigDict({**SETTINGS, "samples": 10_000, "positive_fraction": 1.0, "smooth_l1_beta": beta})
    outputs, (boxes, labels, index) = head_outputs(3), truths()
    sizes = np.float32([[64, 96], [40, 50], [64, 96]])  # the last takes part in nothing by its index alone
    if not with_objects:
        labels = np.full_like(labels, -1)
    got = losses(outputs, boxes, labels, index, sizes, settings)
    logits, deltas = (np.concatenate([np.asarray(level) for level in part], axis=1) for part in outputs)
    inside = [np.concatenate(naive_inside(size)) for size in sizes]
    iou = settings.positive_iou, settings.negative_iou
    expected = reference.rpn_losses(logits, deltas, np.concatenate(ANCHORS), inside, boxes, labels, index, *iou, beta)
    np.testing.assert_allclose([got["rpn_cls"], got["rpn_box"]], expected, rtol=2e-5)
    assert (got["rpn_box"] > 0) == with_objects


def test_detectron2s_losses_are_divided_by_the_number_of_samples_planned():
    boxes, labels, index = truths()
    drawn = {**SETTINGS, "samples": 10_000, "positive_fraction": 1.0}
    by_drawn, by_planned = (
        losses(head_outputs(3), boxes, labels, index, SIZES, FrozenConfigDict({**drawn, "loss_divisor": name}))
        for name in ("sampled", "samples")
    )
    keys = jax.random.split(jax.random.key(0), len(SIZES))
    arrays = (jnp.asarray(x) for x in (boxes, labels, SIZES, index))
    count = int((rpn_targets(*arrays, SHAPE, FrozenConfigDict(drawn), keys).kind >= 0).sum())
    for name in ("rpn_cls", "rpn_box"):  # of three images, the third is padding
        np.testing.assert_allclose(by_planned[name] * 2 * 10_000, by_drawn[name] * count, rtol=1e-5)


def test_losses_are_divided_by_the_number_drawn_and_follow_the_key():
    settings = FrozenConfigDict({**SETTINGS, "samples": 8, "positive_fraction": 0.5})
    boxes, labels, index = truths()
    outputs = head_outputs(3)
    undecided = outputs._replace(logits=[jnp.zeros_like(x) for x in outputs.logits])
    # 16 anchors of two images, each log 2, over 16.
    np.testing.assert_allclose(
        losses(undecided, boxes, labels, index, SIZES, settings)["rpn_cls"], np.log(2), rtol=1e-6
    )
    a, b, c = (losses(outputs, boxes, labels, index, SIZES, settings, seed)["rpn_cls"] for seed in (0, 0, 1))
    assert a == b != c
