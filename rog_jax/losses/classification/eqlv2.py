"""Equalization loss v2: classes are weighted by the gradients they have had (Tan et al., CVPR 2021)."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from rog_jax.losses.classification.base import LOW_PRIOR_BIAS, ClassificationLoss, State
from rog_jax.losses.classification.binary import (
    binary_targets,
    scores_beside_background,
    sigmoid_cross_entropy,
    sum_over_rows,
)
from rog_jax.losses.conventions import sum_over_devices
from rog_jax.losses.cross_entropy import own_logits

INITIAL_RATIO = 100.0
RATIO_EPS = 1e-10


class EQLv2State(NamedTuple):
    """Gradients that each class has had, [C] each.

    Attributes:
        pos_grad: sum of the gradients of positive entries.
        neg_grad: sum of the gradients of negative entries.
        ratio: pos_grad / neg_grad after the last step; 100 before the first.
        pos_rest: what rounding left out of pos_grad, to be added with the next step's.
        neg_rest: the same of neg_grad.
    """

    pos_grad: Array
    neg_grad: Array
    ratio: Array
    pos_rest: Array
    neg_rest: Array


@dataclass(frozen=True)
class EQLv2(ClassificationLoss):
    """Sigmoid cross-entropy of C + 1 columns with weights by each class's ratio of positive to negative gradients.

    With f = 1 / (1 + exp(-gamma (ratio - mu))) of the steps before, negatives have weight f and positives
    1 + alpha (1 - f); the background column, last, has 1 and 1. The sum is divided by the rows; row weights are
    ignored. Gradients are summed over all devices, as the published code does.

    Attributes:
        gamma: steepness of f.
        mu: ratio at which f is a half.
        alpha: how much more positives of a class without gradients weigh.
    """

    gamma: float | int = 12.0
    mu: float | int = 0.8
    alpha: float | int = 4.0
    bias_init: ClassVar[float] = LOW_PRIOR_BIAS

    def init_state(self) -> EQLv2State:
        """No gradients, and the ratio at which all weights are 1."""
        # Arrays of their own: a training step donates its state, and one buffer cannot be donated twice.
        zeros = (jnp.zeros(self.num_classes) for _ in range(4))
        pos_grad, neg_grad, pos_rest, neg_rest = zeros
        ratio = jnp.full(self.num_classes, INITIAL_RATIO, float)  # of no weak type, or the second step compiles anew
        return EQLv2State(pos_grad, neg_grad, ratio, pos_rest, neg_rest)

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
        factor = jax.nn.sigmoid(self.gamma * (state.ratio.astype(logits.dtype) - self.mu))
        factor = jnp.append(factor, 1)  # [Q]
        of_positives, of_negatives = 1 + self.alpha * (1 - factor), factor
        targets = binary_targets(labels, self.num_outputs)
        entries = sigmoid_cross_entropy(logits, targets) * jnp.where(targets, of_positives, of_negatives)
        value = sum_over_rows(entries, valid, axis_name)

        fixed = jax.lax.stop_gradient(logits)
        error = jnp.where(targets | ~valid[:, None], 0, jax.nn.sigmoid(fixed))
        negative = (jnp.sum(error, axis=0) * of_negatives)[:-1]
        slots = jnp.where(valid, labels, self.num_outputs)
        # Not sigmoid(-s), which would be exact below 1e-7 too: the published sums are of this difference.
        error = 1 - jax.nn.sigmoid(own_logits(fixed, labels))
        positive = (jnp.zeros_like(factor).at[slots].add(error, mode="drop") * of_positives)[:-1]
        return value, _next_state(state, *sum_over_devices((positive, negative), axis_name))

    def activation(self, logits: Float[Array, "N Q"]) -> Float[Array, "N C"]:
        """sigmoid(class) * (1 - sigmoid(background))."""
        return scores_beside_background(logits)


def _next_state(state: EQLv2State, positive: Float[Array, " C"], negative: Float[Array, " C"]) -> EQLv2State:
    pos_grad, pos_rest = _add(state.pos_grad, state.pos_rest, positive)
    neg_grad, neg_rest = _add(state.neg_grad, state.neg_rest, negative)
    return EQLv2State(pos_grad, neg_grad, pos_grad / (neg_grad + RATIO_EPS), pos_rest, neg_rest)


def _add(
    total: Float[Array, " C"], rest: Float[Array, " C"], addend: Float[Array, " C"]
) -> tuple[Float[Array, " C"], Float[Array, " C"]]:
    """total + rest + addend as a rounded sum and what rounding left out (Knuth's two-sum, then Dekker's fast one).

    Alone, a float32 sum no longer moves once it is 2**24 times the addend, which a run of 180,000 steps reaches for
    classes whose gradients have become small.
    """
    addend = addend.astype(total.dtype)
    once = total + addend
    part = once - total
    rest = rest + ((total - (once - part)) + (addend - part))
    result = once + rest
    return result, rest - (result - once)
