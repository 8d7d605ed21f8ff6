import jax.numpy as jnp
import numpy as np
import pytest

from rog_jax.models.fpn import FPN, STRIDES, upsample
from rog_jax.models.layers import ParameterDraws
from tests.reference import models as reference

CHANNELS = (2, 3, 4, 5)


def test_levels_equal_the_naive_pyramid():
    rng = np.random.default_rng(0)
    model = FPN(CHANNELS, 3, norm=None, dtype=jnp.float32, rngs=ParameterDraws(0))
    for layer in (*model.laterals, *model.outputs):
        layer.conv.bias[...] = rng.standard_normal(3).astype(np.float32)
    shape = 64, 96
    features = [
        rng.standard_normal((2, shape[0] // stride, shape[1] // stride, c)).astype(np.float32)
        for stride, c in zip(STRIDES, CHANNELS, strict=False)
    ]
    levels = model([jnp.asarray(x) for x in features])
    laterals, outputs = (
        [(layer.conv.kernel[...], layer.conv.bias[...]) for layer in layers]
        for layers in (model.laterals, model.outputs)
    )
    expected = reference.fpn(features, laterals, outputs)
    assert [x.shape[1:3] for x in levels] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    for got, want in zip(levels, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(levels[4], levels[3][:, ::2, ::2])


@pytest.mark.parametrize("extra_level", ["on_input", "on_output"])
def test_extra_level_can_be_a_convolution(extra_level):
    rng = np.random.default_rng(0)
    model = FPN(CHANNELS, 3, extra_level=extra_level, norm=None, dtype=jnp.float32, rngs=ParameterDraws(0))
    sides = (10, 14), (5, 7), (3, 4), (2, 2)  # of an image that is no multiple of 32 pixels
    features = [rng.standard_normal((1, *side, c)).astype(np.float32) for side, c in zip(sides, CHANNELS, strict=True)]
    levels = model([jnp.asarray(x) for x in features])
    assert [x.shape[1:3] for x in levels] == [*sides, (1, 1)]
    source = features[3] if extra_level == "on_input" else np.asarray(levels[3])
    expected = reference.conv2d(source, model.extra.conv.kernel[...], model.extra.conv.bias[...], 2)
    np.testing.assert_allclose(levels[4], expected, rtol=1e-5, atol=1e-5)


def test_unknown_extra_level_is_refused():
    with pytest.raises(ValueError, match="fpn_extra_level='p6'"):
        FPN(CHANNELS, 3, extra_level="p6", norm=None, dtype=jnp.float32, rngs=ParameterDraws(0))


def test_upsampling_repeats_each_pixel():
    x = np.random.default_rng(0).standard_normal((2, 2, 3, 4)).astype(np.float32)
    np.testing.assert_array_equal(upsample(jnp.asarray(x)), x.repeat(2, axis=1).repeat(2, axis=2))
