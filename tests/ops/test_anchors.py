import numpy as np

from rog_jax.ops.anchors import make_anchors

STRIDES = (4, 8, 16, 32, 64)


def test_anchors_by_hand():
    (anchors,) = make_anchors((17, 40), [16], scale=2.0, ratios=(0.25, 1.0))
    assert anchors.dtype == np.float32
    assert anchors.shape == (2 * 3 * 2, 4)  # ceil(17 / 16) rows, ceil(40 / 16) columns
    np.testing.assert_array_equal(anchors[0], [-32, -8, 32, 8])  # side 32; height / width = 1 / 4
    np.testing.assert_array_equal(anchors[1], [-16, -16, 16, 16])
    np.testing.assert_array_equal(anchors[2], [-16, -8, 48, 8])  # the next column
    np.testing.assert_array_equal(anchors[6], [-32, 8, 32, 24])  # the next row


def test_anchors_equal_mmdetection(shared):
    golden = np.load(shared / "golden" / "mmdet_maskrcnn_r50.npz")
    for level, anchors in enumerate(make_anchors(golden["image"].shape[:2], STRIDES)):
        np.testing.assert_allclose(anchors[:3], golden[f"eval/base_anchors/{level}"], rtol=1e-6)
        assert len(anchors) == golden[f"eval/rpn_logits/{level}"].size
