import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rog_jax.models.layers import ParameterDraws
from rog_jax.models.mask_head import MaskHead, mask_loss, mask_targets
from tests.reference import models as reference

CLASSES, CHANNELS = 6, 4


def make_head(dtype) -> MaskHead:
    head = MaskHead(3, CHANNELS, 2, CLASSES, norm=None, dtype=dtype, rngs=ParameterDraws(0))
    rng = np.random.default_rng(1)
    for layer in head.convs:
        layer.conv.bias[...] = rng.normal(0, 0.3, CHANNELS).astype(np.float32)
    head.deconv.bias[...] = rng.normal(0, 0.3, CHANNELS).astype(np.float32)
    head.bias[...] = rng.normal(0, 1, CLASSES).astype(np.float32)
    return head


def naive(head, pooled, labels):
    convs = [(layer.conv.kernel[...], layer.conv.bias[...]) for layer in head.convs]
    deconv = head.deconv.kernel[...], head.deconv.bias[...]
    return reference.mask_head(pooled, labels, convs, deconv, head.weight[...], head.bias[...])


def test_the_given_classs_mask_equals_its_channel_of_the_full_computation():
    rng = np.random.default_rng(0)
    pooled = rng.standard_normal((5, 3, 3, 3)).astype(np.float32)
    labels = np.int32([0, 5, 2, 2, 3])
    for dtype, tolerance in ((jnp.float32, 1e-5), (jnp.bfloat16, 0.05)):
        head = make_head(dtype)
        got = head(jnp.asarray(pooled, dtype), jnp.asarray(labels))
        expected = naive(head, pooled, labels)
        assert got.dtype == jnp.float32
        assert got.shape == (5, 6, 6)
        assert expected.std() > 0.3
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


def test_normed_predictor_is_the_scaled_cosine_at_each_pixel():
    head = make_head(jnp.float32)
    normed = MaskHead(3, CHANNELS, 2, CLASSES, predictor="normed", norm=None, dtype=jnp.float32, rngs=ParameterDraws(0))
    x = np.random.default_rng(0).standard_normal((3, 2, 2, CHANNELS)).astype(np.float32)
    labels = np.int32([0, 5, 2])
    normed.weight[...], normed.bias[...] = head.weight[...], head.bias[...]
    got = normed.predict(jnp.asarray(x), jnp.asarray(labels))
    weight, bias = np.asarray(head.weight[...], float), np.asarray(head.bias[...])
    for p, i, j in np.ndindex(3, 2, 2):
        own, pixel = weight[:, labels[p]], x[p, i, j].astype(float)
        cosine = (pixel / (np.linalg.norm(pixel) + 1e-6)) @ (own / (np.linalg.norm(own) + 1e-6))
        np.testing.assert_allclose(got[p, i, j], 20 * cosine + bias[labels[p]], rtol=1e-5, atol=1e-5)


def test_class_agnostic_head_gives_every_class_the_same_mask():
    head = MaskHead(3, CHANNELS, 1, 1, norm=None, dtype=jnp.float32, rngs=ParameterDraws(0))
    pooled = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 3, 3)), jnp.float32)
    np.testing.assert_array_equal(head(pooled, jnp.asarray([0, 0])), head(pooled, jnp.asarray([4, 2])))


@pytest.mark.parametrize("kind", ["binary", "soft"])
def test_targets_from_crops_and_from_whole_images_nearly_agree(kind):
    """An ellipse that fills its box, cropped and whole; the two forms differ where it crosses a cell."""
    height, width = 96, 128
    box = np.float32([16, 8, 96, 72])
    y, x = np.mgrid[:height, :width] + 0.5
    whole = ((x - 56) / 40) ** 2 + ((y - 40) / 32) ** 2 <= 1
    cells = np.mgrid[:112, :112] + 0.5
    crop = ((cells[1] - 56) / 56) ** 2 + ((cells[0] - 56) / 56) ** 2 <= 1
    rois = jnp.array([[16.0, 8, 96, 72], [30, 0, 110, 60], [100, 80, 120, 90]])
    targets = [
        mask_targets(jnp.asarray(np.packbits(mask, axis=-1)[None].repeat(3, 0)), jnp.asarray([box] * 3), rois, 14, kind)
        for mask in (crop, whole)
    ]
    difference = np.abs(targets[0] - targets[1])
    assert difference.mean() < 0.02
    assert not targets[1][2].any()
    assert 0.6 < targets[1][0].mean() < 0.9
    assert set(np.unique(targets[1])) == {0, 1} if kind == "binary" else len(np.unique(targets[1])) > 10


def test_loss_equals_naive():
    """RoIs are the box itself and the box moved by whole cells, so that each cell is covered in full or not at all."""
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 2, (4, 28, 28))
    packed = np.packbits(cells.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8), axis=-1)
    boxes = np.float32([[4, 8, 32, 36], [0, 0, 56, 28], [10, 10, 66, 66], [0, 0, 28, 28]])
    moved = np.float32([[0, 0], [6, -3], [0, 4], [0, 0]])  # cells
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2) / 28
    rois = boxes + np.tile(moved, 2) * sides
    targets = np.zeros((4, 28, 28))
    for p, (dx, dy) in enumerate(moved.astype(int)):
        for i, j in np.ndindex(28, 28):
            if 0 <= i + dy < 28 and 0 <= j + dx < 28:
                targets[p, i, j] = cells[p, i + dy, j + dx]
    logits = 3 * rng.standard_normal((4, 28, 28)).astype(np.float32)
    positive = np.array([True, True, True, False])
    arrays = [jnp.asarray(x) for x in (logits, packed, boxes, rois, positive)]

    def loss(logits, packed, boxes, rois, positive):
        return mask_loss(logits, mask_targets(packed, boxes, rois, 28), positive, jnp.float32(2.5))

    got, slope = jax.jit(jax.value_and_grad(loss))(*arrays)
    np.testing.assert_allclose(got, reference.mask_loss(logits, targets, positive, 2.5), rtol=1e-5)
    expected = (1 / (1 + np.exp(-logits)) - targets) / 28**2 / 2.5 * positive[:, None, None]
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-8)
