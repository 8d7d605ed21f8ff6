"""Cross-entropies of the sigmoid, entry by entry, and of the softmax, row by row; the caller sums and normalises."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num


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


def own_logits(logits: Float[Array, "N Q"], labels: Int[Array, " N"]) -> Float[Array, " N"]:
    """Each row's logit of its label; of column 0 or of the last one where the label has no column."""
    own = jnp.clip(labels, 0, logits.shape[1] - 1)
    return jnp.take_along_axis(logits, own[:, None], axis=1)[:, 0]


def softmax_cross_entropy(logits: Float[Array, "N Q"], labels: Int[Array, " N"]) -> Float[Array, " N"]:
    """-log softmax(logits) of each row's label."""
    return jax.nn.logsumexp(logits, axis=1) - own_logits(logits, labels)
