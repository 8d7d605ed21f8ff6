"""float32 numbers as sums of bfloat16 ones, with which a TPU's matrix unit multiplies exactly."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def bfloat16_parts(numbers: Float[Array, "*shape"], count: int = 3) -> list[Float[Array, "*shape"]]:
    """`count` bfloat16 arrays of 8 bits each, whose sum in any order is the float32 array where its bits suffice.

    Three are exact for 0 and for finite numbers of 2^-100 and more, and their negatives; two are at most 2^-16 of a
    number away from it. All but the last are cut off, not rounded, so that no two of them share bits.
    """
    parts = []
    for _ in range(count - 1):
        upper = jax.lax.bitcast_convert_type(numbers, jnp.uint32) & jnp.uint32(0xFFFF0000)
        part = jax.lax.bitcast_convert_type(upper, jnp.float32)
        parts.append(part.astype(jnp.bfloat16))
        numbers = numbers - part
    return [*parts, numbers.astype(jnp.bfloat16)]
