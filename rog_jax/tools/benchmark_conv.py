"""Convolutions of a ResNet-50 with FPN: forward and both gradients, the kernel's by XLA and as matrix products."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rog_jax.ops.conv import DIMENSIONS, kernel_gradient

SHAPES = {  # cells a side of the input, channels in and out, kernel, stride
    "3x3 256 to 256": (128, 256, 256, 3, 1),
    "1x1 64 to 256": (128, 64, 256, 1, 1),
    "1x1 stride 2 256 to 512": (128, 256, 512, 1, 2),
    "3x3 64 to 64": (128, 64, 64, 3, 1),
}


def benchmark_conv(repeats: int, images: int = 2) -> dict[str, dict[str, float]]:
    """Milliseconds of each, medians after a warm-up."""
    rng = np.random.default_rng(0)
    figures = {}
    for name, (side, inputs, outputs, size, stride) in SHAPES.items():
        x = jnp.asarray(rng.standard_normal((images, side, side, inputs)), jnp.float32)
        kernel = jnp.asarray(rng.standard_normal((size, size, inputs, outputs)), jnp.float32)
        forms, gradient = _forms(x, kernel, stride)
        arguments = {"forward": (x, kernel), "to_input": (kernel, gradient)}
        figures[name] = {
            form: 1e3 * _median(function, arguments.get(form, (x, gradient)), repeats)
            for form, function in forms.items()
        }
    return figures


def _forms(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[dict[str, Callable], jax.Array]:
    size = kernel.shape[:2]
    strides, padding = (stride, stride), ((size[0] // 2,) * 2, (size[1] // 2,) * 2)

    def conv(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=DIMENSIONS)

    forms = {
        "forward": conv,
        "to_input": lambda kernel, g: jax.linear_transpose(lambda x: conv(x, kernel), x)(g)[0],
        "to_kernel_xla": lambda x, g: jax.linear_transpose(lambda kernel: conv(x, kernel), kernel)(g)[0],
        "to_kernel_products": lambda x, g: kernel_gradient(x, g, size, strides, padding),
    }
    return {name: jax.jit(form) for name, form in forms.items()}, jax.jit(conv)(x, kernel)


def _median(function: Callable, arguments: tuple[Any, ...], repeats: int) -> float:
    jax.block_until_ready(function(*arguments))
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
