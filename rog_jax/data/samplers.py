"""Which images an epoch shows and how often: pure functions of the seed and the epoch."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

_EPOCH_STREAM = 1


def repeat_factors(
    image_categories: Sequence[Sequence[int] | np.ndarray], threshold: float, count_empty: bool = False
) -> Float64[np.ndarray, "I"]:
    """How often an epoch of repeat factor sampling shows each image (LVIS, Gupta et al. 2019, section 4.2).

    With f the share of the images in which a category occurs, its factor is max(1, sqrt(threshold / f)), and an image's
    factor is the greatest of its categories'.

    Args:
        image_categories: the categories in each image, in any order and number.
        threshold: share of the images below which a category's images are repeated.
        count_empty: treats "no object" as one more category; otherwise images without objects have factor 1.

    Raises:
        ValueError: the threshold is negative or not a number.
    """
    if threshold < 0 or np.isnan(threshold):
        raise ValueError(f"the threshold of repeat factor sampling is {threshold}; it must be 0 or more")
    lengths = np.array([len(categories) for categories in image_categories], np.int64)
    num_images = len(lengths)
    factors = np.ones(num_images)
    if lengths.sum() > 0:
        every = np.concatenate([np.asarray(categories, np.int64) for categories in image_categories])
        _, categories = np.unique(every, return_inverse=True)
        images = np.repeat(np.arange(num_images), lengths)
        num_categories = int(categories.max()) + 1
        pairs = np.unique(images * num_categories + categories)
        frequency = np.bincount(pairs % num_categories, minlength=num_categories) / num_images
        np.maximum.at(factors, images, np.sqrt(threshold / frequency)[categories])
    if count_empty and (lengths == 0).any():
        factors[lengths == 0] = max(1.0, np.sqrt(threshold / np.mean(lengths == 0)))
    return factors


def sampling_factors(
    name: str, threshold: float, image_categories: Sequence[Sequence[int] | np.ndarray]
) -> Float64[np.ndarray, "I"]:
    """How often an epoch shows each image on average, for the sampler called `name` in config.sampler."""
    if name == "random":
        return np.ones(len(image_categories))
    if name == "repeat_factor":
        return repeat_factors(image_categories, threshold)
    raise ValueError(f"config.sampler.name is {name!r}; it must be random or repeat_factor")


def epoch_indices(factors: Float64[np.ndarray, "I"], rounding: str, seed: int, epoch: int) -> Int64[np.ndarray, "N"]:
    """The images of an epoch in random order; the same for the same seed and epoch.

    Args:
        factors: how often each image is shown on average.
        rounding: "ceil" shows image i exactly ceil(factor) times (MMDetection); "stochastic" floor(factor) times and
            once more with the probability of the rest, drawn anew in every epoch (Detectron2).
        seed: of the run.
        epoch: 0 for the first.

    Raises:
        ValueError: unknown rounding.
    """
    rng = np.random.default_rng([seed, epoch, _EPOCH_STREAM])
    if rounding == "ceil":
        times = np.ceil(factors)
    elif rounding == "stochastic":
        times = np.floor(factors)
        times += rng.random(len(factors)) < factors - times
    else:
        raise ValueError(f"config.sampler.rounding is {rounding!r}; it must be ceil or stochastic")
    return rng.permutation(np.repeat(np.arange(len(factors), dtype=np.int64), times.astype(np.int64)))
