import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rog_jax.ops import roi_align as module
from rog_jax.ops import roi_windows
from rog_jax.ops.roi_align import roi_align, roi_levels
from tests.ops.strategies import boxes
from tests.reference import ops as reference

STRIDES = (4, 8, 16)
SHAPES = ((12, 17), (6, 9), (3, 5))
BATCH, ROIS, DEPTH, SIZE = 2, 3, 3, 4
METHODS = ("gather", "windows")
MOST = 3  # samples of the adaptive form: both boxes below and above the bound occur


def random_features(seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(BATCH, *shape, DEPTH)).astype(dtype) for shape in SHAPES]


@partial(jax.jit, static_argnums=(2, 3, 4))
def pool(features, rois, ratio, aligned, method):
    return roi_align(features, rois, STRIDES, SIZE, ratio, aligned, method, max_sampling_ratio=MOST)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("ratio", "aligned"), [(2, True), (2, False), (4, True), (0, True), (0, False)])
def test_equals_twin(method, ratio, aligned):
    @given(rois=boxes(BATCH * ROIS), scale=st.sampled_from([0.5, 1.0, 4.0, 2.0**14]), seed=st.integers(0, 10**6))
    @settings(max_examples=40, deadline=None)
    def check(rois, scale, seed):
        rois = (rois * np.float32(scale)).reshape(BATCH, ROIS, 4)
        features = random_features(seed)
        want = reference.roi_align([f.astype(float) for f in features], rois, STRIDES, SIZE, ratio, aligned, MOST)
        np.testing.assert_allclose(pool(features, rois, ratio, aligned, method), want, atol=1e-5)

    check()


def random_rois(count=40):
    rng = np.random.default_rng(5)
    centre, side = rng.uniform(0, 70, (BATCH, count, 2)), np.exp(rng.uniform(0, 6, (BATCH, count, 2)))
    rois = np.concatenate([centre - side / 2, centre + side / 2], axis=-1).astype(np.float32)
    rois[-1, :3] = [
        [0, -50, 136, 100],
        [20, -40, 150, 90],
        [-90, -90, 75, 60],
    ]  # level 1 from its first row to its last
    return rois


