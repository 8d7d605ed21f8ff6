"""The classification loss that a config asks for, built with the counts of the training set where it needs them."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from rog_jax.data.statistics import ClassStatistics
from rog_jax.losses.classification import CLASSIFICATION_LOSSES, ClassificationLoss, classification_loss


def configured_loss(
    settings: ConfigDict | FrozenConfigDict, num_classes: int, statistics: ClassStatistics | None
) -> ClassificationLoss:
    """The loss that `config.loss.classification` names, with the options of the section of that name.

    Args:
        settings: `config.loss`.
        num_classes: C.
        statistics: of the training set.

    Raises:
        ValueError: the loss is unknown, or is built from counts of the training set and there are none.
    """
    name = settings.classification
    options: dict[str, Any] = dict(settings.get(name, {}))
    needed = CLASSIFICATION_LOSSES[name].data_options if name in CLASSIFICATION_LOSSES else ()
    if needed and statistics is None:
        raise ValueError(f"config.loss.classification={name!r} needs the counts of a training set")
    options |= {option: _statistic(option, settings.frequency, statistics) for option in needed}
    return classification_loss(name, num_classes=num_classes, **options)


def _statistic(option: str, frequency: str, statistics: ClassStatistics) -> np.ndarray:
    """One number a class, as `ClassificationLoss.data_options` describes them."""
    of = {
        "image_counts": statistics.image_counts,
        "counts": statistics.instance_counts,
        "frequency": statistics.image_shares if frequency == "images" else statistics.instance_counts,
    }
    return np.asarray(of[option])
