"""LOCE: margins from each class's mean score (Feng, Zhong & Huang, ICCV 2021); its feature memory is elsewhere."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from rog_jax.losses.classification.base import ClassificationLoss, State, row_weights
from rog_jax.losses.conventions import is_foreground, sum_over_devices
from rog_jax.losses.cross_entropy import own_logits, softmax_cross_entropy
from rog_jax.losses.normaliser import normaliser


@dataclass(frozen=True)
class LOCE(ClassificationLoss):
    """Equilibrium loss: softmax cross-entropy of s + log m, with the running mean m of each class's scores.

    m is updated before the loss, from this batch's softmax scores (without the margins). Values of a class are: for
    every object of it the mean over the positive rows assigned to that object, and the mean over the memory rows of the
    class. Those of all devices count alike. With k values of class c, m_c becomes 0.9^k m_c + (1 - 0.9^k) mean(values).

    Further inputs of the call, for M memory rows (`rog_jax.losses.feature_memory` draws their features):

        gt_ids: [N], the object that each positive row is assigned to: a number from 0, another for each object of a
            device's images. Without it m stays as it is.
        memory_logits: [M, Q], the classifier's outputs for features from the memory. They join the rows of the loss
            with weight 1.
        memory_labels: [M], their classes; -1 where a row is empty.

    Attributes:
        alpha: share of m that one value leaves.
        initial_score: m of every class before the first step.
        background_score: m of the background, always.
    """

    alpha: float | int = 0.9
    initial_score: float | int = 0.01
    background_score: float | int = 0.01

    @property
    def extra_inputs(self) -> tuple[str, ...]:
        """Assignment of the positives, and the memory's rows."""
        return ("gt_ids", "memory_logits", "memory_labels")

    def init_state(self) -> Float[Array, " Q"]:
        """Mean scores of the classes and, last, of the background."""
        return jnp.full(self.num_classes + 1, self.initial_score, float)

    def __call__(
        self,
        logits: Float[Array | np.ndarray, "N Q"],
        labels: Int[Array | np.ndarray, " N"],
        weights: Num[Array | np.ndarray, " N"] | None,
        state: State,
        axis_name: str | None = None,
        gt_ids: Int[Array | np.ndarray, " N"] | None = None,
        memory_logits: Float[Array | np.ndarray, "M Q"] | None = None,
        memory_labels: Int[Array | np.ndarray, " M"] | None = None,
    ) -> tuple[Float[Array, ""], State]:
        """See `ClassificationLoss.__call__`.

        Raises:
            ValueError: only one of memory_logits and memory_labels is given.
        """
        if (memory_logits is None) != (memory_labels is None):
            raise ValueError("LOCE takes memory_logits= [M, Q] and memory_labels= [M] together or not at all")
        logits, labels, valid = self.prepare(logits, labels, weights)
        weights = row_weights(weights, valid, logits.dtype)
        groups = []
        if gt_ids is not None:
            groups.append((logits, labels, jnp.asarray(gt_ids)))
        if memory_logits is not None:
            rows = self.prepare(memory_logits, memory_labels)
            groups.append((*rows[:2], rows[1]))
            logits, labels = jnp.concatenate([logits, rows[0]]), jnp.concatenate([labels, rows[1]])
            weights = jnp.concatenate([weights, row_weights(None, rows[2], logits.dtype)])
        if gt_ids is not None:
            state = self._next_scores(state, groups, axis_name)
        # A mean score may shrink to 0 when its class is never predicted; its margin must not become infinite.
        margin = jnp.log(jnp.maximum(state.astype(logits.dtype), jnp.finfo(jnp.float32).tiny))
        per_row = softmax_cross_entropy(logits + margin, labels)
        rows = normaliser(jnp.sum(weights > 0), axis_name, dtype=logits.dtype)
        return jnp.sum(per_row * weights) / rows, state

    def _next_scores(
        self, scores: Float[Array, " Q"], groups: list[tuple[Array, Array, Array]], axis_name: str | None
    ) -> Float[Array, " Q"]:
        """Mean scores after this batch.

        Args:
            scores: before it.
            groups: logits, labels and ids of two sets of rows; rows with the same id make one value.
            axis_name: of the devices.
        """
        total = values = jnp.zeros_like(scores)  # [Q]
        for logits, labels, ids in groups:
            positive = is_foreground(labels, self.num_classes)
            logits = jax.lax.stop_gradient(logits)
            score = jnp.exp(own_logits(logits, labels) - jax.nn.logsumexp(logits, axis=1))
            share = (1 / _size_of_group(jnp.where(positive, ids, -1))).astype(scores.dtype)
            slots = jnp.where(positive, labels, self.num_outputs)
            total = total.at[slots].add(score.astype(scores.dtype) * share, mode="drop")
            values = values.at[slots].add(share, mode="drop")
        total, values = sum_over_devices((total, values), axis_name)
        values = jnp.round(values)  # shares of a value add up to 1 but for rounding
        kept = self.alpha**values
        moved = kept * scores + (1 - kept) * total / jnp.maximum(values, 1)
        return jnp.where(values > 0, moved, scores).at[-1].set(self.background_score)

    def activation(self, logits: Float[Array, "N Q"]) -> Float[Array, "N C"]:
        """Softmax over all columns, without the background's."""
        return jax.nn.softmax(logits, axis=1)[:, : self.num_classes]


def _size_of_group(ids: Int[Array, " N"]) -> Int[Array, " N"]:
    """How many rows have the id of each row."""
    if not ids.size:
        return ids
    _, group, sizes = jnp.unique(ids, return_inverse=True, return_counts=True, size=ids.size)
    return sizes[group]
