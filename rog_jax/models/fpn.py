"""Feature pyramid network (Lin et al., CVPR 2017) with the RPN's extra level."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from rog_jax.models.layers import ConvNorm, ParameterDraws, xavier_uniform

STRIDES = (4, 8, 16, 32, 64)


class FPN(nnx.Module):
    """Five levels of equal channels at strides 4 to 64; the fifth is every second pixel of the fourth.

    Args:
        channels_in: channels of the backbone's four stages.
        channels: channels of each level.
        norm: norm after each convolution, or None for plain convolutions with bias.
    """

    def __init__(
        self, channels_in: Sequence[int], channels: int, *, norm: str | None, dtype: Any, rngs: ParameterDraws
    ):
        kwargs = {"norm": norm, "init": xavier_uniform, "dtype": dtype, "rngs": rngs}
        self.laterals = nnx.List([ConvNorm(c, channels, 1, **kwargs) for c in channels_in])
        self.outputs = nnx.List([ConvNorm(channels, channels, 3, **kwargs) for _ in channels_in])

    def __call__(self, features: Sequence[Float[Array, "B _h _w _d"]]) -> list[Float[Array, "B _H _W D"]]:
        merged = [lateral(x) for lateral, x in zip(self.laterals, features, strict=True)]
        for level in range(len(merged) - 1, 0, -1):
            merged[level - 1] = merged[level - 1] + upsample(merged[level])
        levels = [output(x) for output, x in zip(self.outputs, merged, strict=True)]
        return [*levels, levels[-1][:, ::2, ::2]]


def upsample(x: Float[Array, "B H W D"]) -> Float[Array, "B 2*H 2*W D"]:
    """Twice the height and width, each pixel repeated (nearest neighbour)."""
    batch, height, width, channels = x.shape
    repeated = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return repeated.reshape(batch, 2 * height, 2 * width, channels)
