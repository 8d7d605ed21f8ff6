"""The long tail of a synthetic set: how many images each category is in, and which categories share an image."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from rog_jax.data.annotations import FREQUENCY_LIMITS

# Training image counts of LVIS v1's 1,203 categories at the middles of 48 equal quantiles, most frequent first.
LVIS_V1_COUNTS = (
    *(1934, 1905, 1871, 1758, 1469, 1127, 858, 673, 521, 364, 297, 236, 199, 151, 128, 109),
    *(95, 81, 71, 65, 56, 49, 45, 41, 36, 32, 29, 26, 24, 19, 17, 15, 13, 12, 11),
    *(10, 8, 7, 6, 5, 4, 4, 3, 2, 2, 1, 1, 1),
)
MAX_IMAGE_SHARE = 0.6
"""The most frequent category is in at most this share of the images."""
DISTINCT_SHARE = 0.85
"""Of all objects, the share that may be the first of their category in their image; the others repeat a category."""

Generator = np.random.Generator


def zipf_counts(exponent: float, num_categories: int, num_images: int, num_objects: int) -> Int[np.ndarray, "C"]:
    """Image counts proportional to 1 / rank ** exponent, as large as the images allow; never below 1.

    Raises:
        ValueError: the images are too few for each category to be in one.
    """
    law = MAX_IMAGE_SHARE * num_images / np.arange(1, num_categories + 1) ** exponent
    return _largest_that_fits(lambda factor: law * factor, num_images, num_objects)


def fit_counts(
    counts: Int[np.ndarray, "K"], num_categories: int, num_images: int, num_objects: int
) -> Int[np.ndarray, "C"]:
    """Image counts for a small set with the shape of a large one's, most frequent first.

    The counts are read at the middles of `num_categories` equal quantiles. Where the images do not suffice, first the
    part of each frequent count above 100 shrinks, so that the shares of rare, common and frequent categories stay; only
    if that does not do, all counts n become n ** power with one power below 1, so that the logarithms keep their shape.

    Args:
        counts: training image counts of the set to imitate, in any order, each at least 1.
        num_categories: C.
        num_images: no category is in more than MAX_IMAGE_SHARE of them.
        num_objects: objects in all images; the counts sum to at most DISTINCT_SHARE of them.

    Raises:
        ValueError: the images are too few for each category to be in one.
    """
    ordered = np.sort(np.asarray(counts))[::-1]
    middles = (np.arange(num_categories) + 0.5) * len(ordered) / num_categories
    wanted = ordered[middles.astype(int)].astype(float)
    most, budget = MAX_IMAGE_SHARE * num_images, DISTINCT_SHARE * num_objects
    frequent = FREQUENCY_LIMITS[1] + 1
    base, excess = np.minimum(wanted, frequent), np.maximum(wanted - frequent, 0)
    if base.sum() > budget or base.max() > most:
        return _largest_that_fits(lambda power: wanted**power, num_images, num_objects)
    scale = min(1.0, (budget - base.sum()) / max(excess.sum(), 1), (most - base.max()) / max(excess.max(), 1))
    return np.floor(base + excess * scale).astype(np.int64)


def _largest_that_fits(curve: Callable[[float], np.ndarray], num_images: int, num_objects: int) -> Int[np.ndarray, "C"]:
    """`curve(x)`, rounded down but never below 1, at the largest x of [0, 1] for which the images suffice.

    The curve rises with x, and at 0 it is at most 1 everywhere.
    """
    most, budget = MAX_IMAGE_SHARE * num_images, DISTINCT_SHARE * num_objects

    def counts(x: float) -> np.ndarray:
        return np.maximum(1, np.floor(curve(x) + 1e-9)).astype(np.int64)

    def fits(x: float) -> bool:
        return bool(counts(x).sum() <= budget and counts(x).max() <= most)

    if not fits(0.0):
        raise ValueError(
            f"{num_images} images with {num_objects} objects are too few for {len(counts(0.0))} categories: "
            "ask for more training images, more objects an image, or fewer categories."
        )
    low, high = 0.0, 1.0
    if fits(high):
        return counts(high)
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return counts(low)


def assign_categories(
    image_counts: Int[np.ndarray, "C"], objects_per_image: Int[np.ndarray, "I"], rng: Generator
) -> list[Int[np.ndarray, "n"]]:
    """The categories of the objects of each image, so that each category is in exactly its number of images.

    An image's first objects are of different categories; the rest repeat them, a category as likely as it is frequent.

    Args:
        image_counts: images that each category is in.
        objects_per_image: objects in each image, at least 1.
        rng: decides.

    Returns:
        for each image its `objects_per_image` categories, shuffled.

    Raises:
        ValueError: a category is to be in more images than have room, or images are left without any.
    """
    if image_counts.sum() < len(objects_per_image):
        raise ValueError(
            f"the image counts sum to {image_counts.sum()}, which leaves some of the {len(objects_per_image)} images "
            "without an object: ask for fewer training images, more categories, or a flatter tail."
        )
    room = objects_per_image.astype(np.int64)
    chosen: list[list[int]] = [[] for _ in room]
    for category in np.argsort(-image_counts, kind="stable"):
        count = image_counts[category]
        if np.count_nonzero(room) < count:
            raise ValueError(
                f"category {category} is to be in {count} images, but only {np.count_nonzero(room)} have room: "
                "ask for more objects an image, more training images, or lower counts."
            )
        # A weighted draw without replacement: the images with the most room are the likeliest.
        keys = np.where(room > 0, rng.random(len(room)) ** (1 / np.maximum(room, 1)), -1.0)
        for image in np.sort(np.argpartition(-keys, count - 1)[:count]):
            chosen[image].append(int(category))
            room[image] -= 1
    _fill_empty(chosen, rng)
    return [
        _with_repeats(np.array(kinds), total, image_counts, rng)
        for kinds, total in zip(chosen, objects_per_image.tolist(), strict=True)
    ]


def _fill_empty(chosen: list[list[int]], rng: Generator) -> None:
    """Moves one category from images that have several to each image that has none; counts stay as they are."""
    givers = [i for i in rng.permutation(len(chosen)) if len(chosen[i]) > 1]
    for kinds in chosen:
        if not kinds:
            giver = givers.pop()
            kinds.append(chosen[giver].pop(rng.integers(len(chosen[giver]))))
            if len(chosen[giver]) > 1:
                givers.insert(0, giver)


def _with_repeats(kinds: np.ndarray, total: int, image_counts: np.ndarray, rng: Generator) -> Int[np.ndarray, "n"]:
    shares = image_counts[kinds] / image_counts[kinds].sum()
    return rng.permutation(np.concatenate([kinds, rng.choice(kinds, total - len(kinds), p=shares)]))


def balanced_categories(
    num_categories: int, objects_per_image: Int[np.ndarray, "I"], minimum: int, rng: Generator
) -> list[Int[np.ndarray, "n"]]:
    """The categories of the objects of each image, every category as often as any other to within one object.

    Raises:
        ValueError: there are too few objects for `minimum` of each category.
    """
    total = int(objects_per_image.sum())
    if total < num_categories * minimum:
        raise ValueError(
            f"{len(objects_per_image)} validation images hold {total} objects, too few for {minimum} of each of "
            f"{num_categories} categories: ask for more validation images or fewer instances of a category."
        )
    pool = rng.permutation(np.arange(total) % num_categories)
    return np.split(pool, np.cumsum(objects_per_image)[:-1])
