"""No object-level loss: the ranking loss alone trains the classifier (ROG, Table 2, "N/A")."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from rog_jax.losses.classification.base import ClassificationLoss, State


@dataclass(frozen=True)
class RankingOnly(ClassificationLoss):
    """Value 0 for every batch, C columns without background, and their sigmoids as scores."""

    @property
    def num_outputs(self) -> int:
        """Q = C."""
        return self.num_classes

    def __call__(
        self,
        logits: Float[Array | np.ndarray, "N Q"],
        labels: Int[Array | np.ndarray, " N"],
        weights: Num[Array | np.ndarray, " N"] | None,
        state: State,
        axis_name: str | None = None,
    ) -> tuple[Float[Array, ""], State]:
        """0, with a gradient of 0."""
        logits, _, _ = self.prepare(logits, labels, weights)
        return jnp.zeros((), logits.dtype), state

    def activation(self, logits: Float[Array, "N Q"]) -> Float[Array, "N C"]:
        """The sigmoid of each class."""
        return jax.nn.sigmoid(logits)
