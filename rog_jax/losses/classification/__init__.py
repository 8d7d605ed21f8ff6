"""Object-level classification losses, one family a file, behind one function."""

from typing import Any

from rog_jax.losses.classification.base import ClassificationLoss
from rog_jax.losses.classification.droploss import GOL, DropLoss
from rog_jax.losses.classification.ecm import ECM
from rog_jax.losses.classification.eql import EQL
from rog_jax.losses.classification.eqlv2 import EQLv2
from rog_jax.losses.classification.federated import Federated
from rog_jax.losses.classification.gumbel import EQLGumbel, GumbelCE
from rog_jax.losses.classification.loce import LOCE
from rog_jax.losses.classification.ranking_only import RankingOnly
from rog_jax.losses.classification.seesaw import Seesaw
from rog_jax.losses.classification.sigmoid_ce import SigmoidCE
from rog_jax.losses.classification.softmax_ce import SoftmaxCE

CLASSIFICATION_LOSSES: dict[str, type[ClassificationLoss]] = {
    "sigmoid_ce": SigmoidCE,
    "softmax_ce": SoftmaxCE,
    "eql": EQL,
    "eqlv2": EQLv2,
    "seesaw": Seesaw,
    "ecm": ECM,
    "gol": GOL,
    "droploss": DropLoss,
    "eql_gumbel": EQLGumbel,
    "gumbel_ce": GumbelCE,
    "loce": LOCE,
    "federated": Federated,
    "none": RankingOnly,
}


def classification_loss(name: str, num_classes: int, **options: Any) -> ClassificationLoss:
    """The classification loss of that name for C foreground classes.

    Args:
        name: a key of `CLASSIFICATION_LOSSES`; "none" leaves the classifier to the ranking loss.
        num_classes: C.
        options: of the loss's class. Those that it lists in `data_options` have no default: they are statistics of the
            training set.

    Raises:
        ValueError: for an unknown name, and for a missing or unfit statistic; the message lists what there is.
    """
    if name not in CLASSIFICATION_LOSSES:
        raise ValueError(f"unknown classification loss {name!r}; there are {', '.join(CLASSIFICATION_LOSSES)}")
    return CLASSIFICATION_LOSSES[name](num_classes=num_classes, **options)


__all__ = ["CLASSIFICATION_LOSSES", "ClassificationLoss", "classification_loss"]
