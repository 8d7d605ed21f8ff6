"""Which images an epoch shows and how often: pure functions of the seed and the epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64

_EPOCH_STREAM = 1


def repeat_factors(
    image_categories: Sequence[Sequence[int] | np.ndarray], threshold: float | int, count_empty: bool = False
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
    pairs = _Pairs.of(image_categories)
    factors = _image_factors(pairs, pairs.image_shares(), threshold)
    empty = np.bincount(pairs.images, minlength=pairs.num_images) == 0
    if count_empty and empty.any():
        factors[empty] = max(1.0, np.sqrt(threshold / np.mean(empty)))
    return factors


def instance_aware_factors(
    image_categories: Sequence[Sequence[int] | np.ndarray], threshold: float | int
) -> Float64[np.ndarray, "I"]:
    """As `repeat_factors`, with the geometric mean of a category's share of the images and its share of the objects.

    Categories of many images but few objects are repeated more, those of few images with many objects less (Yaman et
    al. 2023, Instance-aware repeat factor sampling, equation 3).

    Args:
        image_categories: the category of every object in each image, so that those of several objects recur.
        threshold: in the unit of that mean.

    Raises:
        ValueError: the threshold is negative or not a number.
    """
    pairs = _Pairs.of(image_categories)
    return _image_factors(pairs, np.sqrt(pairs.image_shares() * pairs.object_shares()), threshold)


@dataclass(frozen=True)
class _Pairs:
    """The image and the category of each object; categories renumbered without gaps."""

    images: np.ndarray
    categories: np.ndarray
    num_images: int
    num_categories: int

    @classmethod
    def of(cls, image_categories: Sequence[Sequence[int] | np.ndarray]) -> "_Pairs":
        lengths = np.array([len(categories) for categories in image_categories], np.int64)
        every = [np.zeros(0, np.int64), *(np.asarray(categories, np.int64) for categories in image_categories)]
        values, categories = np.unique(np.concatenate(every), return_inverse=True)
        return cls(np.repeat(np.arange(len(lengths)), lengths), categories, len(lengths), len(values))

    def distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """Image and category of each, once."""
        return np.divmod(np.unique(self.images * self.num_categories + self.categories), max(self.num_categories, 1))

    def image_shares(self) -> np.ndarray:
        """Share of the images in which each category occurs."""
        return np.bincount(self.distinct()[1], minlength=self.num_categories) / max(self.num_images, 1)

    def object_shares(self) -> np.ndarray:
        """Share of the objects that are of each category."""
        return np.bincount(self.categories, minlength=self.num_categories) / max(len(self.categories), 1)


def _image_factors(pairs: _Pairs, frequencies: np.ndarray, threshold: float | int) -> np.ndarray:
    if not 0 <= threshold < np.inf:
        raise ValueError(f"the threshold of repeat factor sampling is {threshold}; it must be 0 or more, and finite")
    factors = np.ones(pairs.num_images)
    np.maximum.at(factors, pairs.images, np.sqrt(threshold / frequencies)[pairs.categories])
    return factors


@runtime_checkable
class Sampler(Protocol):
    """Draws the images of epochs."""

    mean_length: float
    """Images an epoch shows on average."""

    def epoch(self, seed: int, epoch: int) -> Int64[np.ndarray, "N"]:
        """The images of an epoch in random order; the same for the same seed and epoch, which counts from 0."""
        ...


class RepeatSampler:
    """Shows each image as often as its factor says."""

    def __init__(self, factors: Float64[np.ndarray, "I"], rounding: str):
        """See `epoch_indices` for the arguments and errors."""
        _check_rounding(rounding)
        self.factors = factors
        self._rounding = rounding
        self.mean_length = float(np.ceil(factors).sum() if rounding == "ceil" else factors.sum())

    def epoch(self, seed: int, epoch: int) -> Int64[np.ndarray, "N"]:
        return epoch_indices(self.factors, self._rounding, seed, epoch)


class CategorySampler:
    """Shows every category equally often, to within one; an epoch has as many images as the data set.

    Each category takes its images in a random order, and from the start again in another one when all have been shown.
    With `by_objects` it takes its objects instead, each of which stands for its image.
    """

    def __init__(self, image_categories: Sequence[Sequence[int] | np.ndarray], by_objects: bool):
        """Takes the category of every object in each image.

        Raises:
            ValueError: there are no objects.
        """
        pairs = _Pairs.of(image_categories)
        images, categories = (pairs.images, pairs.categories) if by_objects else pairs.distinct()
        if not len(images):
            raise ValueError("there are no objects whose categories could be drawn")
        order = np.argsort(categories, kind="stable")
        self._members = images[order]
        self._starts = np.searchsorted(categories[order], np.arange(pairs.num_categories + 1))
        self._length = pairs.num_images
        self.mean_length = float(pairs.num_images)

    def epoch(self, seed: int, epoch: int) -> Int64[np.ndarray, "N"]:
        rng = np.random.default_rng([seed, epoch, _EPOCH_STREAM])
        num_categories = len(self._starts) - 1
        times = np.full(num_categories, self._length // num_categories)
        times[rng.permutation(num_categories)[: self._length % num_categories]] += 1
        drawn = [np.zeros(0, np.int64)]
        for start, stop, count in zip(self._starts[:-1], self._starts[1:], times, strict=True):
            members = self._members[start:stop]
            rounds = [rng.permutation(members) for _ in range(-(-count // len(members)))]
            drawn.append(np.concatenate([np.zeros(0, np.int64), *rounds])[:count])
        return rng.permutation(np.concatenate(drawn))


def make_sampler(settings: Any, image_categories: Sequence[Sequence[int] | np.ndarray]) -> Sampler:
    """The sampler that config.sampler describes.

    `random` shows each image once. `repeat_factor` and `instance_aware` repeat images by the factors of
    `repeat_factors` and `instance_aware_factors`. `class_aware` draws a category and then an image that has it, both
    evenly (Shen et al. 2016, Relay backpropagation; the image level of SimCal, Wang et al. 2020). `bi_level` draws a
    category and then an object of it, both evenly, so that images with many objects of a category come more often.

    Args:
        settings: config.sampler.
        image_categories: the category of every object in each image.

    Raises:
        ValueError: an unknown name or rounding; a threshold below 0.
    """
    if settings.name == "random":
        return RepeatSampler(np.ones(len(image_categories)), settings.rounding)
    if settings.name == "repeat_factor":
        return RepeatSampler(repeat_factors(image_categories, settings.threshold), settings.rounding)
    if settings.name == "instance_aware":
        return RepeatSampler(instance_aware_factors(image_categories, settings.threshold), settings.rounding)
    if settings.name in ("class_aware", "bi_level"):
        return CategorySampler(image_categories, by_objects=settings.name == "bi_level")
    raise ValueError(
        f"config.sampler.name is {settings.name!r}; it must be random, repeat_factor, instance_aware, class_aware or "
        "bi_level"
    )


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
    _check_rounding(rounding)
    rng = np.random.default_rng([seed, epoch, _EPOCH_STREAM])
    if rounding == "ceil":
        times = np.ceil(factors)
    else:
        times = np.floor(factors)
        times += rng.random(len(factors)) < factors - times
    return rng.permutation(np.repeat(np.arange(len(factors), dtype=np.int64), times.astype(np.int64)))


def _check_rounding(rounding: str) -> None:
    if rounding not in ("ceil", "stochastic"):
        raise ValueError(f"config.sampler.rounding is {rounding!r}; it must be ceil or stochastic")
