import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rog_jax.models.layers import (
    ConvNorm,
    FrozenBatchNorm,
    GroupNorm,
    ParameterDraws,
    conv,
    kaiming_normal,
    norm_layer,
    normal,
    wide,
    xavier_uniform,
)
from tests.reference import models as reference


def draws() -> ParameterDraws:
    return ParameterDraws(0)


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("size", "stride"), [(7, 2), (3, 2), (3, 1), (1, 2), (1, 1)])
def test_convolution_pads_and_strides_as_the_naive_one(size, stride):
    layer = conv(3, 4, size, stride=stride, dtype=jnp.float32, rngs=draws())
    layer.bias[...] = noise(1, 4)
    x = noise(0, 2, 8, 12, 3)
    expected = reference.conv2d(x, layer.kernel[...], layer.bias[...], stride)
    assert expected.shape == (2, 8 // stride, 12 // stride, 4)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_frozen_batch_norm_uses_its_stored_statistics():
    layer = FrozenBatchNorm(6, dtype=jnp.float32)
    layer.scale[...], layer.bias[...], layer.mean[...] = noise(1, 6), noise(2, 6), noise(3, 6)
    layer.var[...] = np.float32([0, 1e-4, 0.5, 1, 4, 100])
    x = noise(0, 2, 3, 4, 6)
    parts = (np.asarray(part[...], np.float64) for part in (layer.scale, layer.bias, layer.mean, layer.var))
    scale, bias, mean, var = parts
    expected = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
    np.testing.assert_allclose(
        layer(jnp.asarray(x)), expected, rtol=1e-5, atol=2e-4
    )  # 1 / sqrt(1e-5) enlarges the rounding


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (2, 1), (8, 4), (64, 32), (128, 32)])
def test_group_norm_equals_the_formula_group_by_group(channels, groups):
    layer = GroupNorm(channels, dtype=jnp.float32)
    layer.scale[...], layer.bias[...] = noise(1, channels), noise(2, channels)
    assert layer.groups == groups
    x = 3 * noise(0, 2, 6, 4, channels) + 2
    expected = reference.group_norm(x, groups, layer.scale[...], layer.bias[...])
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-4)


def test_group_norm_in_bfloat16_takes_its_statistics_in_float32():
    layer = GroupNorm(8, dtype=jnp.bfloat16)
    x = jnp.asarray(noise(0, 2, 32, 32, 8) + 1, jnp.bfloat16)
    result = layer(x)
    assert result.dtype == jnp.bfloat16
    expected = reference.group_norm(wide(x), 4, 1.0, 0.0)
    error = np.abs(wide(result) - expected)
    # Multiplied and added with eight binary digits; sums of 2,048 values with as many would be off by far more.
    assert error.max() < 0.05
    assert np.abs((wide(result) - expected).mean()) < 0.005


def test_group_norm_of_a_constant_is_its_bias():
    layer = GroupNorm(4, dtype=jnp.float32)
    layer.bias[...] = noise(0, 4)
    result = layer(jnp.full((1, 4, 4, 4), 1000.0))
    np.testing.assert_allclose(result, np.broadcast_to(layer.bias[...], result.shape), atol=0.1)


def test_a_convolution_has_a_bias_only_where_no_norm_follows():
    for norm in (None, "group", "frozen_batch"):
        layer = ConvNorm(2, 4, 3, norm=norm, dtype=jnp.float32, rngs=draws())
        assert (layer.conv.bias is None) == (norm is not None)


def test_unknown_norm_is_named():
    with pytest.raises(ValueError, match=r"config\.model\.norm='batch' is unknown.*frozen_batch"):
        norm_layer("batch", 4, dtype=jnp.float32)


def test_initialisers_have_their_spread():
    generator, shape = np.random.default_rng(0), (3, 3, 40, 60)
    bound = np.sqrt(6 / (9 * (40 + 60)))
    for init, std in (
        (normal(0.01), 0.01),
        (kaiming_normal, np.sqrt(2 / (9 * 60))),
        (xavier_uniform, bound / np.sqrt(3)),
    ):
        values = init(generator, shape, np.float32)
        assert values.dtype == np.float32
        assert values.shape == shape
        np.testing.assert_allclose(values.std(), std, rtol=0.02)
        np.testing.assert_allclose(values.mean(), 0, atol=0.02 * std)
        if init is xavier_uniform:
            assert 0.99 * bound < np.abs(values).max() <= bound


def test_the_same_seed_draws_the_same_parameters():
    kernels = [
        np.asarray(conv(2, 3, 3, dtype=jnp.float32, rngs=ParameterDraws(seed)).kernel[...]) for seed in (5, 5, 6)
    ]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).min() > 0


def test_wide_keeps_float64():
    assert wide(jnp.zeros(1, jnp.bfloat16)).dtype == jnp.float32
    with jax.enable_x64(True):
        assert wide(jnp.zeros(1, jnp.float64)).dtype == jnp.float64
