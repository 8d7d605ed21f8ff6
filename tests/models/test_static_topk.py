"""The static top-k before the class-wise NMS gives the detections of the procedure without it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from configs import common
from rog_jax.models.box_head import detect
from rog_jax.models.recipe import with_recipe
from rog_jax.tools.benchmark_detect import CLASSES, PROPOSALS, SIDE, guaranteed_candidates, lvis_like

TEST = with_recipe(common.get_config()).test
STDS = (0.1, 0.1, 0.2, 0.2)


def unlimited(scores, proposals, count):
    """Best first over all (proposal, class) pairs: kept unless a kept box of its class overlaps it by more than a half.

    Returns rows and labels of the `count` kept, and how many candidates were looked at.
    """
    flat = np.flatnonzero(scores.reshape(-1) > np.float32(TEST.score_threshold))
    order = flat[np.argsort(-scores.reshape(-1)[flat], kind="stable")]
    kept: dict[int, list[int]] = {}
    found = []
    for looked_at, place in enumerate(order, 1):
        row, label = divmod(int(place), scores.shape[1])
        if not (overlaps(proposals[row], proposals[kept.get(label, [])]) > np.float32(TEST.nms_iou)).any():
            kept.setdefault(label, []).append(row)
            found.append((row, label))
            if len(found) == count:
                return found, looked_at
    return found, len(order)


def overlaps(box, boxes):
    boxes = boxes.reshape(-1, 4)
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    intersection = np.maximum(sides, 0).prod(1, dtype=np.float32)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return intersection / np.maximum(areas - intersection, np.float32(1e-6))


@jax.jit
def detect_jit(scores, deltas, proposals):
    valid, size = jnp.ones((1, PROPOSALS), bool), jnp.full((1, 2), float(SIDE))
    settings = FrozenConfigDict(TEST)
    return detect(scores[None], deltas[None], proposals[None], valid, size, STDS, settings)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["long tail", "after ranking"])
def test_the_recipes_number_of_candidates_gives_the_unlimited_detections(kind, seed):
    scores, deltas, proposals = lvis_like(kind, seed)
    passing = (scores > TEST.score_threshold).mean()
    assert (passing > 0.95) == (kind == "after ranking")
    found, looked_at = unlimited(scores, proposals, TEST.max_detections)
    assert TEST.max_detections < looked_at <= TEST.pre_nms
    boxes, best, labels = (np.asarray(array)[0] for array in detect_jit(scores, deltas, proposals))
    np.testing.assert_array_equal(labels, [label for _, label in found])
    np.testing.assert_array_equal(best, [scores[row, label] for row, label in found])
    np.testing.assert_allclose(boxes, proposals[[row for row, _ in found]], atol=1e-3)


def test_fewer_candidates_can_lose_detections():
    """The worst case: every class but one has all of its candidates on one object."""
    proposals, classes, most = 6, 5, 4
    scores = np.zeros((proposals, classes), np.float32)
    for label in range(classes):
        scores[:, label] = 0.9 - 0.1 * label - 0.01 * np.arange(proposals)
    boxes = np.tile(np.float32([[10, 10, 50, 50]]), (proposals, 1))
    enough = guaranteed_candidates(most, proposals, classes)
    assert enough == 3 * 6 + 1

    def labels(pre_nms):
        settings = FrozenConfigDict({**TEST, "pre_nms": pre_nms, "max_detections": most})
        arrays = scores[None], np.zeros((1, proposals, 1, 4), np.float32), boxes[None]
        valid, size = jnp.ones((1, proposals), bool), jnp.full((1, 2), 64.0)
        found = detect(*(jnp.asarray(array) for array in arrays), valid, size, STDS, settings)[2][0]
        return sorted(np.asarray(found).tolist())

    assert labels(enough) == [0, 1, 2, 3]
    assert labels(enough - 1) == [-1, 0, 1, 2]


def test_guaranteed_number_is_never_more_than_all():
    assert guaranteed_candidates(300, PROPOSALS, CLASSES) == 299_001
    assert guaranteed_candidates(300, PROPOSALS, 80) == 80_000
