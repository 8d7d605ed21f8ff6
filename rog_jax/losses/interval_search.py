"""Finds the intervals of millions of scores between sorted edges: a table over a uniform grid, then few comparisons."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Search = Callable[[Float[Array, "T C"], Callable[[], Bool[Array, "T C"]]], Int[Array, "T C"]]

CELLS_PER_EDGE = 32
"""Cells of the grid for each edge: with so many, hardly a cell holds more edges than are compared at once."""

MAX_CELLS = 1 << 16
"""Bound of the above, for the table should fit into a processor's cache; there are at least two cells for each edge."""

COMPARED = 3
"""Edges of a cell that every score is compared with. Scores in cells with more of them are found by bisection."""


def make_search(edges: Float[Array, " K"]) -> Search:
    """A function that counts the edges at or below each score.

    A cell's number never falls as the score rises, whatever the rounding, so edges of earlier cells lie at or below a
    score and those of later cells above it. What is left are the edges of the score's own cell.

    Args:
        edges: ascending, without ties; the largest finite number stands for "no edge".

    Returns:
        search(scores, wanted): the count at each score where wanted() is true, 0 elsewhere and at NaN. `wanted` is a
        function so that each of the two ways makes its own mask, instead of sharing one through memory.
    """
    cell, fullness = _grid(edges)
    before = jnp.cumsum(fullness) - fullness  # [cells + 1]
    padding = jnp.full(max(len(edges), COMPARED), jnp.nan, edges.dtype)  # at or below no score, not even infinity
    padded = jnp.concatenate([edges, padding])  # bisection and comparisons may reach beyond the last edge
    # Of each cell: edges of earlier cells, negative where this one has too many, and the next edges.
    start = jnp.where(fullness > COMPARED, -1 - COMPARED, before)
    following = [padded[before + k] for k in range(COMPARED)]
    fullest = jnp.max(fullness[:-1])

    def compare(scores: Array, wanted: Callable[[], Array]) -> Array:
        inside = cell(scores)
        found = look_up(start, inside) + sum(look_up(edge, inside) <= scores for edge in following)
        return jnp.where(wanted(), found, 0)

    def bisect(scores: Array, wanted: Callable[[], Array]) -> Array:
        steps = 32 - jax.lax.clz(fullest)

        def halve(step: Array, found: Array) -> Array:
            stride = 1 << (steps - 1 - step)
            return jnp.where(look_up(padded, found + (stride - 1)) <= scores, found + stride, found)

        found = jax.lax.fori_loop(0, steps, halve, look_up(before, cell(scores)))
        return jnp.where(wanted(), found, 0)

    def search(scores: Array, wanted: Callable[[], Array]) -> Array:
        def finish(_: Array, found: Array) -> Array:
            return jax.lax.cond(jnp.min(found) >= 0, lambda: found, lambda: bisect(scores, wanted))

        # A loop of one round or none: a condition would copy the usual result. It also keeps XLA on a CPU from fusing
        # the comparisons into all that reads their result, and so from making them several times.
        return jax.lax.fori_loop(0, (fullest > COMPARED).astype(jnp.int32), finish, compare(scores, wanted))

    return search


def look_up(table: Array, index: Int[Array, "..."]) -> Array:
    """table[index] without the check of bounds, which costs as much again on a CPU."""
    return table.at[index].get(mode="promise_in_bounds")


def look_up_all(tables: tuple[Float[Array, " S"], ...], index: Int[Array, "..."]) -> tuple[Float[Array, "..."], ...]:
    """table[index] of each table."""
    return tuple(look_up(table, index) for table in tables)


def _grid(edges: Float[Array, " K"]) -> tuple[Callable[[Array], Array], Int[Array, " cells_and_one"]]:
    """The cell of each score, and the number of edges in each cell; those that are none are in one cell more."""
    used = edges < jnp.finfo(edges.dtype).max
    cells = max(min(CELLS_PER_EDGE * len(edges), MAX_CELLS), 2 * len(edges))
    low = jnp.where(used[0], edges[0], 0)
    high = jnp.max(jnp.where(used, edges, low))
    scale = cells / jnp.maximum(high - low, cells * jnp.finfo(edges.dtype).tiny)

    def cell(x: Array) -> Array:
        inside = jnp.minimum(jnp.where(x > low, x, low), high)  # NaN goes to the first cell
        return jnp.minimum((inside - low) * scale, cells - 1).astype(jnp.int32)

    cell_of_edge = jnp.where(used, cell(edges), cells)
    return cell, jnp.zeros(cells + 1, jnp.int32).at[cell_of_edge].add(1)
