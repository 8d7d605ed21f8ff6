"""Counts and sums by interval: one scatter-add of millions of entries, packed so that integers do it exactly."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt

from rog_jax.losses.exact_sums import Limbs, add_words, sum_over_devices_exactly, to_float, word_type, zero_limbs

FRACTION_BITS = {"float32": 27, "float64": 58}
"""Digits of an offset behind the point: those of the float, and a few for offsets below 1/2."""

SHORT_LANE, LONG_LANE = 12, 18
"""Logarithms of the numbers of entries that share one table of sums. A word holds the count of a short lane beside a
digit, so that two words do for float32; a long lane takes three, but its table is made and summed less often."""

FEW_INTERVALS = 1 << 11
"""Intervals up to which the tables of short lanes are small beside their entries."""


class Sums(NamedTuple):
    """Of each of S intervals: the number of its entries, and the sum of their fractions."""

    counts: Limbs
    fractions: Limbs


def zero_sums(size: int, entries: int, dtype: jnp.dtype) -> Sums:
    """No entry in any of `size` intervals, with room for `entries` of them."""
    bits = entries.bit_length()
    words = word_type(dtype)
    return Sums(zero_limbs((size,), words, bits), zero_limbs((size,), words, bits + FRACTION_BITS[dtype.name]))


def add_entries(sums: Sums, interval: Int[Array, " T"], offset: Float[Array, " T"]) -> Sums:
    """Counts entries and adds their offsets from the left edge of their interval, 0 to 1, as fractions.

    Entries go in lanes, each of which has its own table of words. A word's low bits are a digit of the fractions; the
    first word counts the entries in its high bits. A lane is so short that no digit's sum reaches the next one.
    """
    size, words = len(sums.counts[0]), sums.counts[0].dtype
    lane_bits = SHORT_LANE if size <= FEW_INTERVALS else LONG_LANE
    lanes = -(-len(interval) // 2**lane_bits)
    slot = interval + (jnp.arange(len(interval)) >> lane_bits) * size
    fraction = to_fraction(offset)

    counts, fractions = sums
    for word, (place, width) in enumerate(_digits(lane_bits, FRACTION_BITS[offset.dtype.name], words)):
        digit = (fraction >> place) & (2**width - 1)
        room = lane_bits + width  # bits of the digit's sum
        if word == 0:
            digit = digit + (1 << room)
        table = jnp.zeros(lanes * size, words).at[slot].add(digit, mode="promise_in_bounds").reshape(lanes, size)
        if word == 0:
            counts = add_words(counts, table >> room, 0)
            table = table & (2**room - 1)
        fractions = add_words(fractions, table, place)
    return Sums(counts, fractions)


def to_floats(
    sums: Sums, entries: int, dtype: jnp.dtype, axis_name: str | None
) -> tuple[Float[Array, " S"], Float[Array, " S"]]:
    """Counts, and sums of offsets, over the devices of a mesh axis; `entries` is the number of those of one device."""
    bits, fraction_bits = entries.bit_length(), FRACTION_BITS[dtype.name]
    counts = sum_over_devices_exactly(sums.counts, bits, axis_name)
    fractions = sum_over_devices_exactly(sums.fractions, bits + fraction_bits, axis_name)
    return to_float(counts, 0, dtype), to_float(fractions, fraction_bits, dtype)


def to_fraction(offset: Float[Array, "..."]) -> UInt[Array, "..."]:
    """Offsets of 0 to 1 in units of 2^-FRACTION_BITS, rounded down; 1 becomes the largest float below it."""
    words = word_type(offset.dtype)
    below_one = 1 - jnp.finfo(offset.dtype).epsneg
    scaled = jnp.minimum(offset, below_one) * 2.0 ** FRACTION_BITS[offset.dtype.name]
    return scaled.astype(jnp.int64 if words == jnp.uint64 else jnp.int32).astype(words)


def _digits(lane_bits: int, fraction_bits: int, words: jnp.dtype) -> list[tuple[int, int]]:
    """Lowest bit and width of each word's digit, from the top; the first word has a lane's count beside its digit."""
    bits = jnp.iinfo(words).bits
    widths = [min(fraction_bits, max(0, bits - (lane_bits + 1) - lane_bits))]
    while sum(widths) < fraction_bits:
        widths.append(min(bits - lane_bits, fraction_bits - sum(widths)))
    return [(fraction_bits - sum(widths[: k + 1]), width) for k, width in enumerate(widths)]
