"""The largest entries of a long array without sorting all of it."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int32

from rog_jax.ops.boxes import Array


def top_k_large(x: Float[Array, "M"], k: int) -> tuple[Float[jax.Array, "{k}"], Int32[jax.Array, "{k}"]]:
    """The `k` largest entries, descending, and their indices: exactly `jax.lax.top_k`, equal entries by lower index.

    XLA's top_k costs a sort of the whole array. Here contiguous chunks compete first, by their maxima: an entry whose
    chunk is not among the best k chunks has k entries of other chunks before it. So k chunks hold the answer, and with
    chunks of about sqrt(M / k) entries two short top_k of about sqrt(M * k) entries each replace the long one.

    Raises:
        ValueError: if `k` exceeds the length of `x`.
    """
    size = x.shape[0]
    if k > size:
        raise ValueError(f"top_k_large: k = {k} exceeds the {size} entries of x; ask for at most {size}")
    chunk = math.isqrt(size // max(k, 1))
    if chunk < 2:
        return tuple(jax.lax.top_k(x, k))
    chunks = jnp.pad(x, (0, -size % chunk), constant_values=-jnp.inf).reshape(-1, chunk)  # [M / chunk, chunk]
    _, best = jax.lax.top_k(chunks.max(axis=1), k)
    best = jnp.sort(best)  # in the order of x again, so that equal entries keep it  # [k]
    values, place = jax.lax.top_k(chunks[best].reshape(-1), k)
    return values, best[place // chunk] * chunk + place % chunk
