"""What all losses agree on: the type that is computed in, which rows are objects, sums over a mesh axis."""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

Tree = TypeVar("Tree")


def loss_dtype(logits: Array | np.ndarray) -> jnp.dtype:
    """float64 for float64, float32 for everything else."""
    return jnp.dtype(jnp.float64 if logits.dtype == jnp.float64 else jnp.float32)


def is_foreground(labels: Int[Array, "*shape"], num_classes: int) -> Bool[Array, "*shape"]:
    """Rows with an object: neither the background (C) nor padding (-1)."""
    return (labels >= 0) & (labels < num_classes)


def sum_over_devices(tree: Tree, axis_name: str | None) -> Tree:
    """The sums over the devices of a mesh axis; the tree itself where there is none."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)
