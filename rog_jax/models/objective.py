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
        ValueError: the loss is unknown, an option has no meaning, or counts of the training set are needed and there
            are none.
    """
    name = settings.classification
    options: dict[str, Any] = dict(settings.get(name, {}))
    counted = CLASSIFICATION_LOSSES[name].data_options if name in CLASSIFICATION_LOSSES else ()
    if statistics is not None:
        options |= {option: _statistic(option, settings.frequency, statistics) for option in counted}
    try:
        return classification_loss(name, num_classes=num_classes, **options)
    except ValueError as error:
        if not counted or statistics is not None:
            raise
        # Whether the counts are needed may depend on the loss's options: the loss itself says so.
        raise ValueError(
            f"config.loss.classification={name!r} without the counts of a training set: {error}"
        ) from error


def extra_inputs(settings: ConfigDict | FrozenConfigDict) -> tuple[str, ...]:
    """What the configured loss takes besides logits and labels (`ClassificationLoss.extra_inputs`).

    Args:
        settings: `config.loss`.

    Raises:
        ValueError: the loss is unknown, or an option has no meaning.
    """
    return configured_loss(settings, 1, ClassStatistics((1,), (1,), 1)).extra_inputs  # of any number of classes


def uses_memory(config: ConfigDict | FrozenConfigDict) -> bool:
    """Whether training keeps a feature memory: where the loss takes rows from one, unless its size is set to 0."""
    return config.loss.memory.slots > 0 and "memory_logits" in extra_inputs(config.loss)


def _statistic(option: str, frequency: str, statistics: ClassStatistics) -> np.ndarray:
    """One number a class, as `ClassificationLoss.data_options` describes them."""
    of = {
        "image_counts": statistics.image_counts,
        "counts": statistics.instance_counts,
        "frequency": statistics.image_shares if frequency == "images" else statistics.instance_counts,
    }
    return np.asarray(of[option])
