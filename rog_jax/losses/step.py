"""The piecewise-linear step that stands for "is ranked above" in every ranking loss here."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def smooth_step(difference: Float[Array, "*shape"], delta: float | int) -> Float[Array, "*shape"]:
    """H(d) of GAP (eq. 4) and of AP and Rank & Sort loss: 0 below -delta, 1 above delta, a straight line between.

    Args:
        difference: score of the other entry minus score of the ranked one, in logits.
        delta: half width of the line, in logits. With 0 the step is hard and a tie counts as 1.
    """
    if delta == 0:
        return (difference >= 0).astype(difference.dtype)
    return jnp.clip(difference / (2 * delta) + 0.5, 0, 1)
