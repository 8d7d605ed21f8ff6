"""Ranks by comparing every negative with every positive: slow, plain, and the yardstick of the interval method."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rog_jax.losses.blocks import scan_blocks
from rog_jax.losses.gap_positives import Positives, is_negative, sum_over_devices
from rog_jax.losses.step import smooth_step


def rank_densely(
    logits: Float[Array, "N C"], labels: Int[Array, " N"], positives: Positives, delta: float | int
) -> tuple[Float[Array, " P"], Callable[[Float[Array, " P"]], Float[Array, "N C"]]]:
    """Pairwise ranking of the positives among the negatives; see `rank_by_intervals` for arguments and results."""
    entries = (logits.ravel(), is_negative(labels, logits.shape[1]).ravel().astype(logits.dtype))  # [N C]
    width = positives.scores.shape[0]

    def count(total: Array, score: Array, counts: Array) -> tuple[Array, None]:
        step = smooth_step(score[:, None] - positives.scores, delta)  # [T, U]
        return total + jnp.sum(step * counts[:, None], axis=0), None

    above, _ = scan_blocks(count, jnp.zeros_like(positives.scores), entries, (0, 0), width)
    above = sum_over_devices(above, positives.axis_name)[positives.own]

    def spread(weights: Float[Array, " P"]) -> Float[Array, "N C"]:
        if positives.axis_name is not None:
            weights = jax.lax.all_gather(weights, positives.axis_name, tiled=True)

        def collect(carry: None, score: Array, counts: Array) -> tuple[None, Array]:
            step = smooth_step(score[:, None] - positives.scores, delta)  # [T, U]
            return carry, jnp.sum(step * weights, axis=1) * counts

        return scan_blocks(collect, None, entries, (0, 0), width)[1].reshape(logits.shape)

    return above, spread