@pytest.mark.parametrize("ratio", [2, 0])
@pytest.mark.parametrize(("height", "width", "group"), [(32, 32, 16), (3, 8, 7), (5, 16, 7)])
def test_methods_agree_in_values_and_gradients(height, width, group, ratio, monkeypatch):
    """With a window for each RoI, with many for most, and with windows that the end of the canvas pushes back."""
    monkeypatch.setattr(roi_windows, "HEIGHT", height)
    monkeypatch.setattr(roi_windows, "WIDTH", width)
    monkeypatch.setattr(roi_windows, "GROUP", group)
    features, rois = random_features(0), random_rois()
    weights = np.random.default_rng(1).normal(size=(BATCH, 40, SIZE, SIZE, DEPTH)).astype(np.float32)
    assert set(np.unique(roi_levels(rois, 3))) == {0, 1, 2}

    def loss(features, rois, method):
        pooled = roi_align(features, rois, STRIDES, SIZE, ratio, method=method)
        return (pooled**2 * weights).sum(), pooled

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True), static_argnums=2)
    (gather, boxes), pooled = gradient(features, rois, "gather")
    (windows, more_boxes), same = gradient(features, rois, "windows")
    np.testing.assert_allclose(same, pooled, atol=1e-5)
    for got, want in zip(windows, gather, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
        assert np.abs(want).max() > 0
    for gradients in (boxes, more_boxes):
        assert not np.any(gradients)


@pytest.mark.parametrize("ratio", [2, 0])
@pytest.mark.parametrize("method", METHODS)
def test_a_box_that_is_not_finite_spoils_nothing(method, ratio):
    """Neither features of another nor the gradient."""
    features, rois = random_features(0), random_rois()
    bad = rois.copy()
    bad[0, 3], bad[1, 5], bad[1, 6] = np.nan, np.inf, [-np.inf, -np.inf, np.inf, np.inf]
    others = np.ones((BATCH, 40, 1, 1, 1), bool)
    others[0, 3] = others[1, 5] = others[1, 6] = False

    @jax.jit
    def pool_others(features, rois):
        def loss(features):
            pooled = jnp.where(others, roi_align(features, rois, STRIDES, SIZE, ratio, method=method), 0)
            return (pooled**2).sum(), pooled

        return jax.grad(loss, has_aux=True)(features)

    for got, want in zip(*(jax.tree.leaves(pool_others(features, some)) for some in (bad, rois)), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("method", METHODS)
def test_gradient_equals_difference_quotient_in_float64(method):
    with jax.enable_x64(True):
        features, rois = random_features(2, np.float64), random_rois(4).astype(np.float64)
        direction = random_features(3, np.float64)

        @jax.jit
        def loss(features):
            return jnp.sin(roi_align(features, rois, STRIDES, SIZE, method=method)).sum()

        gradient = jax.grad(loss)(features)
        slope = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
        ahead, behind = (loss([f + h * d for f, d in zip(features, direction, strict=True)]) for h in (1e-5, -1e-5))
        np.testing.assert_allclose(slope, (ahead - behind) / 2e-5, rtol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_features_accumulate_in_float32(method):
    """Forward and backward, up to the rounding of results (2^-8) and, by windows, of weights (2^-16)."""
    features, rois = [f.astype(jnp.bfloat16) for f in random_features(4)], random_rois()
    weights = np.random.default_rng(1).normal(size=(BATCH, 40, SIZE, SIZE, DEPTH)).astype(jnp.bfloat16)

    def results(features, method):
        def loss(features):
            pooled = roi_align(features, rois, STRIDES, SIZE, method=method)
            return (pooled * weights).sum(), pooled

        return jax.tree.leaves(jax.jit(jax.grad(loss, has_aux=True))(features))

    exact = results([f.astype(np.float32) for f in features], "gather")
    for got, want in zip(results(features, method), exact, strict=True):
        assert got.dtype == jnp.bfloat16
        if method == "gather":
            np.testing.assert_array_equal(got, want.astype(jnp.bfloat16))
        lost = np.abs(np.asarray(got, np.float32) - want)
        assert (lost <= 2.0**-8 * np.abs(want) + 2.0**-16 * np.abs(want).max()).all()


def test_levels_change_at_112_224_448():
    side = np.array([0, 1, 111.9, 112, 223.9, 224, 447.9, 448, 5000], np.float32)
    squares = np.stack([side * 0, side * 0, side, side], axis=-1)
    np.testing.assert_array_equal(roi_levels(squares, 4), [0, 0, 0, 1, 1, 2, 2, 3, 3])


def test_level_of_a_box_that_rounding_made_too_small():
    """One part in five million under 112 pixels: MMDetection's epsilon lifts it to the next level."""
    square = np.float32([0, 0, 112 - 2e-5, 112 - 2e-5])
    assert int(roi_levels(square, 4)) == 1
    assert int(roi_levels(square, 4, 1e-8)) == 0


def test_bad_arguments_are_refused():
    features, rois = random_features(0), random_rois()
    with pytest.raises(ValueError, match="3 levels of features but 2 strides"):
        roi_align(features, rois, STRIDES[:2], SIZE)
    with pytest.raises(ValueError, match=r"sampling_ratio=-1.*no samples"):
        roi_align(features, rois, STRIDES, SIZE, -1)
    with pytest.raises(ValueError, match="unknown method 'scatter'; choose one of gather, windows or auto"):
        roi_align(features, rois, STRIDES, SIZE, method="scatter")


@pytest.mark.parametrize("method", METHODS)
def test_equals_mmdetection(shared, method):
    golden = np.load(shared / "golden" / "mmdet_maskrcnn_r50.npz")
    features = [golden[f"eval/fpn/{level}"][None] for level in range(4)]
    np.testing.assert_array_equal(roi_levels(golden["eval/proposals"], 4), golden["eval/proposal_levels"])
    options = {"sampling_ratio": 0, "max_sampling_ratio": 16, "method": method}
    align = jax.jit(partial(roi_align, strides=(4, 8, 16, 32), output_size=7, **options))
    got = align(features, golden["eval/proposals"][None, :16])[0]
    want = golden["eval/roi_features"]
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_most_objects_fit_into_one_window(shared, monkeypatch):
    """Of real photographs, 800 pixels at their shorter side and at most 1,333 at the longer: what docs/pods.md says."""
    data = json.loads((shared / "data" / "ccp" / "train.json").read_text())
    sides = {image["id"]: (image["width"], image["height"]) for image in data["images"]}
    scales = {number: min(800 / min(both), 1333 / max(both)) for number, both in sides.items()}
    x, y, w, h = np.float32([one["bbox"] for one in data["annotations"]]).T
    scale = np.float32([scales[one["image_id"]] for one in data["annotations"]])
    counts = []

    def count(features, *samples):
        counts.append(roi_windows._rois_of(features, *samples).windows.prod(-1))
        return jnp.zeros((1, len(x), 7, 7, 1))

    monkeypatch.setitem(module._METHODS, "count", count)
    features = [jnp.zeros((1, 1344 // stride, 1344 // stride, 1)) for stride in (4, 8, 16, 32)]
    roi_align(features, (np.stack([x, y, x + w, y + h], -1) * scale[:, None])[None], (4, 8, 16, 32), 7, method="count")
    assert np.mean(counts[0] > 1) == pytest.approx(0.2, abs=0.005)
    assert np.mean(counts[0]) == pytest.approx(1.2, abs=0.05)
