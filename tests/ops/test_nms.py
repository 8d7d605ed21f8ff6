from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rog_jax.ops.nms import class_nms, nms
from tests.ops.strategies import boxes, masks
from tests.reference import ops as reference

COUNT = 21


@partial(jax.jit, static_argnames=("threshold", "tile", "max_keep"))
def class_nms_jit(boxes, labels, valid, threshold, tile, max_keep=None):
    return class_nms(boxes, labels, valid, threshold, tile=tile, max_keep=max_keep)


@given(
    boxes=boxes(COUNT),
    valid=masks(COUNT),
    labels=st.integers(1, 3),
    threshold=st.sampled_from([0.0, 0.5, 0.7]),
    tile=st.sampled_from([1, 4, 256]),
    scale=st.sampled_from([1.0, 2.0**-8, 2.0**20]),
)
@settings(max_examples=300, deadline=None)
def test_equals_greedy_twin(boxes, valid, labels, threshold, tile, scale):
    boxes = boxes * np.float32(scale)
    labels = np.arange(COUNT, dtype=np.int32) % labels
    got = class_nms_jit(boxes, labels, valid, threshold, tile)
    np.testing.assert_array_equal(got, reference.nms(boxes, labels, valid, threshold))


@pytest.mark.parametrize("max_keep", [1, 5, 40, 1000])
def test_max_keep_gives_the_first_of_greedy(max_keep):
    rng = np.random.default_rng(1)
    corner = rng.integers(0, 200, (300, 2))
    crowd = np.concatenate([corner, corner + rng.integers(20, 90, (300, 2))], axis=1).astype(np.float32)
    labels, valid = rng.integers(0, 2, 300).astype(np.int32), rng.random(300) < 0.9
    want = np.flatnonzero(reference.nms(crowd, labels, valid, 0.5))
    got = np.flatnonzero(class_nms_jit(crowd, labels, valid, 0.5, tile=32, max_keep=max_keep))
    np.testing.assert_array_equal(got, want[:max_keep])


def test_long_chain_of_suppressions():
    """Each box overlaps its neighbours only, so every second one stays: the worst case of the fixed point."""
    start = np.arange(64, dtype=np.float32)
    chain = np.stack([start * 4, start * 0, start * 4 + 8, start * 0 + 8], axis=1)
    keep = nms(chain, np.ones(64, bool), 0.3, tile=64)
    np.testing.assert_array_equal(keep, np.arange(64) % 2 == 0)


def test_vmap_over_images_and_no_boxes():
    rng = np.random.default_rng(2)
    corner = rng.integers(0, 60, (3, COUNT, 2))
    images = np.concatenate([corner, corner + 30], axis=2).astype(np.float32)
    valid = np.arange(COUNT) < np.array([[0], [5], [COUNT]])
    got = jax.vmap(lambda b, v: nms(b, v, 0.5, tile=4))(images, valid)
    for one, boxes_of_one, valid_of_one in zip(got, images, valid, strict=True):
        want = reference.nms(boxes_of_one, np.zeros(COUNT), valid_of_one, 0.5)
        np.testing.assert_array_equal(one, want)
    assert nms(jnp.zeros((0, 4)), jnp.zeros(0, bool), 0.5).shape == (0,)
