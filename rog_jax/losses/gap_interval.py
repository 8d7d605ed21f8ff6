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
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rog_jax.losses.blocks import scan_blocks
from rog_jax.losses.gap_positives import Positives, is_negative, sum_over_devices

CELLS_PER_EDGE = 8
"""Cells of the uniform grid for each breakpoint: more make fewer steps of bisection and a larger table."""

BLOCK_ENTRIES = 1 << 14
"""Entries that find their intervals and are counted at once."""


class Lines(NamedTuple):
    """What each positive's H does on each interval: the value at the left edge and whether it rises, for one block."""

    at_left: Float[Array, "T P"]
    rises: Bool[Array, "T P"]


def rank_by_intervals(
    logits: Float[Array, "N C"], labels: Int[Array, " N"], positives: Positives, delta: float | int
) -> tuple[Float[Array, " P"], Callable[[Float[Array, " P"]], Float[Array, "N C"]]]:
    """Exact ranking of the positives among the negatives.

    Args:
        logits: scores of this device's entries.
        labels: classes of its rows; they tell which entries are negatives.
        positives: the positives of all devices.
        delta: half width of the step H, in logits.

    Returns:
        above: [P] F_i = sum over the negatives of all devices of H(s_j - p_i), for this device's positives.
        spread: takes weights [P] of this device's positives, gives sum over all devices' positives of
            w_i H(s_j - p_i) at each of this device's negatives [N, C]; what it gives elsewhere has no meaning.
    """
    edges = _breakpoints(positives, delta)  # [K]
    left = jnp.concatenate([edges[:1], edges])  # [S], S = K + 1; left edges of the intervals, unused for the first
    own_scores = positives.scores[positives.own]  # [P]
    own_valid = positives.valid[positives.own]
    interval, count, offset_sum = _fill_intervals(logits, labels, edges, left, delta)
    count = sum_over_devices(count, positives.axis_name).astype(logits.dtype)
    offset_sum = sum_over_devices(offset_sum, positives.axis_name)

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
        return _look_up(value, interval) + _look_up(slope, interval) * _offset(logits, interval, left, delta)

    return above, spread


def _fill_intervals(
    logits: Float[Array, "N C"],
    labels: Int[Array, " N"],
    edges: Float[Array, " K"],
    left: Float[Array, " S"],
    delta: float | int,
) -> tuple[Int[Array, "N C"], Int[Array, " S"], Float[Array, " S"]]:
    """Interval of each entry; number of negatives in each interval, and sum of their offsets.

    Interval b lies right of b edges. Nothing is above a positive in interval 0, which takes all that is no negative and
    is emptied in the end. Rows go through in blocks that fit into a processor's cache.

    The offsets are cut into digits so short that integers sum them without overflow: the sum is then exact and the
    same in any order, where float32 would lose digits over millions of addends and differ from run to run on a GPU.
    """
    num_rows, num_classes = logits.shape
    integer = jnp.int64 if logits.dtype == jnp.float64 else jnp.int32
    digit_bits = jnp.iinfo(integer).bits - 1 - int(num_rows * num_classes).bit_length()
    digits = 0 if delta == 0 else -(-(jnp.finfo(logits.dtype).nmant + 1) // digit_bits)  # no slope, no offsets
    count_edges_below = _make_search(edges)

    def fill(sums: tuple[Array, ...], logits: Array, labels: Array) -> tuple[tuple[Array, ...], Array]:
        interval = jnp.where(is_negative(labels, num_classes), count_edges_below(logits), 0)  # [T, C]
        filled = [sums[0].at[interval].add(1)]
        rest = _offset(logits, interval, left, delta)
        for digit_sum in sums[1:]:
            rest = rest * 2**digit_bits
            whole = jnp.floor(rest)
            rest = rest - whole
            filled.append(digit_sum.at[interval].add(whole.astype(integer)))
        return tuple(filled), interval

    zeros = (jnp.zeros(left.shape, jnp.int32), *[jnp.zeros(left.shape, integer)] * digits)
    (count, *digit_sums), interval = scan_blocks(fill, zeros, (logits, labels), (0, -1), num_classes, BLOCK_ENTRIES)
    offset_sum = jnp.zeros(left.shape, logits.dtype)
    for place, digit_sum in enumerate(digit_sums, start=1):
        offset_sum = offset_sum + digit_sum.astype(logits.dtype) * 2.0 ** (-place * digit_bits)
    return interval, count.at[0].set(0), offset_sum.at[0].set(0)


def _breakpoints(positives: Positives, delta: float | int) -> Float[Array, " K"]:
    """Scores at which some positive's H bends, ascending; those of empty slots are the largest number."""
    largest = jnp.finfo(positives.scores.dtype).max
    low = jnp.where(positives.valid, positives.scores - delta, largest)
    if delta == 0:
        return jnp.sort(low)
    return jnp.sort(jnp.concatenate([low, jnp.where(positives.valid, positives.scores + delta, largest)]))


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


def _make_search(edges: Float[Array, " K"]) -> Callable[[Float[Array, "T C"]], Int[Array, "T C"]]:
    """A function that gives the number of edges at or below each score: bisection inside the cell of a uniform grid.

    A cell's number never falls as the score rises, whatever the rounding, so edges of earlier cells lie below a score
    and those of later cells above it. Bisection takes as many steps as the fullest cell needs.
    """
    largest = jnp.finfo(edges.dtype).max
    used = edges < largest
    cells = CELLS_PER_EDGE * edges.shape[0]
    low = jnp.where(used[0], edges[0], 0)
    high = jnp.max(jnp.where(used, edges, low))
    scale = cells / jnp.maximum(high - low, cells * jnp.finfo(edges.dtype).tiny)

    def cell(x: Array) -> Array:
        return jnp.clip((jnp.clip(x, low, high) - low) * scale, 0, cells - 1).astype(jnp.int32)

    before = jnp.searchsorted(jnp.where(used, cell(edges), cells), jnp.arange(cells + 1)).astype(jnp.int32)
    steps = 32 - jax.lax.clz(jnp.max(jnp.diff(before)))
    padded = jnp.concatenate([edges, jnp.full_like(edges, jnp.inf)])  # a step may reach beyond the last edge

    def search(scores: Float[Array, "T C"]) -> Int[Array, "T C"]:
        def bisect(step: Array, found: Array) -> Array:
            stride = 1 << (steps - 1 - step)
            return jnp.where(_look_up(padded, found + (stride - 1)) <= scores, found + stride, found)

        return jax.lax.fori_loop(0, steps, bisect, _look_up(before, cell(scores)))

    return search


def _look_up(table: Array, index: Int[Array, "N C"]) -> Array:
    """table[index] without the check of bounds, which costs as much again on a CPU."""
    return table.at[index].get(mode="promise_in_bounds")


def _offset(
    logits: Float[Array, "N C"], interval: Int[Array, "N C"], left: Float[Array, " S"], delta: float | int
) -> Float[Array, "N C"]:
    """Distance of each score from the left edge of its interval in units of 2 delta, at most 1.

    An interval on which some H rises is at most 2 delta wide; on the others the offset is multiplied by 0.
    """
    if delta == 0:
        return jnp.zeros_like(logits)
    return jnp.clip((logits - _look_up(left, interval)) / (2 * delta), 0, 1)
