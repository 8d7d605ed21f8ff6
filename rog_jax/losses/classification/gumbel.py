"""Gumbel activation: probability exp(-exp(-s)), for classes that are rarely there (Alexandridis et al., ECCV 2022)."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from rog_jax.losses.classification.base import ClassificationLoss, State, row_weights
from rog_jax.losses.classification.binary import binary_targets
from rog_jax.losses.classification.eql import EQL
from rog_jax.losses.normaliser import normaliser

LOWEST, HIGHEST = -4.0, 10.0
"""Training clips the logits to this range, which has no gradient beyond."""
VARIANCE_FLOOR = 1e-12
"""PyTorch's gradient of binary cross-entropy divides by p (1 - p), but by no less than this."""
LOG_2 = float(np.log(2))
MAX_VALUE = 20.0
"""Where the published Gumbel cross-entropy is cut off."""
WEIGHT_INIT, BIAS_INIT = ("constant", 0.001), -2.0


def gumbel_probability(logits: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """exp(-exp(-s)), of logits that are not clipped."""
    return jnp.exp(-jnp.exp(-logits))


@jax.custom_vjp
def gumbel_cross_entropy(logits: Float[Array, "*shape"], targets: Bool[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Cross-entropy of the Gumbel activation, entry by entry: exp(-s) for a target, -log(1 - exp(-exp(-s))) else.

    Logits are clipped to [-4, 10]. The gradient is the published program's: 0 beyond that range, and nearly 0 instead
    of -exp(-s) for targets below -3.32, where p (1 - p) falls below 1e-12.
    """
    decay, probability, complement = _parts(logits)
    # Of log(1 - p) one logarithm, of what has the digits: the complement where it is small, 1 - p where p is. There the
    # quotient makes good what the rounding of 1 - p took, as in Kahan's log1p.
    likely = decay < LOG_2
    rounded = jnp.where(likely, complement, 1 - probability)
    quotient = jnp.where(likely | (rounded == 1), 1, probability / (1 - rounded))
    of_negative = jnp.where(rounded == 1, -probability, jnp.log(rounded) * quotient)
    return jnp.where(targets, decay, -of_negative)


def _parts(logits):
    """-log p, p and 1 - p of the clipped logits."""
    decay = jnp.exp(-jnp.clip(logits, LOWEST, HIGHEST))
    probability = jnp.exp(-decay)
    # Equal to -expm1(-decay), which takes another exponential, and with all its digits.
    return decay, probability, jnp.tanh(decay / 2) * (1 + probability)


def _forward(logits, targets):
    return gumbel_cross_entropy(logits, targets), (logits, targets)


def _backward(residuals, cotangent):
    logits, targets = residuals
    decay, probability, complement = _parts(logits)
    error = jnp.where(targets, -complement, probability)
    of_probability = error / jnp.maximum(probability * complement, VARIANCE_FLOOR)
    inside = (logits >= LOWEST) & (logits <= HIGHEST)
    return jnp.where(inside, cotangent * of_probability * (probability * decay), 0), None


gumbel_cross_entropy.defvjp(_forward, _backward)


@dataclass(frozen=True)
class EQLGumbel(EQL):
    """EQL with the Gumbel activation instead of the sigmoid, as published with GOL."""

    weight_init: ClassVar[tuple[str, float]] = WEIGHT_INIT
    bias_init: ClassVar[float] = BIAS_INIT
    cross_entropy: ClassVar = staticmethod(gumbel_cross_entropy)
    probability: ClassVar = staticmethod(gumbel_probability)


@dataclass(frozen=True)
class GumbelCE(ClassificationLoss):
    """Gumbel cross-entropy of C + 1 columns: each row times its weight, over the rows with a weight, cut off at 20.

    The background is a column like the others, and its score does not enter those of the classes. Where the cut-off
    binds there is no gradient; with a mesh axis it is the joined batch's value that is cut.
    """

    weight_init: ClassVar[tuple[str, float]] = WEIGHT_INIT
    bias_init: ClassVar[float] = BIAS_INIT

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
        per_row = jnp.sum(gumbel_cross_entropy(logits, binary_targets(labels, self.num_outputs)), axis=1)
        value = jnp.sum(per_row * weights) / normaliser(jnp.sum(weights > 0), axis_name, dtype=logits.dtype)
        joined = jax.lax.stop_gradient(value)
        if axis_name is not None:
            joined = jax.lax.pmean(joined, axis_name)
        return jnp.where(joined > MAX_VALUE, MAX_VALUE, value), state

    def activation(self, logits: Float[Array, "N Q"]) -> Float[Array, "N C"]:
        """The probability of each class for itself."""
        return gumbel_probability(logits[:, : self.num_classes])
