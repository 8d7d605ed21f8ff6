import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rog_jax.ops.anchors import make_anchors
from tests.reference import ops as reference

STRIDES = (4, 8, 16, 32, 64)


def test_anchors_by_hand():
    (anchors,) = make_anchors((17, 40), [16], scale=2.0, ratios=(0.25, 1.0))
    assert anchors.dtype == np.float32
    assert anchors.shape == (2 * 3 * 2, 4)  # ceil(17 / 16) rows, ceil(40 / 16) columns
    np.testing.assert_array_equal(anchors[0], [-32, -8, 32, 8])  # side 32; height / width = 1 / 4
    np.testing.assert_array_equal(anchors[1], [-16, -16, 16, 16])
    np.testing.assert_array_equal(anchors[2], [-16, -8, 48, 8])  # the next column
    np.testing.assert_array_equal(anchors[6], [-32, 8, 32, 24])  # the next row


@given(
    shape=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    scale=st.sampled_from([4.0, 8.0, 2.5]),
    ratios=st.sampled_from([(0.5, 1.0, 2.0), (1.0,), (0.3, 3.0)]),
    rounding=st.booleans(),
    offset=st.sampled_from([0.0, 0.5]),
    strides_from=st.sampled_from(["level", "image"]),
)
@settings(max_examples=200, deadline=None)
def test_anchors_equal_twin(shape, scale, ratios, rounding, offset, strides_from):
    options = {"rounding": rounding, "offset": offset, "strides_from": strides_from}
    got = make_anchors(shape, STRIDES, scale, ratios, **options)
    for level, want in zip(got, reference.anchors(shape, STRIDES, scale, ratios, **options), strict=True):
        np.testing.assert_allclose(level, want, rtol=1e-5, atol=1e-4)


def test_torchvisions_published_cell_anchors():
    """The comment in torchvision's and Detectron's sources lists them for a side of 32: whole pixels."""
    (anchors,) = make_anchors((4, 4), [4], scale=8.0, rounding=True)
    np.testing.assert_array_equal(anchors, [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]])


def test_strides_from_the_image_shrink_where_levels_are_rounded_up():
    shape = (352, 800)  # 5.5 and 12.5 cells of 64 pixels
    coarsest = make_anchors(shape, STRIDES, strides_from="image")[-1].reshape(6, 13, 3, 4)
    centres = (coarsest[..., :2] + coarsest[..., 2:]) / 2
    np.testing.assert_allclose(centres[1, 1, 1], [800 // 13, 352 // 6])
    finer = make_anchors(shape, STRIDES[:4], strides_from="image")
    for level, nominal in zip(finer, make_anchors(shape, STRIDES[:4]), strict=True):
        np.testing.assert_array_equal(level, nominal)
    with pytest.raises(ValueError, match="strides_from='grid'"):
        make_anchors(shape, STRIDES, strides_from="grid")


def test_anchors_equal_mmdetection(shared):
    golden = np.load(shared / "golden" / "mmdet_maskrcnn_r50.npz")
    for level, anchors in enumerate(make_anchors(golden["image"].shape[:2], STRIDES)):
        np.testing.assert_allclose(anchors[:3], golden[f"eval/base_anchors/{level}"], rtol=1e-6)
        assert len(anchors) == golden[f"eval/rpn_logits/{level}"].size
