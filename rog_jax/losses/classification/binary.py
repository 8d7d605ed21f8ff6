"""Pieces of the losses that treat every column as a yes-or-no question."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rog_jax.losses.cross_entropy import binary_cross_entropy
from rog_jax.losses.normaliser import normaliser


def binary_targets(labels: Int[Array, " N"], columns: int) -> Bool[Array, "N Q"]:
    """Whether a column is that of the row's label; a label beyond the columns, or -1, has none."""
    return labels[:, None] == jnp.arange(columns)


def sigmoid_cross_entropy(logits: Float[Array, "N Q"], targets: Bool[Array, "N Q"]) -> Float[Array, "N Q"]:
    """Cross-entropy of sigmoid(logits), each entry for itself."""
    return binary_cross_entropy(logits, targets.astype(logits.dtype))


def sum_over_rows(
    entries: Float[Array, "N Q"], valid: Bool[Array, " N"], axis_name: str | None = None
) -> Float[Array, ""]:
    """Sum over all entries of the rows that are no padding, divided by the number of these rows."""
    rows = normaliser(jnp.sum(valid), axis_name, dtype=entries.dtype)
    return jnp.sum(jnp.sum(entries, axis=1) * valid) / rows


def scores_beside_background(logits: Float[Array, "N Q"]) -> Float[Array, "N C"]:
    """Scores of the classes where the last of the sigmoid columns is the background: class and not background."""
    return jax.nn.sigmoid(logits[:, :-1]) * jax.nn.sigmoid(-logits[:, -1:])
