"""Running number of sampled positives of each class, the memory of the GAP loss."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num


def accumulate_counts(
    counts: Num[Array | np.ndarray, " C"], labels: Int[Array | np.ndarray, " N"], axis_name: str | None = None
) -> Num[Array, " C"]:
    """Adds the positives of a batch to the running counts (ROG, section 3.3: omega follows the data seen so far).

    Args:
        counts: positives of each class so far. Use int32: float32 stops counting at 2**24.
        labels: class of each row; rows of the background (C) or of padding (-1) count nowhere.
        axis_name: mesh axis over whose devices the new positives are summed; None counts this device's only.

    Returns:
        The new counts, of the same type.
    """
    counts, labels = jnp.asarray(counts), jnp.asarray(labels)
    num_classes = counts.shape[0]
    slots = jnp.where(labels < 0, num_classes, labels)  # a negative index would count from the end
    new = jnp.zeros_like(counts).at[slots].add(1, mode="drop")
    return counts + (new if axis_name is None else jax.lax.psum(new, axis_name))
