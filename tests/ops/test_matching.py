from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rog_jax.ops import matching
from rog_jax.ops.anchors import make_anchors
from rog_jax.ops.matching import match, sample, sample_mask
from tests.ops.strategies import boxes, masks
from tests.reference import ops as reference

TRUTHS, CANDIDATES = 5, 23
RPN = {"positive_iou": 0.7, "negative_iou": 0.3, "low_quality": "reassign"}


@pytest.fixture(params=[1, 2, 100], ids="block of {}".format)
def block(request, monkeypatch):
    """Ground truths compared at a time."""
    monkeypatch.setattr(matching, "BLOCK_IOUS", request.param * CANDIDATES)
    return request.param


@partial(jax.jit, static_argnames=("positive_iou", "negative_iou", "low_quality", "min_positive_iou", "block"))
def match_jit(gt_boxes, gt_valid, candidates, block, **options):
    return match(gt_boxes, gt_valid, candidates, **options)


@pytest.mark.parametrize(
    "options",
    [
        {**RPN, "min_positive_iou": None},
        {"positive_iou": 0.5, "negative_iou": 0.25, "low_quality": "reassign", "min_positive_iou": 0.125},
        {"positive_iou": 0.5, "negative_iou": 0.5, "low_quality": "none", "min_positive_iou": None},
        {**RPN, "low_quality": "keep", "min_positive_iou": 0.0},
    ],
    ids=["rpn", "low", "roi", "keep"],
)
def test_match_equals_twin(block, options):
    @given(gt_boxes=boxes(TRUTHS), gt_valid=masks(TRUTHS), candidates=boxes(CANDIDATES))
    @settings(max_examples=60, deadline=None)
    def check(gt_boxes, gt_valid, candidates):
        got = match_jit(gt_boxes, gt_valid, candidates, block, **options)
        minimum = options["min_positive_iou"]
        minimum = options["negative_iou"] if minimum is None else minimum
        want = reference.match(gt_boxes, gt_valid, candidates, *list(options.values())[:3], minimum)
        for got_part, want_part in zip(got, want, strict=True):
            np.testing.assert_array_equal(got_part, want_part)

    check()


def test_match_without_ground_truth_is_all_negative():
    candidates = jnp.array([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 0.0, 0.0]])
    for truths in (0, 3):
        matches = match(jnp.zeros((truths, 4)), jnp.zeros(truths, bool), candidates, **RPN)
        np.testing.assert_array_equal(matches.kind, [0, 0])


def test_kept_candidates_stay_with_the_truth_they_overlap_most():
    """The first candidate is the best of the second truth, which it overlaps less than the first."""
    truths = jnp.array([[0.0, 0, 10, 10], [8, 0, 18, 10]])
    candidates = jnp.array([[1.0, 0, 11, 10], [0, 0, 10, 10]])
    for low_quality, index in (("keep", [0, 0]), ("reassign", [1, 0])):
        matches = match(truths, jnp.ones(2, bool), candidates, 0.9, 0.3, low_quality, 0.0)
        np.testing.assert_array_equal(matches.kind, [1, 1])
        np.testing.assert_array_equal(matches.index, index)


def test_a_truth_that_overlaps_nothing_forces_nothing():
    truths, candidates = jnp.array([[50.0, 50, 60, 60]]), jnp.array([[0.0, 0, 10, 10]])
    for low_quality in ("keep", "reassign"):
        assert int(match(truths, jnp.ones(1, bool), candidates, 0.7, 0.3, low_quality, 0.0).kind[0]) == 0


def test_unknown_low_quality_is_refused():
    with pytest.raises(ValueError, match="low_quality='all'"):
        match(jnp.zeros((1, 4)), jnp.ones(1, bool), jnp.zeros((1, 4)), 0.7, 0.3, "all")


def test_match_of_all_anchors_holds_a_few_blocks():
    """279,279 anchors with 300 ground truths would be 320 MiB of overlaps an image."""
    anchors = jnp.concatenate(make_anchors((832, 1344), (4, 8, 16, 32, 64)))
    lowered = jax.jit(partial(match, **RPN)).lower(jnp.zeros((300, 4)), jnp.zeros(300, bool), anchors)
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 32 * 2**20


