"""Intervals by comparisons and products with one-hot rows: for TPUs, which have no fast look-up into a table.

A sorted table of K edges is cut into groups of equal width. An entry is compared with the first edge of every group,
and then with the edges of its own group only, which a product with its one-hot column brings. Reading a table of
intervals is such a product too, and so is counting: one-hot rows of groups times one-hot rows of places. An entry takes
some 2 sqrt(K) comparisons in place of K, and 40 K operations of a matrix unit, which are cheaper by far. Products are
exact for 0 and for numbers of at least 2^-100, so the results are those of `interval_search` and `interval_tally`.
Compilers of TPUs fuse the one-hot rows into the products; others hold them in memory, 1 GB for 2,048 x 1,203 entries.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from rog_jax.losses.exact_sums import add_words, word_type
from rog_jax.losses.interval_search import Search
from rog_jax.losses.interval_tally import FRACTION_BITS, Sums, to_fraction
from rog_jax.ops.bfloat16 import bfloat16_parts

DIGIT_BITS = 8
"""Of a fraction at a time: whole numbers of so many bits are exact in bfloat16."""
SCOPE = "one_hot"
"""In which numbers are bfloat16, and exact all the same."""
LANE = 1 << 16
"""Entries counted in one product: sums of so many digits are exact in float32."""


def make_search(edges: Float[Array, " K"]) -> Search:
    """A function that counts the edges at or below each score; see `interval_search.make_search`."""
    size = len(edges)
    groups, width = group_sizes(size)
    largest = jnp.finfo(edges.dtype).max
    grouped = jnp.pad(edges, (0, groups * width - size), constant_values=largest).reshape(groups, width)

    def search(scores: Array, wanted: Callable[[], Bool[Array, "T C"]]) -> Array:
        flat = jnp.where(wanted(), scores, -jnp.inf).ravel()
        group = jnp.sum(flat >= grouped[1:, :1], axis=0, dtype=jnp.int32)
        inside = jnp.sum(columns_of(grouped, group) <= flat, axis=0, dtype=jnp.int32)
        return jnp.minimum(group * width + inside, size).reshape(scores.shape)

    return search


def group_sizes(edges: int) -> tuple[int, int]:
    """Number of groups, and edges in each: about as many, or twice as many groups, which a v5e likes best."""
    groups = min(edges, 1 << (((edges - 1).bit_length() + 1) // 2))
    return groups, -(-edges // groups)


def look_up(tables: tuple[Float[Array, " S"], ...], interval: Int[Array, "..."]) -> tuple[Float[Array, "..."], ...]:
    """table[interval] of each table; infinite numbers in it become the largest finite ones. A NaN spoils its place."""
    size = len(tables[0])
    groups, width = group_sizes(size - 1)
    group, place = _split(interval.ravel(), width)
    at_place = place == jnp.arange(width)[:, None]

    def read(table: Array) -> Array:
        padded = jnp.pad(table[1:], (0, groups * width - size + 1))
        column = columns_of(padded.reshape(groups, width), group)
        found = jnp.sum(jnp.where(at_place, column, 0), axis=0).reshape(interval.shape)
        return jnp.where(interval == 0, table[0], found)

    return tuple(read(table) for table in tables)


@jax.named_scope(SCOPE)
def columns_of(table: Float[Array, "G W"], group: Int[Array, " T"]) -> Float[Array, "W T"]:
    """table[group] transposed, exactly: the table, for float32 in three parts of 8 bits each, times one-hot columns."""
    limits = jnp.finfo(table.dtype)
    table = jnp.clip(table, limits.min, limits.max)  # 0 times infinity would be NaN, in all groups
    parts = bfloat16_parts(table) if table.dtype == jnp.float32 else [table]
    hot = group == jnp.tile(jnp.arange(len(table)), len(parts))[:, None]
    joined = jnp.concatenate(parts)
    exact = jax.lax.Precision.HIGHEST
    return jnp.einsum(
        "gw,gt->wt", joined, hot.astype(joined.dtype), precision=exact, preferred_element_type=table.dtype
    )


@jax.named_scope(SCOPE)
def add_entries(sums: Sums, interval: Int[Array, " T"], offset: Float[Array, " T"]) -> Sums:
    """Counts entries and adds their offsets; see `interval_tally.add_entries`. Those of interval 0 are left out."""
    size, entries = len(sums.counts[0]), len(interval)
    groups, width = group_sizes(size - 1)
    lane = min(entries, LANE)
    lanes = -(-entries // lane)
    padding = (0, lanes * lane - entries)
    group, place = _split(jnp.pad(interval, padding).reshape(lanes, 1, -1), width)
    fraction = jnp.pad(to_fraction(offset), padding).reshape(lanes, 1, -1)
    of_group = (group == jnp.arange(groups)[:, None]).astype(jnp.bfloat16)  # [L, G, T]; others are slower on a v5e
    at_place = place == jnp.arange(width)[:, None]

    def tally(digit: Num[Array, "L 1 T"]) -> Array:
        values = jnp.where(at_place, digit, 0).astype(jnp.bfloat16)
        table = jnp.einsum("lgt,lwt->lgw", of_group, values, preferred_element_type=jnp.float32)
        flat = table.reshape(lanes, -1)[:, : size - 1].astype(word_type(offset.dtype))
        return jnp.pad(flat, ((0, 0), (1, 0)))

    counts = add_words(sums.counts, tally(jnp.ones_like(fraction)), 0)
    fractions = sums.fractions
    for place_of_digit in range(0, FRACTION_BITS[offset.dtype.name], DIGIT_BITS):
        digit = (fraction >> place_of_digit) & (2**DIGIT_BITS - 1)
        fractions = add_words(fractions, tally(digit), place_of_digit)
    return Sums(counts, fractions)


def _split(interval: Int[Array, "..."], width: int) -> tuple[Int[Array, "..."], Int[Array, "..."]]:
    """Group of the interval's left edge, and its place in the group; -1 of interval 0, which has none."""
    edge = interval - 1
    group = jax.lax.div(jnp.maximum(edge, 0), jnp.asarray(width, edge.dtype))
    return group, edge - group * width
