"""Sums over pairs of positives, in tiles of bounded size and in time that follows the positives, not their slots."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from rog_jax.losses.blocks import MAX_PAIRS
from rog_jax.losses.gap_positives import Positives
from rog_jax.ops.manual_axes import vary_like

TILE_WIDTH = 512
"""Ranked positives of one tile; the other side gets as many as MAX_PAIRS allows."""


def sum_over_pairs(
    terms: Callable[[list[Array], list[Array]], tuple[Array, ...]],
    count: int,
    positives: Positives,
    own: tuple[Shaped[Array, " P"], ...],
    others: tuple[Shaped[Array, " U"], ...],
) -> tuple[Array, ...]:
    """For each of this device's positives i, sums of terms(i, j) over the positives j of all devices, i itself too.

    Args:
        terms: from arrays [S] of `own` and arrays [T, 1] of `others` to tables [T, S], one for each sum.
        count: how many those are.
        positives: their filled slots stand before the empty ones on each device, as `pack_positives` leaves them.
        own: what the terms need to know of i.
        others: what they need to know of j.

    Returns:
        Sums [P], of no meaning in empty slots.
    """
    slots = positives.rows.shape[0]
    devices = positives.labels.shape[0] // slots
    width = min(slots, TILE_WIDTH)  # S
    height = max(1, min(slots, MAX_PAIRS // (width * devices)))  # T / devices
    filled = most_of_a_device(positives)
    columns = tuple(_in_tiles(x, width) for x in own)  # [tiles, S]
    rows = [jax.vmap(lambda x: _in_tiles(x, height))(x.reshape(devices, slots)) for x in (positives.valid, *others)]

    def one_column(column: tuple[Array, ...]) -> tuple[Array, ...]:
        first, *mine = column

        def add(tile: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
            valid, *theirs = (x[:, tile].reshape(-1, 1) for x in rows)  # [T, 1]
            tables = terms(mine, theirs)
            return tuple(s + jnp.sum(jnp.where(valid, t, 0), axis=0) for s, t in zip(sums, tables, strict=True))

        tiles = jnp.where(first < filled, -(-filled // height), 0)
        nothing = vary_like((jnp.zeros(width, positives.scores.dtype),) * count, (column, rows))
        return jax.lax.fori_loop(0, tiles, add, nothing)

    sums = jax.lax.map(one_column, (jnp.arange(columns[0].shape[0]) * width, *columns))
    return tuple(s.reshape(-1)[:slots] for s in sums)


def most_of_a_device(positives: Positives) -> Array:
    """The number of positives of the device that has most of them; the same on all devices."""
    slots = positives.rows.shape[0]
    return jnp.max(jnp.sum(positives.valid.reshape(-1, slots), axis=1))


def _in_tiles(x: Shaped[Array, " P"], size: int) -> Shaped[Array, "tiles {size}"]:
    return jnp.pad(x, (0, -x.shape[0] % size)).reshape(-1, size)