def test_match_equals_mmdetection(shared):
    golden = np.load(shared / "golden" / "mmdet_maskrcnn_r50.npz")
    truths = np.pad(golden["train/gt_boxes"], ((0, 2), (0, 0)))
    anchors = np.concatenate(make_anchors(golden["image"].shape[:2], (4, 8, 16, 32, 64)))
    kind = np.asarray(match(truths, np.arange(8) < 6, anchors, **RPN).kind)
    np.testing.assert_array_equal(np.flatnonzero(kind == 1), golden["train/rpn_pos_index"])
    assert [(kind == value).sum() for value in (1, 0, -1)] == golden["train/rpn_num_pos_neg_ignored"].tolist()

    candidates = np.concatenate([golden["train/gt_boxes"], golden["train/proposals"]])
    matches = match(truths, np.arange(8) < 6, candidates, 0.5, 0.5)
    drawn = sample(jax.random.key(0), matches.kind, len(candidates), 1.0)
    positives = drawn.kind == 1
    np.testing.assert_array_equal(matches.index[drawn.index[positives]], golden["train/pos_gt_index"])
    np.testing.assert_array_equal(candidates[drawn.index], golden["train/sampled_boxes"])


sample_jit = jax.jit(sample, static_argnums=(2, 3))
sample_mask_jit = jax.jit(sample_mask, static_argnums=(2, 3))
KINDS = np.array([1, 0, -1, 0, 1, 1, 0, 0, -1, 0, 1, 0], np.int32)  # 4 positives, 6 negatives, 2 ignored


@pytest.mark.parametrize(
    ("num", "fraction", "positives", "negatives"),
    [
        (4, 0.5, 2, 2),
        (5, 0.5, 2, 3),
        (8, 0.75, 4, 4),
        (8, 0.25, 2, 6),
        (12, 0.25, 3, 6),
        (40, 1.0, 4, 6),
        (3, 1.0, 3, 0),
    ],
)
def test_sample_counts_order_and_kinds(num, fraction, positives, negatives):
    for seed in range(5):
        drawn = sample_jit(jax.random.key(seed), KINDS, num, fraction)
        index, kind = np.asarray(drawn.index), np.asarray(drawn.kind)
        assert kind.tolist() == [1] * positives + [0] * negatives + [-1] * (num - positives - negatives)
        filled = kind >= 0
        np.testing.assert_array_equal(KINDS[index[filled]], kind[filled])
        for part in (index[kind == 1], index[kind == 0]):
            assert (np.diff(part) > 0).all()
        assert (index[~filled] == 0).all()

        spread = np.full(len(KINDS), -1)
        spread[index[filled]] = kind[filled]
        np.testing.assert_array_equal(sample_mask_jit(jax.random.key(seed), KINDS, num, fraction), spread)


def test_sample_draws_every_candidate_equally_often():
    draw = jax.jit(jax.vmap(lambda key: sample_mask(key, KINDS, 5, 0.4)))
    drawn = np.asarray(draw(jax.random.split(jax.random.key(3), 6000)))
    shares = (drawn >= 0).mean(axis=0)
    np.testing.assert_allclose(shares[KINDS == 1], 2 / 4, atol=0.03)  # five standard deviations
    np.testing.assert_allclose(shares[KINDS == 0], 3 / 6, atol=0.03)
    assert (shares[KINDS == -1] == 0).all()


sample_images = jax.jit(jax.vmap(lambda key, kind: sample(key, kind, 16, 0.25)))


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_sample_does_not_depend_on_the_place_in_the_batch(seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    kinds = np.random.default_rng(seed).integers(-1, 2, (3, 50)).astype(np.int32)
    together = sample_images(keys, kinds)
    for number in range(3):
        alone = sample_jit(keys[number], kinds[number], 16, 0.25)
        np.testing.assert_array_equal(together.index[number], alone.index)
        np.testing.assert_array_equal(together.kind[number], alone.kind)
