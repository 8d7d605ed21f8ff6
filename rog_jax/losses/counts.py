"""Running number of sampled rows of each class, the memory of the GAP loss and of Seesaw."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num

from rog_jax.losses.conventions import sum_over_devices


def accumulate_counts(
    counts: Num[Array | np.ndarray, " C"], labels: Int[Array | np.ndarray, " N"], axis_name: str | None = None
) -> Num[Array, " C"]:
    """Adds the positives of a batch to the running counts (ROG, section 3.3: omega follows the data seen so far).

    Args:
        counts: positives of each class so far. Use int32, which stays at its largest number once it is full; float32
            stops counting at 2**24.
        labels: class of each row; rows of the background (C) or of padding (-1) count nowhere.
        axis_name: mesh axis over whose devices the new positives are summed; None counts this device's only.

    Returns:
        The new counts, of the same type.
    """
    counts, labels = jnp.asarray(counts), jnp.asarray(labels)
    num_classes = counts.shape[0]
    slots = jnp.where(labels < 0, num_classes, labels)  # a negative index would count from the end
    new = jnp.zeros_like(counts).at[slots].add(1, mode="drop")
    total = counts + sum_over_devices(new, axis_name)
    if not jnp.issubdtype(counts.dtype, jnp.integer):
        return total
    return jnp.where(total < counts, jnp.iinfo(counts.dtype).max, total)
