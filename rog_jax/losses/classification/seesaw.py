"""Seesaw loss: negatives of rarer classes weigh less, confused ones more (Wang et al., CVPR 2021)."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from rog_jax.losses.classification.base import ClassificationLoss, State, row_weights
from rog_jax.losses.counts import accumulate_counts
from rog_jax.losses.cross_entropy import own_logits, softmax_cross_entropy
from rog_jax.losses.normaliser import MMDETECTION_EPS, normaliser


@dataclass(frozen=True)
class Seesaw(ClassificationLoss):
    """Softmax cross-entropy of C re-weighted class columns on objects, and of two objectness columns on all rows.

    Columns: the C classes, then "is an object", then "is background". In the softmax of an object of class i, class j
    is multiplied by M_ij D_j: mitigation M_ij = min(1, n_j / n_i)^p with the rows n seen of each class, this batch
    included, and compensation D_j = max(1, P_j / max(P_i, eps))^q with the plain softmax P, which has no gradient.
    Both parts are divided by the number of rows with a weight, background included; the value is their sum.

    Attributes:
        p: exponent of the mitigation.
        q: exponent of the compensation.
        eps: least probability of the true class in the compensation; 0 is no bound.
        synchronise: counts are summed over the devices of a mesh. False keeps each device's own, as the published code
            does: the states of the devices then differ.

    Raises:
        ValueError: eps is no probability.
    """

    p: float | int = 0.8
    q: float | int = 2.0
    eps: float | int = 1e-2
    synchronise: bool = True
    predictor: ClassVar[str] = "normed"

    def __post_init__(self):
        if not 0 <= self.eps <= 1:
            raise ValueError(f"eps of Seesaw is {self.eps}; it is a probability, from 0 to 1")

    @property
    def num_outputs(self) -> int:
        """Q = C + 2."""
        return self.num_classes + 2

    @property
    def state_is_local(self) -> bool:
        """Whether each device keeps its own counts."""
        return not self.synchronise

    def init_state(self) -> Int[Array, " Q"]:
        """Rows seen of each class and, last, of the background."""
        return jnp.zeros(self.num_classes + 1, jnp.int32)

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
        counts = accumulate_counts(state, labels, axis_name if self.synchronise else None)

        classes, objectness = logits[:, : self.num_classes], logits[:, self.num_classes :]
        balanced = self._balance(classes, labels, counts[:-1])
        foreground = labels < self.num_classes
        of_class = jnp.where(foreground, softmax_cross_entropy(balanced, labels), 0)
        of_object = softmax_cross_entropy(objectness, 1 - foreground.astype(jnp.int32))
        rows = normaliser(jnp.sum(weights > 0), axis_name, MMDETECTION_EPS, logits.dtype)
        return jnp.sum((of_class + of_object) * weights) / rows, counts

    def _balance(
        self, logits: Float[Array, "N C"], labels: Int[Array, " N"], counts: Int[Array, " C"]
    ) -> Float[Array, "N C"]:
        """Logits plus log(M D), which is 0 at a row's own class."""
        fixed = jax.lax.stop_gradient(logits)
        log_counts = jnp.log(jnp.maximum(counts, 1).astype(logits.dtype))
        own_count = log_counts[jnp.clip(labels, 0, self.num_classes - 1)]
        mitigation = self.p * jnp.minimum(log_counts - own_count[:, None], 0)
        # log P_j - log max(P_i, eps), without taking the softmax: the sum of exponentials stands in both terms.
        reference = own_logits(fixed, labels)
        if self.eps > 0:
            reference = jnp.maximum(reference, jax.nn.logsumexp(fixed, axis=1) + float(np.log(self.eps)))
        compensation = self.q * jnp.maximum(fixed - reference[:, None], 0)
        return logits + mitigation + compensation

    def activation(self, logits: Float[Array, "N Q"]) -> Float[Array, "N C"]:
        """Softmax over the classes times the probability of an object."""
        objectness = jax.nn.softmax(logits[:, self.num_classes :], axis=1)[:, :1]
        return jax.nn.softmax(logits[:, : self.num_classes], axis=1) * objectness
