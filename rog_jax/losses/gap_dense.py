"""Ranks by comparing every negative with every positive: no table is searched and no memory is addressed by data.

That makes it the yardstick of the interval method, and the better one where arithmetic is cheap and look-ups are dear.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt

from rog_jax.losses.blocks import scan_blocks, with_block_of_platform
from rog_jax.losses.exact_sums import Limbs, add_words, sum_limbs_over_devices, to_float, word_type, zero_limbs
from rog_jax.losses.gap_positives import Positives, is_negative
from rog_jax.losses.step import smooth_step

BLOCK_PAIRS = {"cpu": 1 << 21, "default": 1 << 31}
"""Pairs of an entry and a positive compared at once, by platform.

XLA on a CPU holds the table of the pairs in memory: this one fits into the cache. On an accelerator only the sums
below are held, 1/128 of the pairs, and blocks are large in order to be few.
"""

WORD_ENTRIES = 128
"""Entries whose steps, with FRACTION_BITS behind the point, a word can sum."""

FRACTION_BITS = {"float32": 24, "float64": 56}
"""Digits of a step behind the point: those of the float."""


def rank_densely(
    logits: Float[Array, "N C"], labels: Int[Array, " N"], positives: Positives, delta: float | int
) -> tuple[Float[Array, " P"], Callable[[Float[Array, " P"]], Float[Array, "N C"]]]:
    """Pairwise ranking of the positives among the negatives; see `rank_by_intervals` for arguments and results."""
    pairs = logits.size * len(positives.scores)

    def by_platform(function: Callable, *arrays: Array) -> Limbs | Array:
        return with_block_of_platform(partial(function, delta=delta), *arrays, blocks=BLOCK_PAIRS, entries=pairs)

    lowered = jnp.where(is_negative(labels, logits.shape[1]), logits, -jnp.inf)  # no step of these is above 0
    above = by_platform(_count, lowered.ravel(), positives.scores)
    above = sum_limbs_over_devices(above, positives.axis_name)
    above = to_float(above, FRACTION_BITS[logits.dtype.name], logits.dtype)[positives.own]

    def spread(weights: Float[Array, " P"]) -> Float[Array, "N C"]:
        if positives.axis_name is not None:
            weights = jax.lax.all_gather(weights, positives.axis_name, tiled=True)
        return by_platform(_collect, logits.ravel(), positives.scores, weights).reshape(logits.shape)

    return above, spread


def _count(entries: Float[Array, " M"], scores: Float[Array, " U"], *, delta: float | int, block: int) -> Limbs:
    """Sum of the entries' steps over each score."""

    def count(above: Limbs, entries: Array) -> tuple[Limbs, None]:
        groups = jnp.pad(entries, (0, -len(entries) % WORD_ENTRIES), constant_values=-jnp.inf).reshape(WORD_ENTRIES, -1)
        step = _to_words(smooth_step(groups - scores[:, None, None], delta))  # [U, 128, T / 128]
        return add_words(above, jnp.sum(step, axis=1, dtype=step.dtype).T, 0), None

    bits = len(entries).bit_length() + FRACTION_BITS[entries.dtype.name]
    zeros = zero_limbs(scores.shape, word_type(entries.dtype), bits)
    return scan_blocks(count, zeros, (entries,), (-jnp.inf,), len(scores), block)[0]


def _collect(
    entries: Float[Array, " M"],
    scores: Float[Array, " U"],
    weights: Float[Array, " U"],
    *,
    delta: float | int,
    block: int,
) -> Float[Array, " M"]:
    """Sum over the scores of weight times step, for each entry."""

    def collect(carry: None, entries: Array) -> tuple[None, Array]:
        step = smooth_step(entries[:, None] - scores, delta)  # [T, U]
        return carry, jnp.dot(step, weights, precision=jax.lax.Precision.HIGHEST)

    return scan_blocks(collect, None, (entries,), (0,), len(scores), block)[1]


def _to_words(step: Float[Array, "..."]) -> UInt[Array, "..."]:
    """Steps of 0 to 1 in units of 2^-FRACTION_BITS."""
    words = word_type(step.dtype)
    scaled = step * 2.0 ** FRACTION_BITS[step.dtype.name]
    return jnp.round(scaled).astype(jnp.int64 if words == jnp.uint64 else jnp.int32).astype(words)
