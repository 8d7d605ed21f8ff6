"""What sums over the rows, anchors or positives of a device are divided by."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rog_jax.losses.conventions import sum_over_devices

MMDETECTION_EPS = float(np.finfo(np.float32).eps)
"""MMDetection adds it to the number of rows of its softmax losses."""


def normaliser(
    count: Int[Array, ""], axis_name: str | None = None, eps: float | int = 0, dtype: Any = jnp.float32
) -> Float[Array, ""]:
    """A count, at least 1, plus eps; with a mesh axis, that of all its devices together divided by their number.

    Then the mean over devices of `local sum / normaliser` is the sum over the joined batch divided by its count,
    however its images are spread. It has the type of the sum that it divides, `dtype`, whatever that of the count.
    """
    count, devices = sum_over_devices((count, 1), axis_name)
    return (jnp.maximum(count, 1).astype(dtype) + eps) / devices
