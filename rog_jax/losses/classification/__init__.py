"""Object-level classification losses, one family a file, behind one function."""

from typing import Any

from rog_jax.losses.classification.base import ClassificationLoss
from rog_jax.losses.classification.sigmoid_ce import SigmoidCE
from rog_jax.losses.classification.softmax_ce import SoftmaxCE

CLASSIFICATION_LOSSES: dict[str, type[ClassificationLoss]] = {
    "sigmoid_ce": SigmoidCE,
    "softmax_ce": SoftmaxCE,
}


def classification_loss(name: str, num_classes: int, **options: Any) -> ClassificationLoss:
    """The classification loss of that name for C foreground classes.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    if name not in CLASSIFICATION_LOSSES:
        raise ValueError(f"unknown classification loss {name!r}; there are {', '.join(CLASSIFICATION_LOSSES)}")
    return CLASSIFICATION_LOSSES[name](num_classes=num_classes, **options)


__all__ = ["CLASSIFICATION_LOSSES", "ClassificationLoss", "classification_loss"]
