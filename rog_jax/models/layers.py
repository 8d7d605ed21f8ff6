"""Convolutions, norms and initialisers as the published detectors define them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from rog_jax.ops.conv import conv_general_dilated


class ParameterDraws:
    """Stands in for `nnx.Rngs` while a model is built: initial parameters are drawn on the host, by NumPy.

    A ResNet-50 has some 200 arrays, whose draws JAX would be long in compiling; NumPy's need no compiling.

    Args:
        seed: the same seed gives the same parameters on every host and platform.
    """

    def __init__(self, seed: int):
        self._generator = np.random.default_rng(seed)

    def params(self) -> np.random.Generator:
        """What the initialisers below take as their key."""
        return self._generator


Initializer = Callable[[np.random.Generator, Sequence[int], Any], np.ndarray]


def normal(std: float) -> Initializer:
    """Gaussian initialiser with mean 0; not truncated, as PyTorch's."""
    return lambda draws, shape, dtype: std * draws.standard_normal(shape, dtype)


def uniform(bound: float) -> Initializer:
    """Uniform in -bound..bound; 1 / sqrt(inputs) is PyTorch's default for weights and biases of a linear layer."""
    return lambda draws, shape, dtype: (bound * (2 * draws.random(shape, dtype) - 1)).astype(dtype)


def constant(value: float) -> Initializer:
    """The same number everywhere."""
    return lambda draws, shape, dtype: np.full(shape, value, dtype)


def kaiming_normal(draws: np.random.Generator, shape: Sequence[int], dtype: Any) -> np.ndarray:
    """He et al. (ICCV 2015) by the fan-out, for layers that a ReLU follows; the last axis is the output's."""
    return np.sqrt(2 / (np.prod(shape) / shape[-2]), dtype=dtype) * draws.standard_normal(shape, dtype)


def xavier_uniform(draws: np.random.Generator, shape: Sequence[int], dtype: Any) -> np.ndarray:
    """Glorot & Bengio (AISTATS 2010), uniform."""
    receptive = np.prod(shape[:-2])
    return uniform(np.sqrt(6 / (receptive * (shape[-2] + shape[-1]))))(draws, shape, dtype)


def zeros(draws: np.random.Generator, shape: Sequence[int], dtype: Any) -> np.ndarray:
    """The start of every bias."""
    return np.zeros(shape, dtype)


