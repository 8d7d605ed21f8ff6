"""Ranks in time N C log P, exactly: the step H is piecewise linear with breakpoints p - delta and p + delta.

The negatives are the same set for every class, so one pass serves all positives: each negative finds its interval
between the sorted breakpoints, and of each interval only the number of its negatives and the sum of their offsets from
its left edge are kept. On an interval every H(s - p) is a straight line, hence

    F(p)  = sum_j H(s_j - p)     = sum_b  n_b H(left_b - p) + o_b [p rises on b]
    g(s)  = sum_p w_p H(s - p)   = V_b + S_b u,   V_b = sum_p w_p H(left_b - p),   S_b = sum_p w_p [p rises on b]

with u = (s - left_b) / (2 delta) and o_b = sum of u over the negatives of b. Devices exchange the positives, n, o, V
and S, never the scores.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer

from rog_jax.losses import interval_one_hot, interval_search, interval_tally
from rog_jax.losses.blocks import scan_blocks, with_block_of_platform
from rog_jax.losses.conventions import sum_over_devices
from rog_jax.losses.gap_positives import Positives, is_negative
from rog_jax.losses.interval_search import Search
from rog_jax.losses.interval_tally import Sums, to_floats, zero_sums

BLOCK_ENTRIES = {"cpu": 1 << 18, "default": 1 << 26}
"""Entries that find their intervals and are counted at once, by platform.

On a CPU a block with all that is made of it fits into the second and third level of the cache, and is large enough for
XLA to spread over the cores. Accelerators want few large kernels: one block holds any ordinary batch.
"""


class Forms(NamedTuple):
    """What is done with intervals, in the way that suits a platform.

    Attributes:
        make_search: of sorted edges, a function that finds the interval of each score.
        look_up: reads tables at intervals.
        add_entries: counts entries by interval.
    """

    make_search: Callable[[Float[Array, " K"]], Search]
    look_up: Callable[[tuple[Float[Array, " S"], ...], Int[Array, "..."]], tuple[Float[Array, "..."], ...]]
    add_entries: Callable[[Sums, Int[Array, " T"], Float[Array, " T"]], Sums]


LOOK_UPS = Forms(interval_search.make_search, interval_search.look_up_all, interval_tally.add_entries)
ONE_HOT = Forms(interval_one_hot.make_search, interval_one_hot.look_up, interval_one_hot.add_entries)


class Lines(NamedTuple):
    """What each positive's H does on each interval: the value at the left edge and whether it rises, for one block."""

    at_left: Float[Array, "T P"]
    rises: Bool[Array, "T P"]


def rank_by_intervals(
    logits: Float[Array, "N C"],
    labels: Int[Array, " N"],
    positives: Positives,
    delta: float | int,
    forms: Forms = LOOK_UPS,
) -> tuple[Float[Array, " P"], Callable[[Float[Array, " P"]], Float[Array, "N C"]]]:
    """Exact ranking of the positives among the negatives.

    Args:
        logits: scores of this device's entries.
        labels: classes of its rows; they tell which entries are negatives.
        positives: the positives of all devices.
        delta: half width of the step H, in logits.
        forms: they give the same to the last bit.

    Returns:
        above: [P] F_i = sum over the negatives of all devices of H(s_j - p_i), for this device's positives.
        spread: takes weights [P] of this device's positives, gives sum over all devices' positives of
            w_i H(s_j - p_i) at each of this device's negatives [N, C]; what it gives elsewhere has no meaning.
    """
    edges = _breakpoints(positives, delta)  # [K]
    left = jnp.concatenate([edges[:1], edges])  # [S], S = K + 1; left edges of the intervals, unused for the first
    own_scores = positives.scores[positives.own]  # [P]
    own_valid = positives.valid[positives.own]
    fill = partial(_fill_intervals, delta=delta, forms=forms)
    interval, sums = with_block_of_platform(
        fill, logits, labels, edges, left, blocks=BLOCK_ENTRIES, entries=logits.size
    )
    # Nothing is above a positive in interval 0, which took all that is no negative.
    count, offset_sum = (x.at[0].set(0) for x in to_floats(sums, logits.size, logits.dtype, positives.axis_name))  # [S]

    def add(total: Array, edge: Array, count: Array, offset_sum: Array) -> tuple[Array, None]:
        line = _lines(edge, own_scores, delta)
        terms = line.at_left * count[:, None] + jnp.where(line.rises, offset_sum[:, None], 0)  # [T, P]
        return total + jnp.sum(terms, axis=0), None

    table = (left, count, offset_sum)
    above, _ = scan_blocks(add, jnp.zeros_like(own_scores), table, (0, 0, 0), own_scores.shape[0])

    def spread(weights: Float[Array, " P"]) -> Float[Array, "N C"]:
        weights = jnp.where(own_valid, weights, 0)

        def collect(carry: None, edge: Array) -> tuple[None, tuple[Array, Array]]:
            line = _lines(edge, own_scores, delta)
            value = jnp.sum(line.at_left * weights, axis=1)
            return carry, (value, jnp.sum(jnp.where(line.rises, weights, 0), axis=1))

        _, sums = scan_blocks(collect, None, (left,), (0,), own_scores.shape[0])
        value, slope = sum_over_devices(jnp.stack(sums), positives.axis_name).at[:, 0].set(0)  # [2, S]
        value, slope, edge = forms.look_up((value, slope, left), interval.astype(jnp.int32))
        return value + slope * _offset(logits, edge, delta)

    return above, spread


