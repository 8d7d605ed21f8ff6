"""The positive entries of a batch, packed into a static number of slots and shared by all devices of a mesh axis."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rog_jax.losses.conventions import is_foreground


class Positives(NamedTuple):
    """Positive entries of the union of all devices' batches, and where this device's own lie among them.

    Attributes:
        scores: [U] logits of the positives, 0 in empty slots.
        labels: [U] their classes, -1 in empty slots.
        own: [P] this device's slots within the U; P = U without a mesh axis.
        rows: [P] rows of this device's positives, N in empty slots.
        axis_name: the mesh axis, or None.
    """

    scores: Float[Array, " U"]
    labels: Int[Array, " U"]
    own: Int[Array, " P"]
    rows: Int[Array, " P"]
    axis_name: str | None

    @property
    def valid(self) -> Bool[Array, " U"]:
        """Slots that hold a positive."""
        return self.labels >= 0


def pack_positives(
    logits: Float[Array, "N C"], labels: Int[Array, " N"], capacity: int, axis_name: str | None
) -> Positives:
    """Packs the entries (i, y_i) with 0 <= y_i < C of the first `capacity` foreground rows; gathers all devices'."""
    num_rows, num_classes = logits.shape
    (rows,) = jnp.nonzero(is_foreground(labels, num_classes), size=capacity, fill_value=num_rows)
    filled = rows < num_rows
    packed_labels = jnp.where(filled, labels.at[rows].get(mode="clip"), -1)
    scores = jnp.where(filled, logits.at[rows, packed_labels].get(mode="clip"), 0)
    own = jnp.arange(capacity)
    if axis_name is not None:
        own = own + jax.lax.axis_index(axis_name) * capacity
        scores = jax.lax.all_gather(scores, axis_name, tiled=True)
        packed_labels = jax.lax.all_gather(packed_labels, axis_name, tiled=True)
    return Positives(scores, packed_labels, own, rows, axis_name)


def is_negative(labels: Int[Array, " N"], num_classes: int) -> Bool[Array, "N C"]:
    """The set N-hat: all foreground columns of all rows but padding, without the entries (i, y_i)."""
    return (labels[:, None] != jnp.arange(num_classes)) & (labels[:, None] >= 0)
