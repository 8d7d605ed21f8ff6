"""Sigmoid cross-entropy with a column for the background, as the published ROG code has it."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from rog_jax.losses.classification.base import ClassificationLoss, State
from rog_jax.losses.localization import binary_cross_entropy
from rog_jax.losses.normaliser import normaliser


@dataclass(frozen=True)
class SigmoidCE(ClassificationLoss):
    """Binary cross-entropy of C + 1 columns, summed over the columns and divided by the rows; row weights are ignored.

    The background is a class of its own, with target 1 on background rows.
    """

    def __call__(
        self,
        logits: Float[Array | np.ndarray, "N Q"],
        labels: Int[Array | np.ndarray, " N"],
        weights: Num[Array | np.ndarray, " N"] | None,
        state: State,
        axis_name: str | None = None,
        **inputs: Any,
    ) -> tuple[Float[Array, ""], State]:
        """See `ClassificationLoss.__call__`."""
        logits, labels, valid = self.prepare(logits, labels)
        targets = (labels[:, None] == jnp.arange(self.num_outputs)).astype(logits.dtype)  # [N, Q]
        per_row = jnp.sum(binary_cross_entropy(logits, targets), axis=1)
        return jnp.sum(per_row * valid) / normaliser(jnp.sum(valid), axis_name), state

    def scores(self, logits: Float[Array, "N Q"]) -> Float[Array, "N C"]:
        """sigmoid(class) * (1 - sigmoid(background))."""
        return jax.nn.sigmoid(logits[:, : self.num_classes]) * jax.nn.sigmoid(-logits[:, self.num_classes :])
