from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rog_jax.ops.masks import crop_masks, roi_align_masks, unpack_masks
from tests.ops.strategies import boxes
from tests.reference import ops as reference

M = 112


def blobs(rng, count):
    """bool [count, M, M]: smooth random shapes."""
    y, x = np.mgrid[:M, :M] / M * 2 - 1
    phase, wave = rng.uniform(0, 6, (count, 1, 1)), rng.integers(2, 6, (count, 1, 1))
    return np.hypot(x, y) < 0.8 + 0.2 * np.sin(wave * np.arctan2(y, x) + phase)


def test_unpack_is_the_inverse_of_packbits():
    masks = np.random.default_rng(0).random((3, 2, M, M)) < 0.5
    np.testing.assert_array_equal(unpack_masks(np.packbits(masks, axis=-1)), masks)


def test_crop_equals_twin():
    rng = np.random.default_rng(1)
    masks = blobs(rng, 8)
    corner, side = rng.uniform(0, 100, (8, 2)), np.exp(rng.uniform(1.5, 5.5, (8, 2)))
    truths = np.concatenate([corner, corner + side], axis=1).astype(np.float32)
    rois = (truths + rng.uniform(-0.2, 0.2, (8, 4)) * np.tile(side, 2)).astype(np.float32)
    got = np.asarray(jax.jit(crop_masks)(np.packbits(masks, axis=-1), truths, rois))
    shares = np.array([reference.crop_mask(*one, 28) for one in zip(masks, truths, rois, strict=True)])
    clear = np.abs(shares - 0.5) > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(got[clear], shares[clear] > 0.5)
    assert 0.3 < got.mean() < 0.7


def test_soft_crop_is_the_share_of_the_cell():
    rng = np.random.default_rng(2)
    masks = blobs(rng, 4)
    truths = np.tile(np.float32([[10, 20, 122, 76]]), (4, 1))
    rois = (truths + rng.uniform(-9, 9, (4, 4))).astype(np.float32)
    got = crop_masks(np.packbits(masks, axis=-1), truths, rois, 14, soft=True)
    want = [reference.crop_mask(*one, 14) for one in zip(masks, truths, rois, strict=True)]
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert len(np.unique(got)) > 50


HEIGHT, WIDTH, SIZE = 24, 40, 5


@partial(jax.jit, static_argnames="soft")
def crop_jit(packed, truths, rois, soft):
    return crop_masks(packed, truths, rois, SIZE, soft=soft)


@given(truths=boxes(6), rois=boxes(6), scale=st.sampled_from([1.0, 2.0**12]), seed=st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_crops_of_any_boxes_equal_twin(truths, rois, scale, seed):
    truths, rois = truths * np.float32(scale), rois * np.float32(scale)
    masks = np.random.default_rng(seed).random((6, 8, 8)) < 0.5
    packed = np.packbits(masks, axis=-1)
    shares = np.array([reference.crop_mask(*one, SIZE) for one in zip(masks, truths, rois, strict=True)])
    # A cell's edge is as exact as float32 is at its distance from the mask's corner.
    distance = np.abs(rois - np.tile(truths[:, :2], 2)).max(axis=1) + np.abs(truths[:, 2:] - truths[:, :2]).max(axis=1)
    cell = np.maximum((rois[:, 2:] - rois[:, :2]).min(axis=1) / SIZE, 1)
    tolerance = np.maximum(1e-5, np.finfo(np.float32).eps * distance / cell)[:, None, None]
    assert (np.abs(crop_jit(packed, truths, rois, True) - shares) <= tolerance).all()
    clear = np.abs(shares - 0.5) > tolerance
    np.testing.assert_array_equal(crop_jit(packed, truths, rois, False)[clear], shares[clear] > 0.5)


def test_a_cell_of_a_pixel_at_the_edge_of_huge_squares():
    """Without width, at the right edge of a mask whose squares are 12,288 pixels wide: half of the pixel is inside."""
    truth, roi = np.float32([[0, 0, 98304, 98304]]), np.float32([[98304, 0, 98304, 98304]])
    packed = np.packbits(np.ones((1, 8, 8), bool), axis=-1)
    np.testing.assert_allclose(crop_jit(packed, truth, roi, True), 0.5, atol=1e-5)


@partial(jax.jit, static_argnames="aligned")
def align_masks(packed, rois, aligned):
    return roi_align_masks(packed, rois, SIZE, aligned=aligned)


@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_of_whole_masks_equals_twin(aligned):
    @given(rois=boxes(6, side=32), seed=st.integers(0, 10**6))
    @settings(max_examples=100, deadline=None)
    def check(rois, seed):
        masks = np.random.default_rng(seed).random((6, HEIGHT, WIDTH)) < 0.5
        want = [reference.roi_align_mask(mask, roi, SIZE, aligned) for mask, roi in zip(masks, rois, strict=True)]
        np.testing.assert_allclose(align_masks(np.packbits(masks, axis=-1), rois, aligned), want, atol=1e-5)

    check()


def test_roi_align_of_whole_masks_gives_mmdetections_targets(shared):
    golden = np.load(shared / "golden" / "mmdet_maskrcnn_r50.npz")
    index, count = golden["train/pos_gt_index"], len(golden["train/pos_gt_index"])
    shares = roi_align_masks(golden["train/gt_masks_packed"][index], golden["train/sampled_boxes"][:count], 28)
    want = np.unpackbits(golden["train/mask_targets_packed"], axis=-1)[..., :28]
    np.testing.assert_array_equal(np.asarray(shares) >= 0.5, want)


def test_crop_of_its_own_box_and_outside():
    full = np.packbits(np.ones((4, M, M), bool), axis=-1)
    truths = np.tile(np.array([[10, 20, 66, 76]], np.float32), (4, 1))
    rois = np.array([[10, 20, 66, 76], [10, 20, 122, 76], [300, 300, 356, 356], [10, 20, 10, 20]], np.float32)
    got = np.asarray(crop_masks(full, truths, rois))
    assert got.shape == (4, 28, 28)
    assert got[0].all()
    np.testing.assert_array_equal(got[1], np.tile(np.arange(28) < 14, (28, 1)))
    assert not got[2].any()
    assert np.isfinite(got[3]).all()


def test_padded_rows_are_empty():
    nothing = crop_masks(np.zeros((2, M, M // 8), np.uint8), np.zeros((2, 4), np.float32), np.zeros((2, 4), np.float32))
    assert not np.asarray(nothing).any()


def test_crops_nearly_equal_mmdetection(shared):
    """The 112 x 112 crop stands between: under 1 % of the target's bits differ, all on the outline."""
    golden = np.load(shared / "golden" / "mmdet_maskrcnn_r50.npz")
    truths, index = golden["train/gt_boxes"], golden["train/pos_gt_index"]
    full = np.unpackbits(golden["train/gt_masks_packed"], axis=-1)
    cropped = [_nearest(mask, box) for mask, box in zip(full, truths, strict=True)]
    packed = np.packbits(cropped, axis=-1)
    got = np.asarray(crop_masks(packed[index], truths[index], golden["train/sampled_boxes"][: len(index)]))
    want = np.unpackbits(golden["train/mask_targets_packed"], axis=-1)[..., :28]
    assert (got != want).mean() < 0.01


def _nearest(mask, box):
    centres = (np.arange(M) + 0.5) / M
    columns = np.floor(box[0] + centres * (box[2] - box[0])).astype(int)
    rows = np.floor(box[1] + centres * (box[3] - box[1])).astype(int)
    return mask[np.ix_(rows.clip(0, mask.shape[0] - 1), columns.clip(0, mask.shape[1] - 1))]