def _fill_intervals(
    logits: Float[Array, "N C"],
    labels: Int[Array, " N"],
    edges: Float[Array, " K"],
    left: Float[Array, " S"],
    *,
    delta: float | int,
    forms: Forms,
    block: int,
) -> tuple[Integer[Array, "N C"], Sums]:
    """Interval of each entry; number of entries in each interval, and sum of their offsets.

    Interval b lies right of b edges. Entries that are no negatives are put into interval 0.
    """
    num_classes = logits.shape[1]
    search = forms.make_search(edges)

    def fill(sums: Sums, logits: Array, labels: Array) -> tuple[Sums, Array]:
        interval = search(logits, lambda: is_negative(labels, num_classes))  # [T, C]
        flat = interval.ravel()
        (edge,) = forms.look_up((left,), flat)
        added = forms.add_entries(sums, flat, _offset(logits.ravel(), edge, delta))
        return added, interval.astype(jnp.uint16 if len(left) <= 1 << 16 else jnp.int32)

    zeros = zero_sums(len(left), logits.size, logits.dtype)
    sums, interval = scan_blocks(fill, zeros, (logits, labels), (0, -1), num_classes, block)
    return interval, sums


def _breakpoints(positives: Positives, delta: float | int) -> Float[Array, " K"]:
    """Scores at which some positive's H bends, each once, ascending; the largest number fills what is left.

    Ties are usual where logits come from bfloat16; without them few edges share a cell of the search.
    """
    largest = jnp.finfo(positives.scores.dtype).max
    low = jnp.where(positives.valid, positives.scores - delta, largest)
    high = jnp.where(positives.valid, positives.scores + delta, largest)
    edges = jnp.sort(low if delta == 0 else jnp.concatenate([low, high]))
    is_first = jnp.concatenate([jnp.ones(1, bool), edges[1:] != edges[:-1]])
    return jnp.full_like(edges, largest).at[jnp.cumsum(is_first) - 1].set(edges)


def _lines(edge: Float[Array, " T"], scores: Float[Array, " P"], delta: float | int) -> Lines:
    """Lines of the positives on the intervals that begin at the edges.

    They start from the breakpoint score - delta as rounded, so that a positive's H is 0 to the last bit at its own.
    """
    if delta == 0:
        reached = edge[:, None] >= scores
        return Lines(reached.astype(edge.dtype), jnp.zeros_like(reached))
    low = scores - delta
    rises = (edge[:, None] >= low) & (edge[:, None] < scores + delta)
    at_left = jnp.clip((edge[:, None] - low) / (2 * delta), 0, 1)
    return Lines(jnp.where(edge[:, None] >= scores + delta, 1, at_left), rises)


def _offset(logits: Float[Array, "..."], edge: Float[Array, "..."], delta: float | int) -> Float[Array, "..."]:
    """Distance of each score from the left edge of its interval in units of 2 delta, at most 1.

    An interval on which some H rises is at most 2 delta wide; on the others the offset is multiplied by 0.
    """
    if delta == 0:
        return jnp.zeros_like(logits)
    return jnp.clip((logits - edge) / (2 * delta), 0, 1)
