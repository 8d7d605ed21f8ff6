"""Softmax cross-entropy over the classes and the background, as in Fast R-CNN (section 2.3) and MMDetection."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from rog_jax.losses.classification.base import ClassificationLoss, State, row_weights
from rog_jax.losses.normaliser import normaliser

NORMALISER_EPS = float(np.finfo(np.float32).eps)
"""MMDetection adds it to the number of rows."""


def own_logits(logits: Float[Array, "N Q"], labels: Int[Array, " N"]) -> Float[Array, " N"]:
    """Each row's logit of its label; of column 0 or of the last one where the label has no column."""
    own = jnp.clip(labels, 0, logits.shape[1] - 1)
    return jnp.take_along_axis(logits, own[:, None], axis=1)[:, 0]


def softmax_cross_entropy(logits: Float[Array, "N Q"], labels: Int[Array, " N"]) -> Float[Array, " N"]:
    """-log softmax(logits) of each row's label."""
    return jax.nn.logsumexp(logits, axis=1) - own_logits(logits, labels)


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
        **inputs: Any,
    ) -> tuple[Float[Array, ""], State]:
        """See `ClassificationLoss.__call__`."""
        logits, labels, valid = self.prepare(logits, labels)
        weights = row_weights(weights, valid, logits.dtype)
        rows = normaliser(jnp.sum(weights > 0), axis_name, NORMALISER_EPS)
        return jnp.sum(softmax_cross_entropy(logits, labels) * weights) / rows, state

    def scores(self, logits: Float[Array, "N Q"]) -> Float[Array, "N C"]:
        """Softmax over all columns, without the background's."""
        return jax.nn.softmax(logits, axis=1)[:, : self.num_classes]