def conv(
    channels_in: int,
    channels_out: int,
    size: int,
    *,
    stride: int = 1,
    bias: bool = True,
    init: Initializer = kaiming_normal,
    dtype: Any,
    rngs: ParameterDraws,
) -> nnx.Conv:
    """A square convolution padded by size // 2 on all four sides, which is PyTorch's arithmetic at stride 2 too."""
    pad = (size // 2, size // 2)
    return nnx.Conv(
        channels_in,
        channels_out,
        (size, size),
        strides=stride,
        padding=(pad, pad),
        use_bias=bias,
        kernel_init=init,
        bias_init=zeros,
        conv_general_dilated=conv_general_dilated,
        dtype=dtype,
        rngs=rngs,
    )


def linear(
    inputs: int,
    outputs: int,
    *,
    init: Initializer,
    bias_init: Initializer = zeros,
    dtype: Any,
    rngs: ParameterDraws,
) -> nnx.Linear:
    """A linear layer."""
    return nnx.Linear(inputs, outputs, kernel_init=init, bias_init=bias_init, dtype=dtype, rngs=rngs)


def wide(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The same values in float32, or in float64 where they are float64."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def own_set(labels: Int[Array, "*N"], sets: int) -> Int[Array, "*N"]:
    """Which of the head's sets of deltas or masks is that of each label: its own, or the only one."""
    return labels if sets > 1 else jnp.zeros_like(labels)


def unit(x: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """x / (|x| + 1e-6) along an axis, in float32: the normed predictors' scaling. A row of zeros stays, without NaN."""
    x = wide(x)
    square = jnp.square(x).sum(axis, keepdims=True)
    norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return x / (norm + 1e-6)


class NormedLinear(nnx.Linear):
    """Temperature times the cosine of input and weights, plus a bias (the paper's Seesaw recipes).

    As in the published code, in which the bias is not scaled. Computed in float32: cosines of neighbouring classes
    differ by less than bfloat16 can tell.

    Args:
        inputs: length of a row.
        outputs: number of columns.
        temperature: factor of the cosine.
    """

    def __init__(self, inputs: int, outputs: int, *, temperature: float, init: Initializer, rngs: ParameterDraws):
        super().__init__(inputs, outputs, kernel_init=init, bias_init=zeros, rngs=rngs)
        self.temperature = temperature

    def __call__(self, x: Float[Array, "*N inputs"]) -> Float[Array, "*N outputs"]:
        return (self.temperature * unit(x, -1)) @ unit(jnp.asarray(self.kernel[...]), 0) + self.bias[...]


class FrozenBatchNorm(nnx.Module):
    """Batch norm with stored statistics, as MMDetection's `norm_eval=True`.

    Whether scale and bias are trained is for the optimizer to say (`config.model.norm_trained`).
    """

    def __init__(self, channels: int, *, dtype: Any):
        self.scale = nnx.Param(np.ones(channels, np.float32))
        self.bias = nnx.Param(np.zeros(channels, np.float32))
        self.mean = nnx.BatchStat(np.zeros(channels, np.float32))
        self.var = nnx.BatchStat(np.ones(channels, np.float32))
        self.epsilon = 1e-5
        self.dtype = dtype

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        # Folded into one multiply and one add, in float32: bfloat16 has too few digits for 1 / sqrt(var).
        scale = self.scale[...] * jax.lax.rsqrt(self.var[...] + self.epsilon)
        bias = self.bias[...] - self.mean[...] * scale
        return x * scale.astype(self.dtype) + bias.astype(self.dtype)


class GroupNorm(nnx.Module):
    """Group norm (Wu & He, ECCV 2018) over the most groups, a power of 2 up to 32, that each have an even number of
    channels: the published 32 for 64, 128, ... channels.
    """

    def __init__(self, channels: int, *, dtype: Any):
        self.scale = nnx.Param(np.ones(channels, np.float32))
        self.bias = nnx.Param(np.zeros(channels, np.float32))
        self.groups = math.gcd(32, max(channels // 2, 1))
        self.epsilon = 1e-5
        self.dtype = dtype

    def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B H W D"]:
        # Sums run over pixels first and over a group's few channels last: reductions over two axes at once that are
        # not neighbours take far longer on a CPU.
        values = wide(x)
        mean = self._group_mean(values.mean((1, 2)))
        var = self._group_mean(jnp.square(values).mean((1, 2))) - jnp.square(mean)
        scale = self.scale[...] * jax.lax.rsqrt(jnp.maximum(var, 0) + self.epsilon)  # [B, D]
        bias = self.bias[...] - mean * scale
        return x * scale[:, None, None].astype(x.dtype) + bias[:, None, None].astype(x.dtype)

    def _group_mean(self, x: Float[Array, "B D"]) -> Float[Array, "B D"]:
        batch, channels = x.shape
        means = x.reshape(batch, self.groups, -1).mean(-1)
        return jnp.repeat(means, channels // self.groups, axis=1)


NORMS = {"frozen_batch": FrozenBatchNorm, "group": GroupNorm}


def norm_layer(name: str, channels: int, *, dtype: Any) -> nnx.Module:
    """The norm that `config.model.norm` names.

    Raises:
        ValueError: unknown name.
    """
    if name not in NORMS:
        raise ValueError(f"config.model.norm={name!r} is unknown; choose one of {sorted(NORMS)}")
    return NORMS[name](channels, dtype=dtype)


class ConvNorm(nnx.Module):
    """Convolution and norm; the convolution has a bias only where no norm follows."""

    def __init__(self, channels_in, channels_out, size, *, norm, stride=1, init=kaiming_normal, dtype, rngs):
        self.conv = conv(
            channels_in, channels_out, size, stride=stride, bias=norm is None, init=init, dtype=dtype, rngs=rngs
        )
        self.norm = None if norm is None else norm_layer(norm, channels_out, dtype=dtype)

    def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B h w d"]:
        x = self.conv(x)
        return x if self.norm is None else self.norm(x)
