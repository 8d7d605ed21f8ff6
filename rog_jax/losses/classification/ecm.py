"""Effective class-margin loss: margins and weights from the class counts (Cho & Krähenbühl, ECCV 2022)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Array, Float, Int, Num

from rog_jax.losses.classification.base import ClassificationLoss, State, class_statistic
from rog_jax.losses.classification.binary import (
    binary_targets,
    scores_beside_background,
    sigmoid_cross_entropy,
    sum_over_rows,
)

LARGE_ODDS = 1e10
"""Beyond, rounding (1 + A) / A to a float64 changes a weight by more than a millionth."""


@dataclass(frozen=True)
class ECM(ClassificationLoss):
    """Sigmoid cross-entropy of C + 1 columns at u = 2 s + log(n / (T - n)) / 4, weighted by class.

    n are the training set's counts, the background's included, and T their sum. Column c weighs
    A log((1 + A) / A) with A = (T - n) / n, which is in (0, 1]: 1 for the rarest classes. The sum is divided by the
    rows; row weights are ignored. Scores at inference are those of s, not of u.

    Attributes:
        counts: [C], instances of each class in the training set; or [C + 1], the background's count last. A class
            without instances counts as 1.
        background_ratio: background count over the sum of the others, where `counts` has only these. 6.3313 is the
            authors' figure for Mask R-CNN on LVIS.
        exact: the published program computes A log((1 + A) / A) in float32, where (1 + A) / A is rounded so near 1 that
            the weights of LVIS's rarest classes are up to 11 % too large. False reproduces it.

    Raises:
        ValueError: the counts are missing, negative or of another length; the ratio is not above 0.
    """

    counts: Sequence[float | int] | np.ndarray | Array | None = None
    background_ratio: float | int = 6.3313
    exact: bool = True
    predictor: ClassVar[str] = "normed"
    data_options: ClassVar[tuple[str, ...]] = ("counts",)

    def __post_init__(self):
        if not 0 < self.background_ratio < np.inf:
            raise ValueError(
                f"background_ratio of ECM is {self.background_ratio}; it must be above 0: the background's count over "
                "the sum of the classes'"
            )
        meaning = "the training set's instances of each class [C], or [C + 1] with the background's count last"
        lengths = (self.num_classes, self.num_classes + 1)
        counts = np.asarray(class_statistic(self, "counts", meaning, lengths))
        counts = np.where(counts == 0, 1, counts)
        if len(counts) == self.num_classes:
            counts = np.append(counts, self.background_ratio * counts.sum())
        object.__setattr__(self, "counts", tuple(counts.tolist()))

    @property
    def class_weights(self) -> Float[np.ndarray, " Q"]:
        """k_c, as float64."""
        counts = np.asarray(self.counts, np.float64 if self.exact else np.float32)
        odds = (counts.sum() - counts) / counts
        published = (odds * np.log((1 + odds) / odds)).astype(np.float64)
        if not self.exact:
            return published
        # In float64 the published expression is good to odds * 1e-16; it is kept where that is little.
        return np.where(odds < LARGE_ODDS, published, odds * np.log1p(1 / odds))

    @property
    def margins(self) -> Float[np.ndarray, " Q"]:
        """What is added to twice the logits."""
        counts = np.asarray(self.counts)
        return 0.25 * np.log(counts / (counts.sum() - counts))

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
        # The published program exponentiates logits and divides, which overflows beyond 51; this is the same number.
        shifted = 2 * logits + self.margins.astype(logits.dtype)
        entries = sigmoid_cross_entropy(shifted, binary_targets(labels, self.num_outputs))
        return sum_over_rows(entries * self.class_weights.astype(logits.dtype), valid, axis_name), state

    def activation(self, logits: Float[Array, "N Q"]) -> Float[Array, "N C"]:
        """sigmoid(class) * (1 - sigmoid(background))."""
        return scores_beside_background(logits)
