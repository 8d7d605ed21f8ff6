from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rog_jax.ops.conv import conv_general_dilated, convolve, kernel_gradient

CASES = [((7, 7), (2, 2), 3), ((3, 3), (1, 1), 1), ((3, 3), (2, 2), 1), ((1, 1), (1, 1), 0), ((1, 1), (2, 2), 0)]


@pytest.mark.parametrize(("size", "strides", "pad"), CASES)
@pytest.mark.parametrize("shape", [(8, 12), (7, 9)])
def test_values_and_gradients_are_those_of_xlas_convolution(size, strides, pad, shape):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, *shape, 3)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((*size, 3, 5)), jnp.float32)
    padding = ((pad, pad), (pad, pad))

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def loss(function, x, kernel):
        return jnp.sin(function(x, kernel)).sum()

    ours = lambda x, kernel: convolve(x, kernel, strides, padding)  # noqa: E731
    np.testing.assert_array_equal(ours(x, kernel), plain(x, kernel))
    got, want = (jax.jit(jax.grad(partial(loss, f), argnums=(0, 1)))(x, kernel) for f in (ours, plain))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_kernel_gradient_equals_a_loop():
    rng = np.random.default_rng(1)
    x, gradient = rng.standard_normal((2, 5, 6, 2)), rng.standard_normal((2, 3, 3, 4))
    want = np.zeros((3, 3, 2, 4))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for b, i, j, y, z in np.ndindex(2, 3, 3, 3, 3):
        want[y, z] += np.outer(padded[b, 2 * i + y, 2 * j + z], gradient[b, i, j])
    arrays = (jnp.asarray(array, jnp.float32) for array in (x, gradient))
    np.testing.assert_allclose(kernel_gradient(*arrays, (3, 3), (2, 2), ((1, 1), (1, 1))), want, rtol=1e-4, atol=1e-5)


def test_bfloat16_sums_in_float32():
    x = jnp.full((1, 64, 64, 1), 1.0, jnp.bfloat16)
    gradient = jnp.full((1, 64, 64, 1), 1 / 256, jnp.bfloat16)
    total = kernel_gradient(x, gradient, (1, 1), (1, 1), ((0, 0), (0, 0)))
    assert total.dtype == jnp.float32
    np.testing.assert_array_equal(total.reshape(()), 16.0)  # in bfloat16 the sum would stop at 1


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_lowers_for_every_platform(platform):
    def loss(x, kernel):
        return convolve(x, kernel, (1, 1), ((1, 1), (1, 1))).sum()

    arguments = jnp.zeros((1, 8, 8, 3)), jnp.zeros((3, 3, 3, 4))
    lowered = jax.jit(jax.grad(loss, argnums=1)).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    assert ("dot_general" in lowered) == (platform == "cpu")


def test_what_the_product_never_asks_for_is_refused():
    x, kernel = jnp.zeros((1, 8, 8, 2)), jnp.zeros((3, 3, 2, 2))
    for options in ({"rhs_dilation": (2, 2)}, {"lhs_dilation": (2, 2)}, {"feature_group_count": 2}):
        with pytest.raises(ValueError, match="dilated and grouped"):
            conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), **options)
