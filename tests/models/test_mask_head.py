import jax
import jax.numpy as jnp
import numpy as np

from rog_jax.models.layers import ParameterDraws
from rog_jax.models.mask_head import MaskHead, mask_loss
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
    got, slope = jax.jit(jax.value_and_grad(mask_loss))(*arrays, jnp.float32(2.5))
    np.testing.assert_allclose(got, reference.mask_loss(logits, targets, positive, 2.5), rtol=1e-5)
    expected = (1 / (1 + np.exp(-logits)) - targets) / 28**2 / 2.5 * positive[:, None, None]
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-8)
