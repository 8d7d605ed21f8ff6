"""Element-wise losses of boxes, objectness and masks; the caller masks, sums and normalises."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num


def smooth_l1(
    prediction: Float[Array, "*shape"], target: Float[Array, "*shape"], beta: float | int
) -> Float[Array, "*shape"]:
    """Smooth L1 of each element (Fast R-CNN, eq. 3): d² / (2 beta) where |d| < beta, |d| - beta / 2 beyond.

    Args:
        prediction: predicted deltas.
        target: deltas to be predicted.
        beta: where the parabola ends, in units of the deltas; 0 is plain L1.
    """
    error = jnp.abs(prediction - target)
    if beta == 0:
        return error
    return jnp.where(error < beta, 0.5 * error**2 / beta, error - 0.5 * beta)


def binary_cross_entropy(logits: Float[Array, "*shape"], targets: Num[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Cross-entropy of sigmoid(logits) with the targets, each element for itself; finite for every finite logit.

    Args:
        logits: raw scores.
        targets: probabilities in 0..1.
    """
    # Written with one condition, not with max and abs: the derivative at a logit of exactly 0 is then 0.5 - target.
    positive = logits >= 0
    magnitude = jnp.where(positive, logits, -logits)
    return jnp.where(positive, logits, 0) - logits * targets + jnp.log1p(jnp.exp(-magnitude))
