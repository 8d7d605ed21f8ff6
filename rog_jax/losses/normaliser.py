"""What sums over the rows, anchors or positives of a device are divided by."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def normaliser(count: Int[Array, ""], axis_name: str | None = None, eps: float | int = 0) -> Float[Array, ""]:
    """A count, at least 1, plus eps; with a mesh axis, that of all its devices together divided by their number.

    Then the mean over devices of `local sum / normaliser` is the sum over the joined batch divided by its count,
    however its images are spread.
    """
    devices = 1
    if axis_name is not None:
        count, devices = jax.lax.psum((count, 1), axis_name)
    return (jnp.maximum(count, 1) + eps) / devices
