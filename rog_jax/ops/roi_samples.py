"""Where RoIAlign samples the features: along each axis, since bilinear weights separate into rows and columns."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int32

from rog_jax.ops.boxes import Array


class Axis(NamedTuple):
    """Samples of each RoI along one axis, in cells of its level."""

    position: Float[Array, "B R S n"]
    """Inside the level."""
    weight: Float[Array, "B R S n"]
    """In the mean; 0 for a sample that lay more than a cell outside, or is none."""
    size: Int32[Array, "B R"]
    """Cells of the level."""
    sparse: Bool[Array, "B R"] | None
    """True where samples lie more than a cell apart and stand on cells; None for a fixed number."""


def sample_axis(
    start: Float[Array, "B R"],
    length: Float[Array, "B R"],
    size: Int32[Array, "B R"],
    output_size: int,
    samples: int,
    adaptive: bool = False,
) -> Axis:
    """Samples of boxes that start at `start` and are `length` long, in cells of their level, which has `size` of them.

    Args:
        start: first edge of each box.
        length: from its first edge to its last.
        size: cells of the level.
        output_size: cells of the result, S.
        samples: n of each cell of the result.
        adaptive: takes as many samples as a cell of the result has or begins feature cells instead, n at most. Where
            they are more than a cell apart, each stands on a feature cell: it reads one in place of two.
    """
    cell = length / output_size
    count = jnp.clip(jnp.ceil(cell), 0, samples) if adaptive else jnp.full_like(cell, samples)
    number = jnp.arange(samples, dtype=start.dtype)
    points = (number + 0.5) / jnp.maximum(count, 1)[..., None, None]  # [B, R, 1, n]
    cells = jnp.arange(output_size, dtype=start.dtype)[:, None]
    position = start[..., None, None] + (cells + points) * cell[..., None, None]  # [B, R, S, n]
    sparse = cell > samples if adaptive else None
    if adaptive:
        position = jnp.where(sparse[..., None, None], jnp.round(position), position)
    limit = size[..., None, None]
    counted = (position >= -1) & (position <= limit) & (number < count[..., None, None])
    # What does not count is no NaN either, which times 0 would spoil the features' gradient.
    weight = jnp.where(counted, 1 / jnp.maximum(count, 1)[..., None, None], 0)
    position = jnp.where(counted, jnp.clip(position, 0, limit - 1), 0)
    return Axis(position, weight.astype(start.dtype), size, sparse)


def bilinear_weights(
    position: Float[Array, "*batch S n"], weight: Float[Array, "*batch S n"], cells: Float[Array, "*batch K"]
) -> Float[jax.Array, "*batch S K"]:
    """Weights of cells K in each output cell along an axis: a sample gives one minus its distance.

    Sample by sample, since an array with all of them would be n times as large.
    """

    def of_sample(number):
        distance = jnp.abs(position[..., number, None] - cells[..., None, :])
        return jnp.maximum(1 - distance, 0) * weight[..., number, None]

    return sum(map(of_sample, range(position.shape[-1])))
