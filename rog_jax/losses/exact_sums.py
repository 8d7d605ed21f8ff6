"""Sums of many small numbers in fixed point: exact, the same in any order, and safe from overflow.

Float32 loses digits over millions of addends and gives another sum in another order; an int32 counter of the entries of
some hundred devices overflows. So a sum is kept as limbs: digits to the base 2^16 (2^32 where words have 64 bits),
least significant first, each in an unsigned word whose upper half is free for carries.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt

Limbs = tuple[UInt[Array, "..."], ...]
"""The number sum_k limbs[k] base^k, where every limb is below the base."""


def word_type(dtype: jnp.dtype) -> jnp.dtype:
    """The unsigned integers that hold the digits of floats of this type."""
    return jnp.dtype(jnp.uint64 if dtype == jnp.float64 else jnp.uint32)


def limb_bits(words: jnp.dtype) -> int:
    """Bits of a limb: half of those of a word."""
    return jnp.iinfo(words).bits // 2


def zero_limbs(shape: tuple[int, ...], words: jnp.dtype, bits: int) -> Limbs:
    """Zeros, with room for numbers below 2^bits."""
    return tuple(jnp.zeros(shape, words) for _ in range(-(-bits // limb_bits(words))))


def add_word(limbs: Limbs, word: UInt[Array, "..."], shift: int) -> Limbs:
    """limbs + word 2^shift, for any word; the caller's room has to suffice for the sum."""
    half = limb_bits(word.dtype)
    place, rest = divmod(shift, half)
    total = list(limbs)
    for k, part in enumerate((word & (2**half - 1), word >> half), start=place):
        if k < len(total):  # what lies beyond the room is 0
            total[k] = total[k] + (part << rest)
    return _carry(total)


def add_words(limbs: Limbs, words: UInt[Array, "L ..."], shift: int) -> Limbs:
    """limbs + the sum over the first axis of words 2^shift; L is at most the base."""
    half = limb_bits(words.dtype)
    limbs = add_word(limbs, jnp.sum(words & (2**half - 1), axis=0, dtype=words.dtype), shift)
    return add_word(limbs, jnp.sum(words >> half, axis=0, dtype=words.dtype), shift + half)


def sum_limbs_over_devices(limbs: Limbs, axis_name: str | None) -> Limbs:
    """Sum over the devices of a mesh axis, of which there may be as many as the base; itself where there is no axis.

    Limb by limb: 2^16 limbs below 2^16 sum to less than 2^32.
    """
    if axis_name is None:
        return limbs
    return _carry([*jax.lax.psum(limbs, axis_name), jnp.zeros_like(limbs[0])])


def to_float(limbs: Limbs, fraction_bits: int, dtype: jnp.dtype) -> Float[Array, "..."]:
    """The number 2^-fraction_bits, rounded; small limbs first, whose roundings the large ones make negligible."""
    half = limb_bits(limbs[0].dtype)
    total = jnp.zeros(limbs[0].shape, dtype)
    for k, limb in enumerate(limbs):
        total = total + limb.astype(dtype) * 2.0 ** (half * k - fraction_bits)
    return total


def _carry(limbs: list[Array]) -> Limbs:
    """Moves what is above the base to the next limb."""
    half = limb_bits(limbs[0].dtype)
    done, rest = [], jnp.zeros_like(limbs[0])
    for limb in limbs:
        total = limb + rest
        done.append(total & (2**half - 1))
        rest = total >> half
    return tuple(done)
