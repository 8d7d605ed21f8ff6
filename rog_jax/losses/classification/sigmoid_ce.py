"""Sigmoid cross-entropy with a column for the background, as the published ROG code has it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Float, Int, Num

from rog_jax.losses.classification.base import ClassificationLoss, State
from rog_jax.losses.classification.binary import (
    binary_targets,
    scores_beside_background,
    sigmoid_cross_entropy,
    sum_over_rows,
)


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
    ) -> tuple[Float[Array, ""], State]:
        """See `ClassificationLoss.__call__`."""
        logits, labels, valid = self.prepare(logits, labels, weights)
        entries = sigmoid_cross_entropy(logits, binary_targets(labels, self.num_outputs))
        return sum_over_rows(entries, valid, axis_name), state

    def activation(self, logits: Float[Array, "N Q"]) -> Float[Array, "N C"]:
        """sigmoid(class) * (1 - sigmoid(background))."""
        return scores_beside_background(logits)
