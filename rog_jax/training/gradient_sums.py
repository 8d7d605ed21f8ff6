"""How hard training has pushed each category's logits up and down: the gradients that the paper's Figure 4 compares."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict


def empty_sums(config: ConfigDict) -> Any:
    """float32 [2, C] of zeros, or () where `config.train.gradient_sums` does not ask for sums."""
    return np.zeros((2, config.model.num_classes), np.float32) if config.train.gradient_sums else ()


@jax.custom_vjp
def tapped(logits: Float[Array, "N Q"], tap: Float[Array, "2 C"], labels: Int[Array, " N"]) -> Float[Array, "N Q"]:
    """The logits as they are; the derivative of what is computed from them by `tap` is no derivative, but the sums of
    the sizes of its derivatives by the logits.

    So one backward pass gives both, and no array of the logits' size has to be carried out of it.

    Args:
        logits: of the classifier, whose first C columns are the categories.
        tap: of any values.
        labels: 0..C-1, C for background, -1 for an empty row.

    Returns:
        The logits. The derivative by `tap` has in its first row, for each category, the sum over the rows of this
        category, and in its second that over all other rows.
    """
    return logits


def _forward(logits: Any, tap: Any, labels: Any) -> tuple[Any, Any]:
    return logits, (tap, labels)


def _backward(saved: Any, gradient: Any) -> tuple[Any, Any, None]:
    tap, labels = saved
    num_classes = tap.shape[1]
    sizes = jnp.abs(gradient[:, :num_classes]).astype(tap.dtype)  # [N, C]
    own = labels[:, None] == jnp.arange(num_classes)
    return gradient, jnp.stack([jnp.where(own, sizes, 0).sum(0), jnp.where(own, 0, sizes).sum(0)]), None


tapped.defvjp(_forward, _backward)
