"""Cost of the static top-k before the class-wise NMS: the recipes' candidates, and as many as are always enough."""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

from configs import common
from rog_jax.models.box_head import detect
from rog_jax.models.recipe import with_recipe

PROPOSALS, CLASSES, OBJECTS, SIDE = 1000, 1203, 30, 800
KINDS = {"long tail": (-9.0, 1.5), "after ranking": (-4.0, 1.0)}
"""Mean and standard deviation of the logits of classes that are not the object's own. After a ranking loss most scores
pass the threshold of 1e-4."""


def lvis_like(kind: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores [R, C], deltas [R, 1, 4] and proposals [R, 4] of one image: many proposals on each of a few objects.

    Each object has a class and a few look-alikes, whose scores are high on all of its proposals; classes are drawn from
    a Zipf law.
    """
    rng = np.random.default_rng(seed)
    mean, std = KINDS[kind]
    corner, side = rng.uniform(0, 0.6 * SIDE, (OBJECTS, 2)), rng.uniform(30, 300, (OBJECTS, 2))
    objects = np.concatenate([corner, corner + side], axis=1)
    owner = rng.integers(0, OBJECTS, PROPOSALS)
    jitter = rng.normal(0, 0.12, (PROPOSALS, 4)) * np.tile(side[owner], 2)
    proposals = np.clip(objects[owner] + jitter, 0, SIDE).astype(np.float32)
    weights = 1 / np.arange(1, CLASSES + 1)
    classes = rng.choice(CLASSES, (OBJECTS, 6), p=weights / weights.sum())
    logits = rng.normal(mean, std, (PROPOSALS, CLASSES))
    for rank, height in enumerate((3, 0, -1, -2, -2, -3)):
        logits[np.arange(PROPOSALS), classes[owner, rank]] = height + rng.normal(0, 1.5, PROPOSALS)
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    return scores, np.zeros((PROPOSALS, 1, 4), np.float32), proposals


def guaranteed_candidates(max_detections: int, proposals: int, num_classes: int) -> int:
    """The least `test.pre_nms` that gives the detections of the unlimited procedure for any scores.

    While fewer than `max_detections` boxes are kept, every candidate looked at is of a class that has kept one, and
    a class has at most one candidate a proposal. This holds where `test.min_size` drops no box, as in the recipes; with
    a `min_size` of 0 or more (imported detectors) only all proposals times all classes are certain.
    """
    return min((max_detections - 1) * proposals + 1, proposals * num_classes)


def benchmark_detect(repeats: int) -> dict[str, Any]:
    """Milliseconds an image with the recipes' number of candidates and with the guaranteed one, by kind of scores."""
    test = with_recipe(common.get_config()).test
    counts = {"default": test.pre_nms, "guaranteed": guaranteed_candidates(test.max_detections, PROPOSALS, CLASSES)}
    size = jnp.full((1, 2), float(SIDE))
    valid = jnp.ones((1, PROPOSALS), bool)
    figures: dict[str, Any] = {"candidates": counts}
    for kind in KINDS:
        arrays = [jnp.asarray(array)[None] for array in lvis_like(kind)]
        for name, count in counts.items():
            settings = FrozenConfigDict({**test, "pre_nms": count})

            def run(scores, deltas, proposals, settings=settings):
                return detect(scores, deltas, proposals, valid, size, (0.1, 0.1, 0.2, 0.2), settings)

            figures[f"{kind}, {name}, ms"] = 1e3 * _median(jax.jit(run), arrays, repeats)
    return figures


def _median(function: Any, arguments: list, repeats: int) -> float:
    jax.block_until_ready(function(*arguments))
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
