"""What every object-level classification loss has in common."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from rog_jax.losses.conventions import loss_dtype

State = Any
"""A pytree of arrays that a loss carries from step to step; an empty tuple where it has no memory."""

LOW_PRIOR_BIAS = -float(np.log(999))
"""Bias with which each sigmoid starts at 0.001, as EQL and EQLv2 begin."""


@dataclass(frozen=True)
class ClassificationLoss(ABC):
    """A classification loss with the classifier it wants and the scores it gives at inference.

    Instances are hashable and compare by their settings: class statistics are kept as tuples.

    Attributes:
        num_classes: C, foreground classes; label C is the background.
        predictor: kind of the last layer, "linear" or "normed".
        weight_init: of the classifier's weights, ("normal", standard deviation) or ("constant", value).
        bias_init: of its biases, one number for all Q columns.
        data_options: options of the constructor that the training set determines: `frequency` (share of the training
            images that have the class), `counts` (instances), `image_counts` (images), each [C].
    """

    num_classes: int
    predictor: ClassVar[str] = "linear"
    weight_init: ClassVar[tuple[str, float]] = ("normal", 0.01)
    bias_init: ClassVar[float] = 0.0
    data_options: ClassVar[tuple[str, ...]] = ()

    @property
    def num_outputs(self) -> int:
        """Q, the classifier's columns: the classes and, last, the background."""
        return self.num_classes + 1

    @property
    def extra_inputs(self) -> tuple[str, ...]:
        """Names of the further inputs that training passes to the call."""
        return ()

    @property
    def state_is_local(self) -> bool:
        """Whether each device of a mesh keeps a state of its own; otherwise all have the same."""
        return False

    def init_state(self) -> State:
        """The state before the first step. Sums and means are of JAX's default float type, counts int32."""
        return ()

    def foreground_logits(self, logits: Float[Array | np.ndarray, "N Q"]) -> Float[Array, "N C"]:
        """The columns that a ranking loss ranks, of the logits' own type.

        Raises:
            ValueError: the logits have not `num_outputs` columns.
        """
        logits = jnp.asarray(logits)
        self._check_columns(logits)
        return logits[:, : self.num_classes]

    def scores(self, logits: Float[Array | np.ndarray, "N Q"]) -> Float[Array, "N C"]:
        """Scores of the foreground classes at inference: float64 for float64 logits, float32 for all others.

        Raises:
            ValueError: the logits have not `num_outputs` columns.
        """
        logits = jnp.asarray(logits)
        self._check_columns(logits)
        return self.activation(logits.astype(loss_dtype(logits)))

    @abstractmethod
    def activation(self, logits: Float[Array, "N Q"]) -> Float[Array, "N C"]:
        """What makes `scores` of logits that have the type of the loss."""

    @abstractmethod
    def __call__(
        self,
        logits: Float[Array | np.ndarray, "N Q"],
        labels: Int[Array | np.ndarray, " N"],
        weights: Num[Array | np.ndarray, " N"] | None,
        state: State,
        axis_name: str | None = None,
        **inputs: Any,
    ) -> tuple[Float[Array, ""], State]:
        """The loss of a batch, and the next state.

        Args:
            logits: raw outputs of the classifier; computed with in float32 unless float64.
            labels: class of each row; C is the background, -1 padding, which takes part in nothing.
            weights: of the rows, 1 for all if None; some losses ignore them, as their authors do.
            state: from `init_state` or the last call.
            axis_name: mesh axis of the devices that share a batch: normalisers become their means over it, so that
                the mean of the devices' values is the loss of the joined batch, and states are summed.
            inputs: what only some losses need, by name: those of `extra_inputs` and what their class says.

        Returns:
            Value, of the type that is computed in, and next state, whose types are those of the state before.

        Raises:
            TypeError: an input that this loss does not know.
            ValueError: the logits have not `num_outputs` columns, or labels or weights another number of rows.
        """

    def prepare(
        self, logits: Array | np.ndarray, labels: Array | np.ndarray, weights: Array | np.ndarray | None = None
    ) -> tuple[Float[Array, "N Q"], Int[Array, " N"], Bool[Array, " N"]]:
        """Logits in the type of the loss with padding rows set to 0, labels, and the rows that are no padding.

        The weights are only checked, since a loss that ignores them should not hide that they fit no row.
        """
        logits, labels = jnp.asarray(logits), jnp.asarray(labels)
        self._check_columns(logits)
        if labels.shape != logits.shape[:1]:
            raise ValueError(
                f"{type(self).__name__} takes logits [N, {self.num_outputs}] and labels [N], "
                f"got {logits.shape} and {labels.shape}"
            )
        if weights is not None and np.shape(weights) != labels.shape:
            raise ValueError(
                f"{type(self).__name__} takes one weight a row, [{len(labels)}], or None for 1 each; "
                f"got {np.shape(weights)}"
            )
        valid = labels >= 0
        logits = logits.astype(loss_dtype(logits))
        # Not multiplied by 0 later: whatever stands in a padding row, even infinity, must not reach the gradient.
        return jnp.where(valid[:, None], logits, 0), labels, valid

    def _check_columns(self, logits: Array) -> None:
        if logits.ndim != 2 or logits.shape[1] != self.num_outputs:
            raise ValueError(
                f"{type(self).__name__} for {self.num_classes} classes takes logits [N, {self.num_outputs}], "
                f"got {logits.shape}"
            )


def row_weights(
    weights: Num[Array | np.ndarray, " N"] | None, valid: Bool[Array, " N"], dtype: Any
) -> Float[Array, " N"]:
    """Weights of the rows, 0 for padding."""
    if weights is None:
        return valid.astype(dtype)
    return jnp.where(valid, jnp.asarray(weights), 0).astype(dtype)


def class_statistic(owner: Any, option: str, meaning: str, lengths: tuple[int, ...]) -> tuple[float, ...]:
    """An option with one number a class, checked, as a tuple (hashable, so that a loss may be part of a compiled key).

    Args:
        owner: the loss; its attribute of that name is read.
        option: its name.
        meaning: for the message: what the numbers are and where they come from.
        lengths: numbers that are accepted.

    Raises:
        ValueError: missing, of another length, negative or not finite.
    """
    values, name = getattr(owner, option), type(owner).__name__
    if values is None:
        raise ValueError(f"{name} needs {option}=, {meaning}")
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) not in lengths:
        wanted = " or ".join(map(str, lengths))
        raise ValueError(f"{option} of {name} must have {wanted} numbers, got shape {values.shape}; it is {meaning}")
    if not np.all(np.isfinite(values) & (values >= 0)):
        worst = int(np.flatnonzero(~(np.isfinite(values) & (values >= 0)))[0])
        raise ValueError(f"{option} of {name} is {values[worst]} for class {worst}; it is {meaning}")
    return tuple(values.tolist())
