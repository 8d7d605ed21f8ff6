"""How much figures vary with the images that happen to be in a validation set: LVIS's AP of sets of images drawn anew.

A set of as many images is drawn with replacement, and each image counts as often as it was drawn. Replicates of the
same seed draw the same images for every results file of a truth, so that differences between runs can be taken
replicate by replicate.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from rog_jax.evaluation.matching import IOU_THRESHOLDS, RECALLS, Candidates, Matches, candidates, match
from rog_jax.evaluation.results_file import Results, keep_best
from rog_jax.evaluation.truth import Truth

GROUPS = ("r", "c", "f")


def drawn_images(num_images: int, replicates: int, seed: int = 0) -> Int[np.ndarray, "B I"]:
    """How often each image is in each replicate."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(num_images, np.full(num_images, 1 / num_images), size=replicates)


def bootstrap_figures(
    truth: Truth, results: Results, max_detections: int, replicates: int, seed: int = 0
) -> dict[str, Float[np.ndarray, " B"]]:
    """AP, APr, APc and APf of each replicate, in fractions of 1; NaN where it has no object of the group.

    Args:
        truth: the ground truth.
        results: of boxes or of masks.
        max_detections: best ones of an image that count; -1 for all.
        replicates: B.
        seed: of the drawing.
    """
    found = candidates(truth, keep_best(results, max_detections))
    matches = match(found)
    times = drawn_images(len(truth.image_ids), replicates, seed)
    return figures_of_draws(truth, found, matches, times)


def figures_of_draws(
    truth: Truth, found: Candidates, matches: Matches, times: Int[np.ndarray, "B I"]
) -> dict[str, Float[np.ndarray, " B"]]:
    """As `bootstrap_figures`, of given draws.

    Args:
        truth: the ground truth.
        found: detections and objects.
        matches: of these.
        times: how often each image, in the order of `truth.image_ids`, is in each replicate.
    """
    precisions = np.full((len(times), len(truth.category_ids)), np.nan)
    for label, precision in _by_category(truth, found, matches, times):
        precisions[:, label] = precision
    frequency = np.array([category["frequency"] for category in truth.categories])
    members = {"AP": frequency != "", **{f"AP{group}": frequency == group for group in GROUPS}}
    return {name: _mean(precisions[:, member]) for name, member in members.items()}


def _by_category(
    truth: Truth, found: Candidates, matches: Matches, times: Int[np.ndarray, "B I"]
) -> Iterator[tuple[int, Float[np.ndarray, " B"]]]:
    needed = ~matches.object_ignored
    image_of_object = np.searchsorted(
        truth.image_ids, np.array([truth.solid[place]["image_id"] for place in found.objects.tolist()], np.int64)
    )
    order = np.lexsort((np.arange(len(found.scores)), -found.scores, found.labels))
    for label in np.unique(found.object_labels[needed]).tolist():
        own = order[np.searchsorted(found.labels[order], label) : np.searchsorted(found.labels[order], label, "right")]
        objects = times[:, image_of_object[needed & (found.object_labels == label)]].sum(axis=1)  # [B]
        weights = times[:, found.images[own]]  # [B, M]
        counts = ~matches.ignored[:, own]  # [T, M]
        right = counts & (matches.objects[:, own] >= 0)
        parts = [_precision(weights, right[t], counts[t] & ~right[t], objects) for t in range(len(IOU_THRESHOLDS))]
        yield label, np.where(objects > 0, np.mean(parts, axis=0), np.nan)


def _precision(
    weights: Int[np.ndarray, "B M"],
    right: np.ndarray,
    wrong: np.ndarray,
    objects: Int[np.ndarray, " B"],
) -> Float[np.ndarray, " B"]:
    """The mean over 101 recalls of the best precision at that recall or a higher one, for each replicate."""
    hits, misses = (np.cumsum(weights * kind, axis=1) for kind in (right, wrong))  # [B, M]
    precision = hits / np.maximum(hits + misses, 1)
    lifted = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    lifted = np.concatenate([lifted, np.zeros((len(lifted), 1))], axis=1)  # where a recall is never reached
    recall = hits / np.maximum(objects, 1)[:, None]
    return np.array([lift[np.searchsorted(r, RECALLS)].mean() for lift, r in zip(lifted, recall, strict=True)])


def _mean(values: Float[np.ndarray, "B C"]) -> Float[np.ndarray, " B"]:
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.divide(total, known.sum(axis=1), out=np.full(len(values), np.nan), where=known.any(axis=1))
