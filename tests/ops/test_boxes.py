import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rog_jax.ops.boxes import area, clip, decode, encode, paired_giou, paired_iou, pairwise_iou
from tests.ops.strategies import boxes
from tests.reference import ops as reference

STDS = (0.1, 0.1, 0.2, 0.2)
paired_jit = jax.jit(lambda a, b: (paired_iou(a, b), paired_giou(a, b)))
giou_slope = jax.jit(jax.grad(lambda a, b: paired_giou(a, b).sum()))
iou_jit, clip_jit, encode_jit, decode_jit = (
    jax.jit(pairwise_iou),
    jax.jit(clip),
    jax.jit(encode, static_argnums=2),
    jax.jit(decode, static_argnums=2, static_argnames="clamp"),
)


@given(a=boxes(6), b=boxes(9), scale=st.sampled_from([1.0, 1e-2, 1e6]))
@settings(max_examples=200, deadline=None)
def test_iou_equals_twin(a, b, scale):
    a, b = a * np.float32(scale), b * np.float32(scale)
    got = np.asarray(iou_jit(a, b))
    np.testing.assert_allclose(got, reference.pairwise_iou(a.astype(float), b.astype(float)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(area(a), [reference.area(box) for box in a.astype(float)], rtol=1e-5)


@given(a=boxes(9), b=boxes(9), scale=st.sampled_from([1.0, 1e-2, 1e6]))
@settings(max_examples=200, deadline=None)
def test_iou_and_giou_of_pairs_equal_twins(a, b, scale):
    a, b = a * np.float32(scale), b * np.float32(scale)
    pairs = list(zip(a.astype(float), b.astype(float), strict=True))
    np.testing.assert_allclose(paired_jit(a, b)[0], [reference.iou(*pair) for pair in pairs], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(paired_jit(a, b)[1], [reference.giou(*pair) for pair in pairs], rtol=1e-5, atol=1e-5)


def test_giou_of_apart_and_equal_boxes():
    box = jnp.array([[0.0, 0.0, 1.0, 1.0]] * 3)
    other = jnp.array([[2.0, 0.0, 3.0, 1.0], [0.0, 0.0, 1.0, 1.0], [999.0, 999.0, 1000.0, 1000.0]])
    np.testing.assert_allclose(paired_giou(box, other), [-1 / 3, 1, -1 + 2e-6], rtol=1e-6)


@given(a=boxes(9), b=boxes(9))
@settings(max_examples=100, deadline=None)
def test_gradient_of_giou_is_finite(a, b):
    assert np.all(np.isfinite(giou_slope(a, b)))


def test_iou_of_touching_boxes_is_zero_and_of_equal_ones_is_one():
    box = jnp.array([[1.0, 2.0, 5.0, 7.0]])
    beside = jnp.array([[5.0, 2.0, 9.0, 7.0], [1.0, 7.0, 5.0, 8.0], [1.0, 2.0, 5.0, 7.0]])
    np.testing.assert_array_equal(pairwise_iou(box, beside), [[0, 0, 1]])


@given(a=boxes(9), b=boxes(9), scale=st.sampled_from([1.0, 2.0**14]))
@settings(max_examples=200, deadline=None)
def test_encode_equals_twin(a, b, scale):
    a, b = a * np.float32(scale), b * np.float32(scale)
    want = [reference.encode(x, y, STDS) for x, y in zip(a.astype(float), b.astype(float), strict=True)]
    np.testing.assert_allclose(encode_jit(a, b, STDS), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("clamp", ["both", "above"])
def test_decode_equals_twin(clamp):
    @given(references=boxes(9), seed=st.integers(0, 1000), scale=st.sampled_from([1.0, 2.0**14]))
    @settings(max_examples=200, deadline=None)
    def check(references, seed, scale):
        references = references * np.float32(scale)
        deltas = np.random.default_rng(seed).normal(0, 15, (9, 4)).astype(np.float32)
        wide = references.astype(float)
        want = [reference.decode(x, y, STDS, clamp=clamp) for x, y in zip(deltas, wide, strict=True)]
        got = decode_jit(deltas, references, STDS, clamp=clamp)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3 * scale)

    check()


def test_decode_inverts_encode():
    rng = np.random.default_rng(0)
    corner, side = rng.uniform(0, 500, (2, 50, 2)), rng.uniform(5, 200, (2, 50, 2))
    a, b = np.concatenate([corner, corner + side], axis=-1).astype(np.float32)
    np.testing.assert_allclose(decode(encode(a, b, STDS), b, STDS), a, atol=2e-3)


def test_decode_bounds_the_growth_of_a_side():
    box = jnp.array([0.0, 0.0, 16.0, 16.0])
    grown = decode(jnp.array([0.0, 0.0, 50.0, -50.0]), box)
    np.testing.assert_allclose(grown, [8 - 500, 8 - 0.128, 8 + 500, 8 + 0.128], rtol=1e-4)


def test_sides_may_shrink_by_any_factor_where_only_growth_is_bounded():
    shrunk = decode(jnp.array([0.0, 0.0, -8.0, 50.0]), jnp.array([0.0, 0.0, 16.0, 16.0]), clamp="above")
    np.testing.assert_allclose(shrunk[2] - shrunk[0], 16 * np.exp(-8), rtol=1e-3)
    np.testing.assert_allclose(shrunk[3] - shrunk[1], 1000, rtol=1e-4)
    with pytest.raises(ValueError, match="clamp='below'"):
        decode(jnp.zeros(4), jnp.zeros(4), clamp="below")


@pytest.mark.parametrize("value", [0.0, -3.0, 1e5])
def test_values_and_gradients_stay_finite_for_degenerate_boxes(value):
    degenerate = jnp.array([[value, value, value, value], [value, 0.0, 0.0, value]])

    def everything(a, b):
        deltas = encode(a, b, STDS)
        return deltas.sum() + decode(deltas, b, STDS).sum() + pairwise_iou(a, b).sum() + area(a).sum()

    value_and_gradient = jax.value_and_grad(everything, argnums=(0, 1))(degenerate, degenerate[::-1])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(value_and_gradient))


@given(a=boxes(9), scale=st.sampled_from([1.0, 2.0**14]), height=st.integers(1, 80), width=st.integers(1, 80))
@settings(max_examples=100, deadline=None)
def test_clip_equals_twin(a, scale, height, width):
    a = a * np.float32(scale)
    np.testing.assert_array_equal(clip_jit(a, np.float32([height, width])), np.clip(a, 0, [width, height] * 2))


def test_clip_cuts_to_height_and_width():
    box = jnp.array([[-5.0, -6.0, 900.0, 700.0], [10.0, 20.0, 30.0, 40.0]])
    np.testing.assert_array_equal(clip(box, jnp.array([480.0, 640.0])), [[0, 0, 640, 480], [10, 20, 30, 40]])


def test_encode_equals_mmdetection(shared):
    golden = np.load(shared / "golden" / "mmdet_maskrcnn_r50.npz")
    index = golden["train/pos_gt_index"]
    got = encode(golden["train/gt_boxes"][index], golden["train/sampled_boxes"][: len(index)], STDS)
    np.testing.assert_allclose(got, golden["train/pos_box_targets"], rtol=1e-4, atol=1e-5)
