"""Feature pyramid network (Lin et al., CVPR 2017) with the RPN's extra level."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from rog_jax.models.layers import ConvNorm, ParameterDraws, xavier_uniform

STRIDES = (4, 8, 16, 32, 64)


class FPN(nnx.Module):
    """Five levels of equal channels at strides 4 to 64.

    Args:
        channels_in: channels of the backbone's four stages.
        channels: channels of each level.
        extra_level: the fifth level: `max_pool`, every second pixel of the fourth (by a maximum over one pixel), or a
            3x3 convolution with stride 2 of the backbone's last stage (`on_input`) or of the fourth (`on_output`).
        norm: norm after each convolution, or None for plain convolutions with bias.

    Raises:
        ValueError: unknown extra level.
    """

    def __init__(
        self,
        channels_in: Sequence[int],
        channels: int,
        *,
        extra_level: str = "max_pool",
        norm: str | None,
        dtype: Any,
        rngs: ParameterDraws,
    ):
        sources = {"max_pool": None, "on_input": channels_in[-1], "on_output": channels}
        if extra_level not in sources:
            raise ValueError(
                f"config.model.fpn_extra_level={extra_level!r} is unknown; choose one of {sorted(sources)}"
            )
        kwargs = {"norm": norm, "init": xavier_uniform, "dtype": dtype, "rngs": rngs}
        self.laterals = nnx.List([ConvNorm(c, channels, 1, **kwargs) for c in channels_in])
        self.outputs = nnx.List([ConvNorm(channels, channels, 3, **kwargs) for _ in channels_in])
        self.extra_level = extra_level
        source = sources[extra_level]
        self.extra = None if source is None else ConvNorm(source, channels, 3, stride=2, **kwargs)

    @jax.named_scope("fpn")
    def __call__(self, features: Sequence[Float[Array, "B _h _w _d"]]) -> list[Float[Array, "B _H _W D"]]:
        merged = [lateral(x) for lateral, x in zip(self.laterals, features, strict=True)]
        for level in range(len(merged) - 1, 0, -1):
            _, height, width, _ = merged[level - 1].shape
            merged[level - 1] = merged[level - 1] + upsample(merged[level])[:, :height, :width]
        levels = [output(x) for output, x in zip(self.outputs, merged, strict=True)]
        if self.extra is None:
            return [*levels, levels[-1][:, ::2, ::2]]
        return [*levels, self.extra(features[-1] if self.extra_level == "on_input" else levels[-1])]


def upsample(x: Float[Array, "B H W D"]) -> Float[Array, "B 2*H 2*W D"]:
    """Twice the height and width, each pixel repeated (nearest neighbour)."""
    batch, height, width, channels = x.shape
    repeated = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return repeated.reshape(batch, 2 * height, 2 * width, channels)
