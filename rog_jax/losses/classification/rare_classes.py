"""What the losses that leave out negatives of rare classes have in common."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from rog_jax.losses.classification.base import LOW_PRIOR_BIAS, ClassificationLoss, State, class_statistic
from rog_jax.losses.classification.binary import binary_targets, sigmoid_cross_entropy, sum_over_rows


@dataclass(frozen=True)
class RareClassLoss(ClassificationLoss):
    """Binary cross-entropy of C columns, without a background column, that leaves out some negatives of rare classes.

    The sum over the entries that are left is divided by the number of rows; row weights are ignored.

    Attributes:
        frequency: [C], share of the training images that have the class. Another unit serves as well, if `threshold` is
            in the same (OpenImages: instances, threshold 1652).
        threshold: classes with a lower frequency are rare. 0.0011 makes 815 of LVIS v1's 1,203 classes rare.
        cross_entropy: of logits and targets, entry by entry.
        probability: of a logit, the score at inference.

    Raises:
        ValueError: the frequencies are missing, negative, or not C.
    """

    frequency: Sequence[float | int] | np.ndarray | Array | None = None
    threshold: float | int = 0.0011
    bias_init: ClassVar[float] = LOW_PRIOR_BIAS
    data_options: ClassVar[tuple[str, ...]] = ("frequency",)
    cross_entropy: ClassVar[Callable] = staticmethod(sigmoid_cross_entropy)
    probability: ClassVar[Callable] = staticmethod(jax.nn.sigmoid)

    def __post_init__(self):
        meaning = "the share of the training images that have each class [C]: image counts over the number of images"
        frequency = class_statistic(self, "frequency", meaning, (self.num_classes,))
        object.__setattr__(self, "frequency", frequency)

    @property
    def num_outputs(self) -> int:
        """Q = C: a background row has the target 0 in every column."""
        return self.num_classes

    @property
    def rare(self) -> Bool[np.ndarray, " C"]:
        """Which classes are rare."""
        return np.asarray(self.frequency) < self.threshold

    @abstractmethod
    def left_out(
        self, labels: Int[Array, " N"], axis_name: str | None, dtype: Any, **inputs: Any
    ) -> Bool[Array, "N C"]:
        """Entries that count as no negatives; the row's own class is counted whatever this says."""

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
        logits, labels, valid = self.prepare(logits, labels, weights)
        targets = binary_targets(labels, self.num_classes)
        counted = targets | ~self.left_out(labels, axis_name, logits.dtype, **inputs)
        entries = jnp.where(counted, self.cross_entropy(logits, targets), 0)
        return sum_over_rows(entries, valid, axis_name), state

    def activation(self, logits: Float[Array, "N Q"]) -> Float[Array, "N C"]:
        """The probability of each class for itself."""
        return self.probability(logits)
