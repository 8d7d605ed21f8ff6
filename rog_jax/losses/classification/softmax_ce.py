"""Softmax cross-entropy over the classes and the background, as in Fast R-CNN (section 2.3) and MMDetection."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from rog_jax.losses.classification.base import ClassificationLoss, State, row_weights
from rog_jax.losses.cross_entropy import softmax_cross_entropy
from rog_jax.losses.normaliser import MMDETECTION_EPS, normaliser


@dataclass(frozen=True)
class SoftmaxCE(ClassificationLoss):
    """Cross-entropy of each row times its weight, divided by the number of rows with a weight above 0."""

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
        weights = row_weights(weights, valid, logits.dtype)
        rows = normaliser(jnp.sum(weights > 0), axis_name, MMDETECTION_EPS, logits.dtype)
        return jnp.sum(softmax_cross_entropy(logits, labels) * weights) / rows, state

    def activation(self, logits: Float[Array, "N Q"]) -> Float[Array, "N C"]:
        """Softmax over all columns, without the background's."""
        return jax.nn.softmax(logits, axis=1)[:, : self.num_classes]
