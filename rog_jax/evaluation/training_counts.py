"""How often each category occurs in the training set, where the validation file does not say it."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from rog_jax.data.annotations import DataError, frequency_group
from rog_jax.data.sources import TRAIN, frequency_limits, load_split
from rog_jax.evaluation.truth import Truth


class TrainingCounts(NamedTuple):
    """Of each category of the training set, by rising id.

    Attributes:
        category_ids: int [C].
        images: int [C], images that have it.
        instances: int [C].
    """

    category_ids: Int[np.ndarray, " C"]
    images: Int[np.ndarray, " C"]
    instances: Int[np.ndarray, " C"]


def training_counts(data: Any, truth: Truth | None = None) -> TrainingCounts:
    """Counts from the validation file, which in LVIS's format holds those of training, or from the training set.

    Args:
        data: config.data.
        truth: the validation file, if it is a json.

    Raises:
        DataError: the file does not say, and the training set is missing or wrong.
    """
    keys = ("image_count", "instance_count")
    if truth is not None and all(isinstance(found.get(key), int) for found in truth.categories for key in keys):
        images, instances = (np.array([found[key] for found in truth.categories], np.int64) for key in keys)
        return TrainingCounts(truth.category_ids, images, instances)
    training = load_split(data, TRAIN)
    return TrainingCounts(training.category_ids, training.image_counts, training.instance_counts)


def with_training_counts(truth: Truth, data: Any) -> Truth:
    """The truth with counts and frequency groups filled in where its file lacks them and the training set is there.

    The file's own frequency counts first, then a group by its own or the training set's number of images.
    """
    keys = ("image_count", "instance_count", "frequency")
    if all(category.get(key) not in (None, "") for category in truth.categories for key in keys):
        return truth
    limits = frequency_limits(data)
    try:
        counts = training_counts(data, truth)
    except DataError:  # nobody needs the training set to evaluate a results file
        return dataclasses.replace(truth, categories=[_completed(found, {}, limits) for found in truth.categories])
    counted = {
        category_id: {"image_count": images, "instance_count": instances}
        for category_id, images, instances in zip(*(column.tolist() for column in counts), strict=True)
    }
    categories = [_completed(category, counted.get(category["id"], {}), limits) for category in truth.categories]
    return dataclasses.replace(truth, categories=categories)


def _completed(category: dict[str, Any], counted: dict[str, int], limits: tuple[int, int]) -> dict[str, Any]:
    category = counted | category
    if not category.get("frequency") and isinstance(category.get("image_count"), int):
        category["frequency"] = frequency_group(category["image_count"], limits)
    return category
