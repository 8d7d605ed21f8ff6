"""Softmax cross-entropy over the classes and the background, as in Fast R-CNN (section 2.3) and MMDetection."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from rog_jax.losses.classification.base import ClassificationLoss, State
from rog_jax.losses.normaliser import normaliser

NORMALISER_EPS = float(np.finfo(np.float32).eps)
"""MMDetection adds it to the number of rows."""


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
        weights = valid.astype(logits.dtype) if weights is None else jnp.where(valid, jnp.asarray(weights), 0)
        of_label = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[:, None], axis=1)[:, 0]
        per_row = jax.nn.logsumexp(logits, axis=1) - of_label
        rows = normaliser(jnp.sum(weights > 0), axis_name) + NORMALISER_EPS
        return jnp.sum(per_row * weights.astype(logits.dtype)) / rows, state

    def scores(self, logits: Float[Array, "N Q"]) -> Float[Array, "N C"]:
        """Softmax over all columns, without the background's."""
        return jax.nn.softmax(logits, axis=1)[:, : self.num_classes]
