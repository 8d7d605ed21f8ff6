"""Convolution whose kernel gradient is a few matrix products on a CPU.

XLA's own kernel gradient is a convolution with a window as large as the image, which its CPU backend runs at a tenth of
the speed of a matrix product or less (docs/performance.md); GPUs and TPUs have good ones.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
Padding = tuple[tuple[int, int], tuple[int, int]]


def conv_general_dilated(
    lhs: Float[Array, "B H W D"],
    rhs: Float[Array, "kh kw D E"],
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    **options: Any,
) -> Float[Array, "B h w E"]:
    """`jax.lax.conv_general_dilated` for `nnx.Conv`: images [B, H, W, D], kernels [h, w, D, E], nothing dilated.

    Raises:
        ValueError: dilated or grouped convolution.
    """
    dilations = (*(lhs_dilation or (1, 1)), *(rhs_dilation or (1, 1)))
    if set(dilations) != {1} or feature_group_count != 1:
        raise ValueError("dilated and grouped convolutions are not supported: use jax.lax.conv_general_dilated")
    strides = tuple(int(stride) for stride in window_strides)
    pads = tuple((int(before), int(after)) for before, after in padding)
    return convolve(lhs, rhs, strides, pads)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(
    x: Float[Array, "B H W D"], kernel: Float[Array, "kh kw D E"], strides: tuple[int, int], padding: Padding
) -> Float[Array, "B h w E"]:
    """The convolution, with strides (vertical, horizontal) and padding ((top, bottom), (left, right)) in pixels."""
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=DIMENSIONS)


def _forward(x, kernel, strides, padding):
    return convolve(x, kernel, strides, padding), (x, kernel)


def _backward(strides, padding, inputs, gradient):
    x, kernel = inputs

    def convolution(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=DIMENSIONS)

    def by_convolution(x, gradient):
        return jax.linear_transpose(lambda kernel: convolution(x, kernel), kernel)(gradient)[0]

    def by_products(x, gradient):
        return kernel_gradient(x, gradient, kernel.shape[:2], strides, padding).astype(kernel.dtype)

    (to_x,) = jax.linear_transpose(lambda x: convolution(x, kernel), x)(gradient)
    return to_x, jax.lax.platform_dependent(x, gradient, cpu=by_products, default=by_convolution)


convolve.defvjp(_forward, _backward)


def kernel_gradient(
    x: Float[Array, "B H W D"],
    gradient: Float[Array, "B h w E"],
    size: tuple[int, int],
    strides: tuple[int, int],
    padding: Padding,
) -> Float[Array, "kh kw D E"]:
    """Gradient of a convolution's kernel: for each of its cells, the pixels that it met times the output's gradient."""
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = gradient.shape[1:3]
    outputs = gradient.reshape(-1, gradient.shape[-1]).T  # [E, N]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    cells = []
    for top in range(size[0]):
        for left in range(size[1]):
            bottom, right = top + strides[0] * (rows - 1) + 1, left + strides[1] * (columns - 1) + 1
            met = padded[:, top : bottom : strides[0], left : right : strides[1]].reshape(-1, x.shape[-1])  # [N, D]
            cells.append(jnp.dot(outputs, met, preferred_element_type=wide).T)
    return jnp.stack(cells).reshape(*size, x.shape[-1], -1)
